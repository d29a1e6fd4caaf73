"""LoRA: a frozen weight plus a trained product of two thin matrices (arXiv:2106.09685).

Legend: I input width, O output width, R rank, V vocabulary, D width of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from weft.core.parts import AdapterState
from weft.core.sites import SiteMap
from weft.core.view import Site, SiteKind
from weft.errors import StrategyError
from weft.recipe.spec import Rule
from weft.strategy.base import AdapterRule, Edits
from weft.strategy.edit import Edit
from weft.strategy.lora_layer import STARTS, LoraEmbedding, LoraSite, initial, scale, update
from weft.strategy.site_method import AtSite, SiteMethod, given, renamed, weight_of, widths, widths_of


class LoraInit(StrEnum):
    """What a LoRA starts from."""

    RANDOM = "random"  # A random, B zero
    PISSA = (
        "pissa"  # the weight's largest singular values, which the frozen weight gives up (arXiv:2404.02948)
    )


class LoraRule(AdapterRule):
    """``{sites: "layers[4:10].attention", train: lora, rank: 8, lr: 2e-4}``."""

    sites: str = "linear"
    """Selector; default: every linear site but the output embedding, as attention alone learns less."""
    train: Literal["lora"] = "lora"  # pyright: ignore[reportIncompatibleVariableOverride]
    rank: int = Field(default=8, ge=1, le=4096)
    """Rank of the update."""
    alpha: float | None = Field(default=None, gt=0, le=1e6)
    """The update is scaled by alpha / rank; default: twice the rank."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank), so that a large rank does not slow learning (arXiv:2312.03732)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the update's input while training."""
    lr_ratio: float = Field(default=1.0, ge=1, le=1000)
    """B's rate over A's; 16 is LoRA+ (arXiv:2402.12354). A named ``lr`` is A's; else LoRA's is their geometric mean."""
    init: LoraInit = LoraInit.RANDOM
    """random, or pissa: start from the weight's largest singular values."""

    @model_validator(mode="after")
    def _one_adapter_takes_them(self) -> Self:
        if self.init is LoraInit.PISSA and self.per_task:
            raise PydanticCustomError(
                "pissa",
                "must have init: random where each task has its own adapter, but has pissa: a weight has its values once. "
                "Leave out init or per_task.",
            )
        return self


class LoraAt(AtSite):
    """Options of a site."""

    rank: Annotated[int, Field(ge=1)]
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    rslora: Literal[True] | None = None


def low_rank_options(site: Site, rule: LoraRule) -> dict[str, Any]:
    """Return the options of ``rule`` at ``site``, as ``LoraAt`` has them."""
    alpha = 2.0 * rule.rank if rule.alpha is None else rule.alpha
    found = {"rank": rule.rank, "alpha": alpha, "dropout": rule.dropout, "kind": str(site.kind)}
    return {**found, **({"rslora": True} if rule.rslora else {})}


def _normal(shape: tuple[int, ...], /, *, seed: int) -> Tensor:
    """Return what B of an embedding starts from, where rows of A, which are zero, are looked up."""
    return torch.empty(shape).normal_(generator=torch.Generator().manual_seed(seed))


