"""(IA)3: learnt factors on keys, values and the inner states of the feed-forward block (arXiv:2205.05638).

Legend: I input width, O output width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from weft.core.parts import AdapterState
from weft.core.view import Site, SiteKind
from weft.recipe.spec import Rule
from weft.strategy.base import AdapterRule, Edits
from weft.strategy.edit import Edit, Factors, at
from weft.strategy.site_method import AtSite, SiteMethod, given, renamed, widths_of

INPUT, OUTPUT = "input", "output"


class Ia3Rule(AdapterRule):
    """``{train: ia3}``."""

    sites: str = "kv, ffn.down"
    """Selector; default: keys, values, and what enters the last product of the feed-forward block."""
    train: Literal["ia3"] = "ia3"  # pyright: ignore[reportIncompatibleVariableOverride]


class Ia3Site(Edit):
    """In front of a linear class: a factor on each of its outputs, or on each of its inputs."""

    key = "ia3"
    place = 2
    tables = ("ia3_l",)
    ia3_l: Factors
    ia3_options: dict[str, dict[str, Any]]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (..., O) for ``inputs`` (..., I)."""
        acting = list(self.acting(Ia3Site, inputs.shape[:-1]))
        inputs = self._scaled(inputs, acting, INPUT)
        return self._scaled(super().forward(inputs), acting, OUTPUT)

    def _scaled(self, values: Tensor, acting: list[tuple[str, Tensor | None]], side: str) -> Tensor:
        for name, positions_N in acting:
            if self.ia3_options[name]["side"] != side:
                continue
            factor = self.ia3_l[name]
            if positions_N is None:
                values = values * factor
            else:
                scaled = at(values, positions_N) * factor
                values = values.flatten(0, -2).index_copy(0, positions_N, scaled).view(values.shape)
        return values


class Ia3At(AtSite):
    """Options of a site."""

    side: Literal["input", "output"]


def _ones(shape: tuple[int, ...], /, *, seed: int) -> Tensor:  # noqa: ARG001
    return torch.ones(shape)


class Ia3(SiteMethod):
    """Factors that start at one. The rate is that at which PEFT's own comparison finds it to learn."""

    name = "ia3"
    rule = Ia3Rule
    edits = Edits.WEIGHT
    lr = 5e-3
    advice = (
        "few values, which PEFT's own comparison learns with at this rate and hardly at lower "
        "ones (method_comparison/MetaMathQA)"
    )
    module = Ia3Site
    starts = MappingProxyType({"ia3_l": _ones})
    source = "arXiv:2205.05638"
    at_site = Ia3At

    def options(self, site: Site, rule: Rule) -> dict[str, Any]:  # noqa: ARG002
        """Return which side of the product is scaled, and the kind of the site."""
        return {"side": INPUT if site.path.endswith("ffn.down") else OUTPUT, "kind": str(site.kind)}

    def shapes(self, site: Site, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return the factors, (O,) or (I,)."""
        width_in, width_out = widths_of(site)
        return {"ia3_l": (width_in if options["side"] == INPUT else width_out,)}

    def joined(self, states: Sequence[AdapterState], *, name: str) -> AdapterState:
        """Return one adapter called ``name`` whose factors are the products of those of ``states``."""
        sites: dict[str, dict[str, Any]] = {}
        tensors: dict[str, Tensor] = {}
        for state in states:
            sites |= state.config["sites"]
            for path, factor in renamed(state, name).tensors.items():
                tensors[path] = tensors[path] * factor if path in tensors else factor
        return AdapterState(name, self.name, {"sites": sites}, tensors)

    def merged(self, weights: Mapping[str, Tensor], state: AdapterState) -> dict[str, Tensor]:
        """Return the scaled weight of each site and, where outputs are scaled, its bias: in fp32, in their dtype.

        Raises:
            StrategyError: ``weights`` lacks one that the adapter acts on.
        """
        merged: dict[str, Tensor] = {}
        for site, options in state.config["sites"].items():
            weight = given(weights, f"{site}.weight", state.name)
            factor = state.tensors[f"{site}.ia3_l.{state.name}"].to(weight.device).float()
            is_by_row = (options["side"] == OUTPUT) == (options["kind"] == SiteKind.LINEAR)
            turned = factor[:, None] if is_by_row else factor
            merged[f"{site}.weight"] = (weight.detach().float() * turned).to(weight.dtype)
            bias = weights.get(f"{site}.bias")
            if bias is not None and options["side"] == OUTPUT:
                merged[f"{site}.bias"] = (bias.detach().float() * factor).to(bias.dtype)
        return merged
