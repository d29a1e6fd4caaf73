"""Frozen: the site is used as it is."""

from __future__ import annotations

from typing import ClassVar, Literal

from weft.core.view import SiteKind
from weft.recipe.spec import Rule
from weft.strategy.base import Edits, Timed


class NoneRule(Rule):
    """``{sites: "layers[0:4]", train: none}``."""

    train: Literal["none"] = "none"  # pyright: ignore[reportIncompatibleVariableOverride]
    lr: None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Nothing moves, so there is no rate to say."""
    layer_decay: None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Nothing moves, so there is no rate to say."""
    since: None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Nothing moves, so it never begins to."""


class Frozen(Timed):
    """Keeps every parameter of a site as it is."""

    name: ClassVar[str] = "none"
    rule: ClassVar[type[Rule]] = NoneRule
    edits: ClassVar[Edits] = Edits.NOTHING
    lr: ClassVar[float] = 0.0
    advice: ClassVar[str] = ""
    kinds: ClassVar[frozenset[SiteKind]] = frozenset(SiteKind)
    trains_site: ClassVar[bool] = False
    source: ClassVar[str] = ""
