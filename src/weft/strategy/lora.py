"""LoRA: a frozen weight plus a trained product of two thin matrices (arXiv:2106.09685).

Legend: I input width, O output width, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from weft.core.parts import AdapterState
from weft.core.seeds import fold
from weft.core.sites import SiteMap
from weft.core.view import ParamInfo, Site, SiteKind
from weft.errors import StrategyError
from weft.recipe.names import check_name
from weft.recipe.spec import Rule
from weft.strategy.base import Edits
from weft.strategy.lora_layer import LoraSite, initial, lora_site, update, widths


class LoraRule(Rule):
    """``{sites: "layers[4:10].attention", train: lora, rank: 8, lr: 2e-4}``."""

    sites: str = "linear"
    """Selector; default: every linear site but the output embedding, as attention alone learns less."""
    train: Literal["lora"] = "lora"  # pyright: ignore[reportIncompatibleVariableOverride]
    rank: int = Field(default=8, ge=1, le=4096)
    """Rank of the update."""
    alpha: float | None = Field(default=None, gt=0, le=1e6)
    """The update is scaled by alpha / rank; default: twice the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the update's input while training."""


class Lora:
    """Low-rank updates of linear weights.

    Where it sits and how fast it learns by default, every linear site at ten times the rate of full training,
    follow "LoRA Without Regret" (Thinking Machines, 2025); arXiv:2602.04998 finds that the rate matters most.
    """

    name: ClassVar[str] = "lora"
    rule: ClassVar[type[Rule]] = LoraRule
    edits: ClassVar[Edits] = Edits.WEIGHT
    lr: ClassVar[float] = 5e-4
    kinds: ClassVar[frozenset[SiteKind]] = frozenset({SiteKind.LINEAR, SiteKind.CONV1D})
    trains_site: ClassVar[bool] = False

    def params(self, site: Site, rule: Rule, adapter: str) -> tuple[ParamInfo, ...]:
        """Return A (R, I) and B (O, R) at ``site``."""
        return _params(site, _lora(rule).rank, adapter)

    def options(self, site: Site, rule: Rule) -> dict[str, Any]:
        """Return rank, alpha, dropout, and the kind of the site, which decides how the update is turned."""
        lora = _lora(rule)
        alpha = 2.0 * lora.rank if lora.alpha is None else lora.alpha
        return {"rank": lora.rank, "alpha": alpha, "dropout": lora.dropout, "kind": str(site.kind)}

    def install(self, sites: SiteMap, site: Site, rule: Rule, *, adapter: str, seed: int) -> None:
        """Put factors at ``site``: A drawn from (``seed``, adapter, path), B zero, so the function is unchanged."""
        a, b = self.params(site, rule, adapter)
        A_RI = initial((a.shape[0], a.shape[1]), seed=fold(seed, "lora", adapter, site.path))
        _place(sites, site, adapter, self.options(site, rule), (A_RI, torch.zeros(b.shape)))

    def extract(self, sites: SiteMap, adapter: str) -> AdapterState | None:
        """Return copies, where they are, of the factors called ``adapter``."""
        options: dict[str, dict[str, Any]] = {}
        tensors: dict[str, Tensor] = {}
        for site in sites.view.sites:
            module = sites.module(site.path)
            if isinstance(module, LoraSite) and adapter in module.lora_options:
                options[site.path] = dict(module.lora_options[adapter])
                pair = (module.lora_A[adapter], module.lora_B[adapter])
                for path, tensor in zip(_paths(site.path, adapter), pair, strict=True):
                    tensors[path] = tensor.detach().clone()
        return AdapterState(adapter, self.name, {"sites": options}, tensors) if options else None

    def restore(self, sites: SiteMap, state: AdapterState) -> None:
        """Install a saved adapter; everything is checked before anything is changed.

        Raises:
            StrategyError: a site is missing or of another kind, or a tensor is missing, too many or misshapen.
        """
        name = check_name(state.name)
        options: Mapping[str, dict[str, Any]] = state.config["sites"]
        known = {site.path: site for site in sites.view.sites}
        expected: dict[str, tuple[int, ...]] = {}
        for path, at_site in options.items():
            if path not in known or known[path].kind not in self.kinds:
                what = known[path].kind if path in known else "no site of this model"
                raise StrategyError(
                    f"adapter {name}: {path} must be a linear site, but is {what}. Use its own base model."
                )
            if at_site["kind"] != known[path].kind:
                raise StrategyError(
                    f"adapter {name}: {path} must be {at_site['kind']}, but is {known[path].kind}."
                )
            expected |= {info.path: info.shape for info in _params(known[path], at_site["rank"], name)}
        actual = {path: tuple(tensor.shape) for path, tensor in state.tensors.items()}
        if actual != expected:
            wrong = sorted(p for p in actual.keys() | expected.keys() if actual.get(p) != expected.get(p))[0]
            raise StrategyError(
                f"adapter {name}: {wrong} must have shape {expected.get(wrong, 'none')}, "
                f"but has {actual.get(wrong, 'none')}. Use the base model that it was trained on."
            )
        for path, at_site in options.items():
            a, b = _paths(path, name)
            _place(sites, known[path], name, dict(at_site), (state.tensors[a], state.tensors[b]))

    def joined(self, states: Sequence[AdapterState], *, name: str) -> AdapterState:
        """Return one adapter with the updates of ``states`` side by side: the ranks add up, each scale goes into B.

        A single one only changes its name. Dropout, which acts while training, must be the same in all.

        Raises:
            StrategyError: two of ``states`` have different dropout at one site.
        """
        options: dict[str, dict[str, Any]] = {}
        tensors: dict[str, Tensor] = {}
        for site in dict.fromkeys(site for state in states for site in state.config["sites"]):
            here = [state for state in states if site in state.config["sites"]]
            found = [state.config["sites"][site] for state in here]
            if any(one["dropout"] != found[0]["dropout"] for one in found):
                raise StrategyError(f"{site}: adapters must have one dropout to be joined, but have several.")
            pairs = [[state.tensors[path] for path in _paths(site, state.name)] for state in here]
            a, b = _paths(site, name)
            if len(here) == 1:
                options[site], (tensors[a], tensors[b]) = dict(found[0]), pairs[0]
                continue
            rank = sum(one["rank"] for one in found)
            options[site] = {**found[0], "rank": rank, "alpha": float(rank)}
            tensors[a] = torch.cat([A_RI for A_RI, _ in pairs])
            scales = [one["alpha"] / one["rank"] for one in found]
            tensors[b] = torch.cat([B_OR * scale for (_, B_OR), scale in zip(pairs, scales, strict=True)], 1)
        return AdapterState(name, self.name, {"sites": options}, tensors)

    def merged(self, weights: Mapping[str, Tensor], state: AdapterState) -> dict[str, Tensor]:
        """Return ``W + scale * B A`` for each site of ``state``: computed in fp32, in the dtype of W.

        Raises:
            StrategyError: ``weights`` lacks one that the adapter acts on, or it has another shape.
        """
        merged: dict[str, Tensor] = {}
        for site, options in state.config["sites"].items():
            path = f"{site}.weight"
            if path not in weights:
                raise StrategyError(f"{path}: must be given to merge adapter {state.name} into, but is not.")
            A_RI, B_OR = (state.tensors[name].to(weights[path].device) for name in _paths(site, state.name))
            scale = options["alpha"] / options["rank"]
            delta = update(A_RI, B_OR, scale=scale, kind=SiteKind(options["kind"]))
            if delta.shape != weights[path].shape:
                raise StrategyError(
                    f"{path}: must have the shape {tuple(delta.shape)} of adapter {state.name}'s update, "
                    f"but has {tuple(weights[path].shape)}."
                )
            merged[path] = (weights[path].detach().float() + delta).to(weights[path].dtype)
        return merged


def _lora(rule: Rule) -> LoraRule:
    assert isinstance(rule, LoraRule)
    return rule


def _paths(site: str, adapter: str) -> tuple[str, str]:
    return f"{site}.lora_A.{adapter}", f"{site}.lora_B.{adapter}"


def _params(site: Site, rank: int, adapter: str) -> tuple[ParamInfo, ...]:
    weight = next(info for info in site.params if info.path == f"{site.path}.weight")
    width_in, width_out = widths(weight.shape, site.kind)
    a, b = _paths(site.path, adapter)
    return ParamInfo(a, (rank, width_in)), ParamInfo(b, (width_out, rank))


def _place(
    sites: SiteMap, site: Site, adapter: str, options: dict[str, Any], factors: tuple[Tensor, Tensor]
) -> None:
    module = lora_site(sites.module(site.path))
    if adapter in module.lora_options:
        raise StrategyError(
            f"{site.path}: must have each adapter once, but has {adapter!r} already. Rename one."
        )
    module.add(adapter, options, *factors)
    sites.replace(site.path, module)
