"""Small recipes on real files and a tiny real model, opened as a run opens them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from weft.build.catalogue import catalogue
from weft.build.choosing import ByGradients
from weft.build.data import Data, read_data
from weft.build.network import Base, open_base
from weft.build.order import order_of
from weft.build.stage import Entered, enter, rehearse
from weft.core.parts import Parts
from weft.core.sites import SiteMap
from weft.model.folder import ModelFolder
from weft.model.tokenizer import HFTokenizer, load_tokenizer
from weft.model.trunk import empty_trunk, load_trunk
from weft.objective.supervised import Supervised
from weft.recipe.spec import Recipe, StageSpec
from weft.strategy.choosing import Choose
from weft.train.engine import Engine, StepResult
from weft.train.feed import Feed
from weft.train.optimizer import make_optimizer

CPU = torch.device("cpu")

REVIEWS = [
    ("a good film", "pos"),
    ("the bad movie was not good", "neg"),
    ("a great story and a happy cat", "pos"),
    ("sad and bad", "neg"),
    ("john likes the big red book", "pos"),
    ("mary hates london", "neg"),
    ("a small dog runs in the city", "pos"),
    ("what a poor old book", "neg"),
    ("he loves the new film", "pos"),
    ("not a good story", "neg"),
    ("paris is great", "pos"),
    ("the cat sleeps", "neg"),
]
TAGGED = [
    [("john", "B-PER"), ("lives", "O"), ("in", "O"), ("paris", "B-LOC")],
    [("mary", "B-PER"), ("smith", "I-PER"), ("works", "O"), ("at", "O"), ("acme", "B-ORG")],
    [("a", "O"), ("good", "O"), ("film", "O")],
    [("berlin", "B-LOC"), ("is", "O"), ("in", "O"), ("germany", "B-LOC")],
    [("she", "O"), ("eats", "O")],
    [("the", "O"), ("cat", "O"), ("likes", "O"), ("john", "B-PER")],
]
SCORED = [(text, 5 - 0.5 * len(text.split()) + 0.25 * row) for row, (text, _) in enumerate(REVIEWS)]


MOOD = {"kind": "classification", "train": "reviews.csv", "dev": "dev.csv"}
NAMES = {"kind": "tagging", "train": "ner.conll", "dev": "ner.dev.conll"}
SAY = {"kind": "generation", "train": "say.jsonl", "dev": "say.jsonl"}
LENGTH = {"kind": "regression", "train": "scores.csv", "dev": "scores.dev.csv"}


@dataclass(frozen=True)
class Kit:
    """A recipe with all that a run opens before its first stage."""

    recipe: Recipe
    base: Base
    tokenizer: HFTokenizer
    data: Data

    def enter(self, stage: str, parts: Parts | None = None) -> Entered:
        """Return ``stage`` entered from ``parts`` with real weights."""
        return enter(
            self.recipe,
            self.recipe.stage(stage),
            base=self.base,
            tasks=self.data.fitted,
            parts=self.base.parts if parts is None else parts,
            device=CPU,
            choose=partial(self.chosen, self.recipe.stage(stage)),
        )

    def chosen(self, spec: StageSpec, sites: SiteMap) -> Choose:
        """Return what chooses for the rules of a stage."""
        scores = self.chooser(spec).scores
        return lambda rule, candidates, *, number: tuple(scores(sites, rule, candidates))

    def chooser(self, spec: StageSpec) -> ByGradients:
        """Return what scores modules at the entry of a stage."""
        return ByGradients(self.recipe, spec, self.data, pad=self.tokenizer.pad, dtype=torch.float32)

    def rehearse(self) -> tuple[tuple[StageSpec, Entered], ...]:
        """Return every stage entered without weights."""
        return rehearse(self.recipe, base=self.base, tasks=self.data.fitted)

    def trained(self, entered: Entered, stage: str, *, num_steps: int = 3) -> list[StepResult]:
        """Take the first steps of ``stage`` as a run does: data -> order -> feed -> engine."""
        spec = self.recipe.stage(stage)
        order = order_of(self.recipe, spec, self.data, by_length=True)
        engine, feed = self.engine(entered, spec), replace(self.feed(spec), routes=entered.network.routes)
        steps = [step for epoch in range(num_steps) for step in order.steps(epoch)][:num_steps]
        return [engine.step(feed(step), step=number, lr_factor=1.0) for number, step in enumerate(steps)]

    def engine(self, entered: Entered, spec: StageSpec) -> Engine:
        """Return an engine on ``entered``."""
        names = self.recipe.tasks_of(spec)
        return Engine(
            entered.network,
            Supervised({name: self.data.tasks[name].task.loss for name in names}),
            optimizer=make_optimizer(entered.table, entered.sites, decay=spec.decay),
            weights={name: self.recipe.tasks[name].weight for name in names},
            device=CPU,
            dtype=torch.float32,
            clip=spec.clip,
            seed=(self.recipe.seed, spec.name),
        )

    def feed(self, spec: StageSpec, *, budget: int | None = None) -> Feed:
        """Return the feed of the stage's batches."""
        names = self.recipe.tasks_of(spec)
        return Feed(
            tasks={name: self.data.tasks[name].task for name in names},
            rows={name: self.data.tasks[name].train for name in names},
            pad=self.tokenizer.pad,
            budget=spec.budget if budget is None else budget,
        )


