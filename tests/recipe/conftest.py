"""A catalogue of the tests' own: this room must not know any real family or method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
from pydantic import Field, model_validator

from weft.errors import RecipeError
from weft.recipe.load import loads
from weft.recipe.spec import Catalogue, Recipe, Rule, TaskSpec


class ClassificationSpec(TaskSpec):
    """One label a row, or several."""

    kind: Literal["classification"] = "classification"  # pyright: ignore[reportIncompatibleVariableOverride]
    labels: tuple[str, ...] = ()
    """Labels in order; default: those of the training rows."""
    multi_label: bool = False
    """Whether a row may have several labels."""
    pooling: Literal["cls", "mean", "last"] | None = None
    """How token states become one vector."""

    threshold: float = 0.5

    @model_validator(mode="after")
    def _threshold_needs_multi_label(self) -> ClassificationSpec:
        if "threshold" in self.model_fields_set and not self.multi_label:
            raise ValueError("threshold must not be given without multi_label, but is. Leave it out.")
        return self

    @model_validator(mode="after")
    def _labels_differ(self) -> ClassificationSpec:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must differ from each other, but one is given twice. Remove it.")
        return self


class TaggingSpec(TaskSpec):
    """One label a word."""

    kind: Literal["tagging"] = "tagging"  # pyright: ignore[reportIncompatibleVariableOverride]
    scheme: Literal["bio", "bioes"] = "bio"


class NoneRule(Rule):
    """Freeze."""

    train: Literal["none"] = "none"  # pyright: ignore[reportIncompatibleVariableOverride]


class FullRule(Rule):
    """Train what is there."""

    train: Literal["full"] = "full"  # pyright: ignore[reportIncompatibleVariableOverride]


class LoraRule(Rule):
    """Low-rank update."""

    train: Literal["lora"] = "lora"  # pyright: ignore[reportIncompatibleVariableOverride]
    rank: int = Field(8, ge=1)
    alpha: float | None = Field(None, gt=0)
    scale: int | Literal["auto"] = "auto"


YARDSTICK = """\
model: minilm
tasks:
  sentiment: {kind: classification, train: sentiment.csv, dev: sentiment.dev.csv}
  entities:  {kind: tagging, train: ner.conll, dev: ner.dev.conll, weight: 2}
stages:
  - {name: together, tasks: {sentiment: 0.5, entities: 0.5}, strategy: lora, length: 3 epochs}
  - {name: expert, tasks: entities, strategy: full, lr: 1e-5, length: 1 epoch, carry: {trunk: merge, heads: keep}}
"""


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return Catalogue(
        tasks={"classification": ClassificationSpec, "tagging": TaggingSpec},
        methods={"none": NoneRule, "full": FullRule, "lora": LoraRule},
        strategies=frozenset({"full", "head", "lora"}),
    )


@pytest.fixture(scope="session")
def yardstick() -> str:
    """Return the recipe of DESIGN section 8."""
    return YARDSTICK


@pytest.fixture(scope="session")
def read(catalogue: Catalogue) -> Callable[..., Recipe]:
    """Return a function: text and overrides -> recipe."""
    return lambda text, *overrides: loads(text, catalogue, name="r.yaml", overrides=overrides)


@pytest.fixture(scope="session")
def refused(read: Callable[..., Recipe]) -> Callable[..., tuple[str, ...]]:
    """Return a function: text and overrides -> the problems it must have."""

    def problems(text: str, *overrides: str) -> tuple[str, ...]:
        with pytest.raises(RecipeError) as info:
            read(text, *overrides)
        return info.value.problems

    return problems


@pytest.fixture(scope="session")
def stage_refused(refused: Callable[..., tuple[str, ...]]) -> Callable[..., tuple[str, ...]]:
    """Return a function: stages in YAML lines -> the problems of a recipe with two good tasks and these stages."""
    head = "model: m\ntasks:\n  a: {kind: tagging, train: a}\n  b: {kind: tagging, train: b}\nstages:\n"
    return lambda *stages: refused(head + "".join(f"  - {stage}\n" for stage in stages))
