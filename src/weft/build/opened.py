"""A recipe opened for looking at it: model found, data read, every stage entered without weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from weft.build.catalogue import open_recipe
from weft.build.data import Data, read_data
from weft.build.estimate import Machine, stage_plans
from weft.build.network import Base, open_base
from weft.build.stage import Entered, rehearse
from weft.model.tokenizer import HFTokenizer, load_tokenizer
from weft.recipe.spec import Recipe, StageSpec
from weft.report.records import StagePlan


@dataclass(frozen=True, slots=True)
class Opened:
    """A recipe that can be trained.

    Attributes:
        recipe: as decoded.
        base: the pretrained model.
        tokenizer: of the model.
        data: every task's examples and the report on them.
        stages: every stage with its network on the meta device.
    """

    recipe: Recipe
    base: Base
    tokenizer: HFTokenizer
    data: Data
    stages: tuple[tuple[StageSpec, Entered], ...]

    def plans(self, machine: Machine) -> tuple[StagePlan, ...]:
        """Return what each stage will do and cost on ``machine``."""
        return stage_plans(self.recipe, self.stages, self.data, machine)


def open_all(path: Path, overrides: tuple[str, ...] = ()) -> Opened:
    """Return the recipe in ``path`` with all that can be known before training.

    Raises:
        WeftError: the recipe, its data, its model or a hand-over between stages is wrong.
    """
    recipe = open_recipe(path, overrides)
    root = path.resolve().parent
    base = open_base(recipe, root=root)
    tokenizer = load_tokenizer(base.folder, max_tokens=recipe.model.max_tokens)
    data = read_data(recipe, tokenizer, root=root)
    return Opened(recipe, base, tokenizer, data, rehearse(recipe, base=base, tasks=data.fitted))
