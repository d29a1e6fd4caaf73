"""A LoRA behind a gate: each row decides how strongly it acts (UniPELT, arXiv:2110.07577).

Legend: I input width, O output width, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from weft.core.view import ModelView, Site
from weft.recipe.spec import Rule
from weft.strategy.base import AdapterRule, Edits
from weft.strategy.edit import Edit, Factors, at, plus
from weft.strategy.lora_layer import initial
from weft.strategy.row_gate import check_rows, gate_at_tokens, little
from weft.strategy.site_method import AtSite, SiteMethod, widths_of


class GatedLoraRule(AdapterRule):
    """``{train: gated-lora, rank: 8}``."""

    sites: str = "qv"
    """Selector; default: queries and values, where its authors put it."""
    train: Literal["gated-lora"] = "gated-lora"  # pyright: ignore[reportIncompatibleVariableOverride]
    rank: int = Field(default=8, ge=1, le=4096)
    """Rank of the update; the gate takes the place of alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the update's input while training."""


class GatedLoraSite(Edit):
    """In front of a linear class: its output plus ``g B A x``, of which g is one number a row."""

    key = "gated"
    place = 3
    tables = ("gated_A", "gated_B", "gated_gate", "gated_gate_bias")
    gated_A: Factors
    gated_B: Factors
    gated_gate: Factors
    gated_gate_bias: Factors
    gated_options: dict[str, dict[str, Any]]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (..., O) for ``inputs`` (..., I)."""
        outputs = super().forward(inputs)
        for name, positions_N in self.acting(GatedLoraSite, inputs.shape[:-1]):
            gate = gate_at_tokens(inputs, self.gated_gate[name], self.gated_gate_bias[name], self.routing)
            dropout = self.gated_options[name]["dropout"]
            hidden = F.dropout(inputs, dropout, self.training) if dropout else inputs
            narrow = F.linear(at(hidden, positions_N), self.gated_A[name]) * at(gate, positions_N)
            outputs = plus(outputs, F.linear(narrow, self.gated_B[name]), positions_N)
        return outputs


class GatedLoraAt(AtSite):
    """Options of a site."""

    rank: Annotated[int, Field(ge=1)]
    dropout: Annotated[float, Field(ge=0, lt=1)]


class GatedLora(SiteMethod):
    """A low-rank update that each row weighs; so it is no edit of the weight and folds into none."""

    name = "gated-lora"
    rule = GatedLoraRule
    edits = Edits.OUTPUT
    lr = 5e-4
    moves_matrices = True
    advice = "its authors' for all parts of UniPELT (arXiv:2110.07577, appendix)"
    module = GatedLoraSite
    starts = MappingProxyType({"gated_A": initial, "gated_gate": little})
    source = "arXiv:2110.07577"
    at_site = GatedLoraAt

    def sees_rows(self, options: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """Return that it does."""
        return True

    def check(self, view: ModelView, sites: Sequence[Site], rule: Rule) -> None:  # noqa: ARG002
        """Refuse decoders."""
        check_rows(view, sites)

    def options(self, site: Site, rule: Rule) -> dict[str, Any]:
        """Return rank, dropout, and the kind of the site."""
        assert isinstance(rule, GatedLoraRule)
        return {"rank": rule.rank, "dropout": rule.dropout, "kind": str(site.kind)}

    def shapes(self, site: Site, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return A (R, I), B (O, R), and the gate (1, I) with its bias."""
        rank, (width_in, width_out) = options["rank"], widths_of(site)
        shapes = ((rank, width_in), (width_out, rank), (1, width_in), (1,))
        return dict(zip(GatedLoraSite.tables, shapes, strict=True))