def make_recipe(
    model: Path,
    stages: Sequence[Mapping[str, Any]],
    tasks: Mapping[str, Mapping[str, Any]],
    *,
    adapters: Mapping[str, str] | None = None,
    **rest: Any,
) -> Recipe:
    """Return a recipe as the decoder makes it."""
    on_it = {"path": str(model), "max_tokens": 32, "adapters": dict(adapters or {})}
    values = {"model": on_it, "tasks": tasks, "stages": list(stages), **rest}
    return Recipe.model_validate(values, context=catalogue())


def open_kit(recipe: Recipe, *, root: Path) -> Kit:
    """Return ``recipe`` with all that a run opens before its first stage."""
    base = open_base(recipe, root=root)
    tokenizer = load_tokenizer(base.folder, max_tokens=recipe.model.max_tokens)
    return Kit(recipe, base, tokenizer, read_data(recipe, tokenizer, root=root))


class Trunks:
    """Stands for ``weft.model.trunk``'s two functions: each model is read once and copied, for a matrix enters hundreds."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, float], torch.nn.Module] = {}

    def load(
        self, folder: ModelFolder, *, wants_lm_head: bool, dropout: float, device: torch.device
    ) -> torch.nn.Module:
        return self._copy(load_trunk, folder, wants_lm_head=wants_lm_head, dropout=dropout, device=device)

    def empty(
        self, folder: ModelFolder, *, wants_lm_head: bool, dropout: float, device: torch.device
    ) -> torch.nn.Module:
        return self._copy(empty_trunk, folder, wants_lm_head=wants_lm_head, dropout=dropout, device=device)

    def _copy(
        self, read: Any, folder: ModelFolder, *, wants_lm_head: bool, dropout: float, device: torch.device
    ) -> torch.nn.Module:
        assert not wants_lm_head
        key = (str(device), dropout)
        if key not in self._known:
            self._known[key] = read(folder, wants_lm_head=False, dropout=dropout, device=device)
        trunk = self._known[key]
        config = trunk.model.config  # hundreds of values that nobody changes
        return copy.deepcopy(trunk, {id(config): config})


def write_files(folder: Path) -> Path:
    """Write reviews.csv, dev.csv, scores.csv, scores.dev.csv, ner.conll, ner.dev.conll and say.jsonl; return ``folder``."""

    def csv(name: str, header: str, rows: Sequence[tuple[Any, ...]]) -> None:
        lines = [header, *(",".join(map(str, row)) for row in rows)]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def conll(name: str, sentences: Sequence[Sequence[tuple[str, str]]]) -> None:
        text = "\n\n".join("\n".join(f"{word} {tag}" for word, tag in sentence) for sentence in sentences)
        (folder / name).write_text(text + "\n", encoding="utf-8")

    csv("reviews.csv", "text,label", REVIEWS)
    csv("dev.csv", "text,label", [("a happy film", "pos"), ("a sad book", "neg"), ("very bad", "neg")])
    csv("scores.csv", "text,score", SCORED)
    csv("scores.dev.csv", "text,score", [("a happy city", 3.5), ("the dog is sad", 2.0)])
    conll("ner.conll", TAGGED)
    conll("ner.dev.conll", [[("mary", "B-PER"), ("eats", "O")], [("london", "B-LOC")]])
    said = [{"instruction": "say", "output": "a"}, {"instruction": "b", "output": "c"}]
    (folder / "say.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in said), encoding="utf-8")
    return folder