class Lora(SiteMethod):
    """Low-rank updates of linear weights and of embeddings.

    Where it sits and how fast it learns by default, every linear site at ten times the rate of full training,
    follow "LoRA Without Regret" (Thinking Machines, 2025); arXiv:2602.04998 finds that the rate matters most.
    """

    name = "lora"
    rule = LoraRule
    edits = Edits.WEIGHT
    lr = 5e-4
    moves_matrices = True
    advice = (
        "every linear layer, ten times full training's rate (LoRA Without Regret, Thinking "
        "Machines 2025; arXiv:2405.09673)"
    )
    kinds = frozenset({*SiteMethod.kinds, SiteKind.EMBEDDING})
    starts = MappingProxyType({"lora_A": initial, "lora_embedding_B": _normal})
    source = "arXiv:2106.09685"
    at_site = LoraAt

    def edit(self, kind: SiteKind) -> type[Edit]:
        """Return the class for linear modules, or that for embeddings."""
        return LoraEmbedding if kind is SiteKind.EMBEDDING else LoraSite

    def options(self, site: Site, rule: Rule) -> dict[str, Any]:
        """Return rank, alpha, dropout, and the kind of the site, which decides how the update is turned."""
        assert isinstance(rule, LoraRule)
        return low_rank_options(site, rule)

    def shapes(self, site: Site, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return A (R, I) and B (O, R); of an embedding (R, V) and (D, R)."""
        rank = options["rank"]
        if site.kind is SiteKind.EMBEDDING:
            vocabulary, width = weight_of(site).shape
            return {"lora_embedding_A": (rank, vocabulary), "lora_embedding_B": (width, rank)}
        width_in, width_out = widths_of(site)
        return {"lora_A": (rank, width_in), "lora_B": (width_out, rank)}

    def usual(self, rule: Rule) -> float:
        """Return the rate of A such that the geometric mean of both factors' is the default: their product moves as before."""
        assert isinstance(rule, LoraRule)
        return self.lr / math.sqrt(rule.lr_ratio)

    def rate(self, rule: Rule, table: str) -> float:
        """Return LoRA+'s ratio for B."""
        assert isinstance(rule, LoraRule)
        return rule.lr_ratio if table in ("lora_B", "lora_embedding_A") else 1.0

    def install(self, sites: SiteMap, site: Site, rule: Rule, *, adapter: str, seed: int) -> None:
        """Put factors at ``site`` such that the function is unchanged."""
        assert isinstance(rule, LoraRule)
        if rule.init is LoraInit.RANDOM:
            super().install(sites, site, rule, adapter=adapter, seed=seed)
            return
        if site.kind is SiteKind.EMBEDDING:
            raise StrategyError(
                f"{site.path}: pissa needs a linear site, but this is an embedding. Use init: random."
            )
        if any(info.is_fixed for info in site.params):
            raise StrategyError(
                f"{site.path}: pissa needs a weight that can give something up, but this one is kept in few bits "
                f"(model.quantize). Use init: random."
            )
        options = self.options(site, rule)
        weight = cast(Tensor, sites.module(site.path).weight)
        A_RI, B_OR = _principal(weight, options, kind=site.kind)
        self.place(sites, site, adapter, options, {"lora_A": A_RI, "lora_B": B_OR})
        if not weight.is_meta:
            with torch.no_grad():
                weight -= update(A_RI, B_OR, scale=scale(options), kind=site.kind).to(weight)
        vars(sites.module(site.path)).setdefault(STARTS, {})[adapter] = (A_RI, B_OR)

    def extract(self, sites: SiteMap, adapter: str) -> AdapterState | None:
        """Return copies of the factors; what the weight gave up to them is taken off, at twice the rank.

        So an adapter always belongs to the weights that the model had before, as with PEFT's conversion.
        """
        state = super().extract(sites, adapter)
        if state is None:
            return None
        options, tensors = dict(state.config["sites"]), dict(state.tensors)
        for path, at_site in state.config["sites"].items():
            starts: Mapping[str, tuple[Tensor, Tensor]] = vars(sites.module(path)).get(STARTS, {})
            if adapter not in starts:
                continue
            a, b = f"{path}.lora_A.{adapter}", f"{path}.lora_B.{adapter}"
            A_RI, B_OR = (tensor.to(tensors[a].device) for tensor in starts[adapter])
            tensors[a] = torch.cat([tensors[a], A_RI])
            tensors[b] = torch.cat([tensors[b], -B_OR], 1)
            wider = {**at_site, "rank": 2 * at_site["rank"]}
            options[path] = {**wider, "alpha": at_site["alpha"] * scale(at_site) / scale(wider)}
        return AdapterState(state.name, state.method, {"sites": options}, tensors)

    def joined(self, states: Sequence[AdapterState], *, name: str) -> AdapterState:
        """Return one adapter with the updates of ``states`` side by side: the ranks add up, each scale goes into B.

        A single one only changes its name. Dropout, which acts while training, must be the same in all.

        Raises:
            StrategyError: two of ``states`` have different dropout at one site.
        """
        options: dict[str, dict[str, Any]] = {}
        tensors: dict[str, Tensor] = {}
        own = [renamed(state, name) for state in states]
        for site in dict.fromkeys(site for state in own for site in state.config["sites"]):
            here = [state for state in own if site in state.config["sites"]]
            found = [state.config["sites"][site] for state in here]
            if any(one["dropout"] != found[0]["dropout"] for one in found):
                raise StrategyError(f"{site}: adapters must have one dropout to be joined, but have several.")
            a, b = _names(site, found[0], name)
            pairs = [(state.tensors[a], state.tensors[b]) for state in here]
            if len(here) == 1:
                options[site], (tensors[a], tensors[b]) = dict(found[0]), pairs[0]
                continue
            rank = sum(one["rank"] for one in found)
            options[site] = {**found[0], "rank": rank, "alpha": float(rank)}
            options[site].pop("rslora", None)
            tensors[a] = torch.cat([A_RI for A_RI, _ in pairs])
            scaled = [B_OR * scale(one) for (_, B_OR), one in zip(pairs, found, strict=True)]
            tensors[b] = torch.cat(scaled, 1)
        return AdapterState(name, self.name, {"sites": options}, tensors)

    def merged(self, weights: Mapping[str, Tensor], state: AdapterState) -> dict[str, Tensor]:
        """Return ``W + scale * B A`` for each site of ``state``: computed in fp32, in the dtype of W.

        Raises:
            StrategyError: ``weights`` lacks one that the adapter acts on, or it has another shape.
        """
        merged: dict[str, Tensor] = {}
        for site, options in state.config["sites"].items():
            path = f"{site}.weight"
            weight = given(weights, path, state.name)
            A_RI, B_OR = (state.tensors[name].to(weight.device) for name in _names(site, options, state.name))
            delta = update(A_RI, B_OR, scale=scale(options), kind=SiteKind(options["kind"]))
            if delta.shape != weight.shape:
                raise StrategyError(
                    f"{path}: must have the shape {tuple(delta.shape)} of adapter {state.name}'s update, "
                    f"but has {tuple(weight.shape)}."
                )
            merged[path] = (weight.detach().float() + delta).to(weight.dtype)
        return merged


def _names(site: str, options: Mapping[str, Any], adapter: str) -> tuple[str, str]:
    """Return the paths of both factors."""
    word = "lora_embedding" if options["kind"] == SiteKind.EMBEDDING else "lora"
    return f"{site}.{word}_A.{adapter}", f"{site}.{word}_B.{adapter}"


def _principal(weight: Tensor, options: Mapping[str, Any], *, kind: SiteKind) -> tuple[Tensor, Tensor]:
    """Return factors whose scaled product is the best approximation of ``weight`` of their rank, fp32.

    Source: arXiv:2404.02948, equations 2 and 3.
    """
    rank = options["rank"]
    width_in, width_out = widths(weight.shape, kind)
    if rank > min(width_in, width_out):
        raise StrategyError(
            f"rank: must be at most {min(width_in, width_out)} to start from singular values, but is {rank}."
        )
    if weight.is_meta:
        return torch.zeros(rank, width_in), torch.zeros(width_out, rank)
    W_OI = weight.detach().float()
    U_OK, S_K, V_KI = torch.linalg.svd(W_OI.T if kind is SiteKind.CONV1D else W_OI, full_matrices=False)
    root_R = (S_K[:rank] / scale(options)).sqrt()
    return root_R[:, None] * V_KI[:rank], U_OK[:, :rank] * root_R
