"""DoRA: direction and magnitude of each output's weights apart, the direction moved by a LoRA (arXiv:2402.09353).

Legend: I input width, O output width, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import field_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from weft.core import linear
from weft.core.parts import AdapterState
from weft.core.sites import SiteMap
from weft.core.view import Site, SiteKind
from weft.recipe.spec import Rule
from weft.strategy.base import Edits
from weft.strategy.edit import Edit, Factors
from weft.strategy.lora import LoraAt, LoraInit, LoraRule, low_rank_options
from weft.strategy.lora_layer import initial, scale, update
from weft.strategy.site_method import SiteMethod, given, side_by_side, widths_of

SQUARES = "dora_squares"  # attribute: squared norms of the weight's rows, by adapter


class DoraRule(LoraRule):
    """``{sites: linear, train: dora, rank: 8}``."""

    train: Literal["dora"] = "dora"  # pyright: ignore[reportIncompatibleVariableOverride]
    init: Literal[LoraInit.RANDOM] = LoraInit.RANDOM  # pyright: ignore[reportIncompatibleVariableOverride]
    """The weight's norms are those of the pretrained one."""

    @field_validator("per_task")
    @classmethod
    def _rows_share_the_weight(cls, value: bool) -> bool:  # noqa: FBT001
        if value:
            raise PydanticCustomError(
                "per_task", "must be false, as all rows of a batch share the scaled weight"
            )
        return value


class DoraSite(Edit):
    """In front of a linear class: its weight plus a low-rank update, each output's row brought to a trained length.

    The weight itself is never read: its rows' norms are known, and what they become under the update follows from one
    thin product, so that a weight laid out for the machine stays where it is.
    """

    key = "dora"
    place = 1
    tables = ("dora_A", "dora_B", "dora_magnitude")
    dora_A: Factors
    dora_B: Factors
    dora_magnitude: Factors
    dora_options: dict[str, dict[str, Any]]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (..., O) for ``inputs`` (..., I)."""
        outputs = super().forward(inputs)
        for name, options in self.dora_options.items():  # at most one
            A_RI, B_OR = self.dora_A[name], self.dora_B[name]
            hidden = F.dropout(inputs, options["dropout"], self.training) if options["dropout"] else inputs
            added = F.linear(F.linear(hidden, A_RI) * scale(options), B_OR)
            with torch.no_grad():  # the norm counts as a constant (section 4.3 of the paper)
                norm_O = self._norm_O(name, A_RI, B_OR, scale(options))
            gain_O = (self.dora_magnitude[name].float() / norm_O).to(outputs.dtype)
            bias = linear.values(self)[1]
            plain = outputs if bias is None else outputs - bias
            outputs = outputs + (gain_O - 1.0) * plain + gain_O * added
        return outputs

    def _norm_O(self, name: str, A_RI: Tensor, B_OR: Tensor, factor: float) -> Tensor:
        """Return the norms of the rows of ``W + factor * B A``, fp32."""
        square_O = cast(Tensor, vars(self)[SQUARES][name])
        WA_OR = linear.product(self, A_RI).float().t()
        down_RI, up_OR = A_RI.float(), B_OR.float()
        cross_O = (WA_OR * up_OR).sum(1)
        own_O = ((up_OR @ (down_RI @ down_RI.t())) * up_OR).sum(1)
        return (square_O + 2.0 * factor * cross_O + factor**2 * own_O).clamp_min(0.0).sqrt()


class Dora(SiteMethod):
    """Weight-decomposed LoRA; one at a site, as what it scales is the whole weight."""

    name = "dora"
    rule = DoraRule
    edits = Edits.WEIGHT
    lr = 5e-4
    moves_matrices = True
    advice = "LoRA's, whose places and rate it shares (arXiv:2402.09353)"
    module = DoraSite
    starts = MappingProxyType({"dora_A": initial})
    is_alone = True
    routes = False
    source = "arXiv:2402.09353"
    at_site = LoraAt

    def options(self, site: Site, rule: Rule) -> dict[str, Any]:
        """Return rank, alpha, dropout, and the kind of the site."""
        assert isinstance(rule, DoraRule)
        return low_rank_options(site, rule)

    def shapes(self, site: Site, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return A (R, I), B (O, R) and the magnitude (O,)."""
        rank, (width_in, width_out) = options["rank"], widths_of(site)
        return {"dora_A": (rank, width_in), "dora_B": (width_out, rank), "dora_magnitude": (width_out,)}

    def start(
        self, sites: SiteMap, site: Site, options: Mapping[str, Any], *, seed: int
    ) -> dict[str, Tensor]:
        """Return A drawn from ``seed``, B zero, and the norms of the weight's rows."""
        drawn = super().start(sites, site, options, seed=seed)
        return {**drawn, "dora_magnitude": _squares_O(sites, site).sqrt()}

    def usual(self, rule: Rule) -> float:
        """Return the rate of A, as LoRA's: the geometric mean of both factors' is the default."""
        assert isinstance(rule, DoraRule)
        return self.lr / math.sqrt(rule.lr_ratio)

    def rate(self, rule: Rule, table: str) -> float:
        """Return LoRA+'s ratio for B."""
        assert isinstance(rule, DoraRule)
        return rule.lr_ratio if table == "dora_B" else 1.0

    def place(
        self,
        sites: SiteMap,
        site: Site,
        adapter: str,
        options: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Put the adapter at ``site``, and note the norms of the weight that it is for."""
        squares_O = _squares_O(sites, site)
        super().place(sites, site, adapter, options, tensors)
        vars(sites.module(site.path)).setdefault(SQUARES, {})[adapter] = squares_O

    def joined(self, states: Sequence[AdapterState], *, name: str) -> AdapterState:
        """Return one adapter called ``name`` that stands wherever one of ``states`` does: never two at one site."""
        return side_by_side(states, name=name)

    def merged(self, weights: Mapping[str, Tensor], state: AdapterState) -> dict[str, Tensor]:
        """Return ``m (W + s B A) / |W + s B A|`` for each site of ``state``: in fp32, in the dtype of W.

        Raises:
            StrategyError: ``weights`` lacks one that the adapter acts on.
        """
        merged: dict[str, Tensor] = {}
        for site, options in state.config["sites"].items():
            path, kind = f"{site}.weight", SiteKind(options["kind"])
            weight = given(weights, path, state.name)
            A_RI, B_OR, magnitude_O = (
                state.tensors[f"{site}.{table}.{state.name}"].to(weight.device) for table in DoraSite.tables
            )
            moved = weight.detach().float() + update(A_RI, B_OR, scale=scale(options), kind=kind)
            along = 0 if kind is SiteKind.CONV1D else 1
            gain = magnitude_O.float() / moved.norm(dim=along)
            merged[path] = (moved * (gain if kind is SiteKind.CONV1D else gain[:, None])).to(weight.dtype)
        return merged


def _squares_O(sites: SiteMap, site: Site) -> Tensor:
    """Return the squared norms of the rows of the weight at ``site``, fp32."""
    weight = linear.dense(sites.module(site.path)).detach().float()
    return weight.square().sum(0 if site.kind is SiteKind.CONV1D else 1)
