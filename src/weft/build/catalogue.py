"""The members of each axis, gathered from their registries."""

from __future__ import annotations

from pathlib import Path

from weft.recipe.load import load
from weft.recipe.spec import Catalogue, Recipe
from weft.strategy.named import STRATEGIES
from weft.strategy.registry import RULES
from weft.task.registry import FAMILIES


def catalogue() -> Catalogue:
    """Return every task family, method and named strategy that this installation has."""
    return Catalogue(
        tasks={kind: family.spec_type for kind, family in FAMILIES.items()},
        methods=RULES,
        strategies=frozenset(STRATEGIES),
    )


def open_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Return the recipe in ``path`` with ``overrides`` (``key.sub=value``) applied.

    Raises:
        RecipeError: every mistake at once, each with file and line.
    """
    return load(path, catalogue(), overrides)
