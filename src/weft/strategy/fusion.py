"""AdapterFusion: what several trained adapters add at a site, weighed at each token by an attention that is learnt.

Legend: A adapters, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from weft.core.sites import SiteMap
from weft.core.view import ModelView, Site
from weft.errors import StrategyError
from weft.recipe.names import Name
from weft.recipe.spec import Rule
from weft.strategy.base import AdapterRule, Below, Edits
from weft.strategy.bottleneck import TAPPED, Bottleneck, BottleneckSite
from weft.strategy.choosing import exactly
from weft.strategy.edit import Edit, Factors, at, options_at, plus
from weft.strategy.row_gate import is_by_row, little
from weft.strategy.selector import select_sites
from weft.strategy.site_method import AtSite, SiteMethod, widths_of


class FusionRule(AdapterRule):
    """``{train: fusion}`` in a stage that carries two or more bottleneck adapters (``carry: {trunk: stack}``)."""

    sites: str = "all"
    """Selector; of what it names, the sites at which adapters are that can be fused."""
    train: Literal["fusion"] = "fusion"  # pyright: ignore[reportIncompatibleVariableOverride]


class _BoundRule(FusionRule):
    """The rule as it is in a stage: with the adapters to be fused, by site."""

    adapters: dict[str, tuple[Name, ...]]


class FusionSite(Edit):
    """Further out than the adapters that it takes: its output plus the attention's mean of what they would add."""

    key = "fusion"
    place = BottleneckSite.place + 1
    tables = ("fusion_query", "fusion_key", "fusion_value")
    fusion_query: Factors
    fusion_key: Factors
    fusion_value: Factors
    fusion_options: dict[str, dict[str, Any]]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (..., D)."""
        outputs = super().forward(inputs)
        for name, positions_N in self.acting(FusionSite, outputs.shape[:-1]):
            outputs = plus(outputs, self._fused(at(outputs, positions_N), name), positions_N)
        return outputs

    def _fused(self, outputs: Tensor, name: str) -> Tensor:
        """Return ``sum_a softmax_a(h Q (K d_a)) V d_a``; products with D x D matrices are taken of h and the mean only."""
        site = cast(BottleneckSite, self)
        adapters = self.fusion_options[name]["adapters"]
        added_AD = torch.stack(
            [site.added(outputs, one, site.bottleneck_options[one]) for one in adapters], -2
        )
        asked_D = F.linear(outputs, self.fusion_query[name]) @ self.fusion_key[name]
        scores_A = (added_AD * asked_D.unsqueeze(-2)).sum(-1)
        shares_A = torch.softmax(scores_A.float(), -1).to(added_AD.dtype)
        return F.linear((shares_A.unsqueeze(-1) * added_AD).sum(-2), self.fusion_value[name])


class FusionAt(AtSite):
    """Options of a site."""

    adapters: Annotated[list[Name], Field(min_length=2)]


def _identity(shape: tuple[int, ...], /, *, seed: int) -> Tensor:  # noqa: ARG001
    return torch.eye(shape[0])


class Fusion(SiteMethod):
    """Query from the site's output, keys and values from what each adapter adds to it, one head, no bias.

    Values start as the identity, queries and keys small, as the authors have it: at first it is nearly the mean of all
    adapters, so entering a stage with it changes the function. Adapters stay as they are; rows of all tasks use all.
    """

    name = "fusion"
    rule = FusionRule
    edits = Edits.OUTPUT
    lr = 5e-5
    moves_matrices = True
    advice = "its authors' (arXiv:2005.00247)"
    module = FusionSite
    starts = MappingProxyType({"fusion_query": little, "fusion_key": little, "fusion_value": _identity})
    source = "arXiv:2005.00247"
    at_site = FusionAt

    def bound(
        self,
        rule: Rule,
        *,
        tasks: Sequence[str],  # noqa: ARG002
        view: ModelView,
        below: Sequence[Below],
    ) -> Rule:
        """Return ``rule`` with the adapters that it fuses, and with just the sites at which there are two or more.

        Raises:
            StrategyError: nowhere are there two.
        """
        assert isinstance(rule, FusionRule)
        taken = {
            name
            for one in below
            if one.method == self.name
            for at in one.options.values()
            for name in at["adapters"]
        }
        free = [one for one in below if one.method == Bottleneck.name and one.name not in taken]
        found = {
            path: tuple(one.name for one in free if _is_behind(one.options.get(path)))
            for path in select_sites(view, rule.sites)
        }
        adapters = {path: names for path, names in found.items() if len(names) > 1}
        if not adapters:
            raise StrategyError(
                f"{rule.sites} -> fusion: there must be two trained bottleneck adapters behind a block, but nowhere are. "
                f"Let the stage's parents bring them (combine: union), and carry the trunk with stack."
            )
        sites = " + ".join(exactly(view, path) for path in adapters)
        return _BoundRule.model_validate({**rule.model_dump(), "sites": sites, "adapters": adapters})

    def keeps_function(self, rule: Rule) -> bool:  # noqa: ARG002
        """Return that it does not: what acted one after the other becomes a mean."""
        return False

    def options(self, site: Site, rule: Rule) -> dict[str, Any]:
        """Return which adapters are fused at ``site``, and its kind."""
        assert isinstance(rule, _BoundRule)
        return {"adapters": list(rule.adapters[site.path]), "kind": str(site.kind)}

    def shapes(self, site: Site, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        """Return query, key and value (D, D)."""
        width = widths_of(site)[1]
        return dict.fromkeys(FusionSite.tables, (width, width))

    def place(
        self,
        sites: SiteMap,
        site: Site,
        adapter: str,
        options: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Put the fusion at ``site`` and take the adapters that it fuses.

        Raises:
            StrategyError: one of them is not there.
        """
        known = options_at(sites.module(site.path), BottleneckSite)
        missing = [name for name in options["adapters"] if name not in known]
        if missing:
            raise StrategyError(
                f"{site.path}: adapter {missing[0]} must be there to be fused by {adapter}, but is not. Restore it first."
            )
        super().place(sites, site, adapter, options, tensors)
        module = sites.module(site.path)
        vars(module)["taken"] = cast(Edit, module).taken | frozenset(options["adapters"])


def _is_behind(options: Mapping[str, Any] | None) -> bool:
    """Return whether there is an adapter, and one that follows from the site's output at each token by itself."""
    return options is not None and options["form"] not in TAPPED and not is_by_row(options)
