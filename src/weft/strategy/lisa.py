"""LISA: full training of a few layers at a time, drawn anew every so many steps (arXiv:2403.17919)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from weft.core.table import Draw
from weft.recipe.spec import Rule
from weft.strategy.base import Method, Place, Timing


class LisaRule(Rule):
    """``{train: lisa, layers: 2, every: 20}``."""

    train: Literal["lisa"] = "lisa"  # pyright: ignore[reportIncompatibleVariableOverride]
    layers: int = Field(default=2, ge=1, le=1000)
    """Layers that move at a time; what lies outside of layers (embeddings, final norm) always does."""
    every: int = Field(default=20, ge=1, le=1_000_000)
    """Steps until others are drawn."""


class Lisa(Method):
    """Trains what a rule names, of the layers a few at a time; a layer whose turn is over loses its optimizer state.

    The rate is that of full training.
    """

    name = "lisa"
    rule = LisaRule
    lr = 5e-5
    moves_matrices = True
    advice = "full training's, for whatever moves at the moment moves fully"
    source = "arXiv:2403.17919"

    def counts_layers(self, rule: Rule) -> bool:  # noqa: ARG002
        """Return that layers take turns."""
        return True

    def timing(self, rule: Rule, place: Place) -> Timing:
        """Return when the parameters at ``place`` move: those of layers by turns."""
        assert isinstance(rule, LisaRule)
        draw = Draw(place.layer, rule.layers, rule.every) if place.layer else None
        return Timing(rule.since, draw)
