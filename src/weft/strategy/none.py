"""Frozen: the site is used as it is."""

from __future__ import annotations

from typing import Literal

from weft.recipe.spec import Rule
from weft.strategy.base import Method


class NoneRule(Rule):
    """``{sites: "layers[0:4]", train: none}``."""

    train: Literal["none"] = "none"  # pyright: ignore[reportIncompatibleVariableOverride]
    lr: None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Nothing moves, so there is no rate to say."""
    layer_decay: None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Nothing moves, so there is no rate to say."""
    since: None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Nothing moves, so it never begins to."""


class Frozen(Method):
    """Keeps every parameter of a site as it is."""

    name = "none"
    rule = NoneRule
    lr = 0.0
    advice = ""
    trains_site = False
    source = ""
