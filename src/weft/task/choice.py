"""Multiple choice: which of several texts goes with a text, a question, or both.

Each choice is a row for the trunk: the pair of the text and the question with the choice. The question stands beside the
choice, so that cutting a long text takes neither from the row.

Legend: R rows of all examples' choices, E examples, S most choices of an example.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

import numpy as np
from torch import Tensor

from weft.core.batch import Target
from weft.core.example import Answer, Dropped, Encoded, Purpose, Row
from weft.core.features import Pooling
from weft.core.layout import Layout
from weft.core.loss import Loss
from weft.core.network import Inference, TrunkInfo
from weft.core.stock import Stock, StockForm
from weft.core.tensors import int64
from weft.errors import DataError
from weft.metric.base import Metric
from weft.metric.calibration import label_calibration
from weft.metric.classification import accuracy
from weft.objective.losses import cross_entropy
from weft.recipe.spec import TaskSpec
from weft.report.details import Block
from weft.task.base import Pieces, Tokenizer
from weft.task.choices import (
    LETTERS,
    Choices,
    Naming,
    asked,
    choice_columns,
    choices_of,
    find_columns,
    naming_of,
    place_of,
)
from weft.task.heads import SequenceHead, choose_pooling, new_linear, of_temperature, other_pooling
from weft.task.labels import SEPARATOR, label_text
from weft.task.sequence import Columns, Judged, example_of, text_in
from weft.task.several import places, spread
from weft.task.shown import label_blocks
from weft.task.temperature import fit_choice, table_of, tempered_choice
from weft.task.words import text_of

_NO_LABEL = (None, "-1", "-")  # what public test sets have in place of a label


class ChoiceSpec(TaskSpec):
    """A recipe's multiple choice task."""

    kind: Literal["choice"]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Task family."""
    pooling: Pooling | None = None
    """How a text becomes one vector: pooler, cls, mean or last; default: the trunk's pooler, else as its classifier does."""
    calibration: Literal["temperature", "none"] = "temperature"
    """Whether logits are divided by a temperature that is fitted to dev rows, so that probabilities come true (arXiv:1706.04599)."""


class Chosen(NamedTuple):
    """The target of one row: its choices, and the place of the right one, None without gold."""

    texts: tuple[str, ...]
    place: int | None


@dataclass(frozen=True, slots=True)
class Choice:
    """A fitted multiple choice task.

    Attributes:
        name: of the task.
        columns: by role.
        naming: how data names the right choice.
        pooling: asked for; None for the trunk's pooler or the architecture's own.
        calibrates: whether a temperature is fitted to dev rows.
        temperature: of the head's outputs: what they are divided by.
    """

    kind: ClassVar[str] = "choice"
    spec_type: ClassVar[type[TaskSpec]] = ChoiceSpec
    wants_lm_head: ClassVar[bool] = False

    name: str
    columns: Columns
    naming: Naming
    pooling: Pooling | None = None
    calibrates: bool = True
    temperature: float = 1.0

    @classmethod
    def fit(cls, name: str, spec: TaskSpec, rows: Sequence[Row]) -> Self:
        """Return the task with the columns of ``rows`` and their way of naming the right choice."""
        spec = cast(ChoiceSpec, spec)
        columns = find_columns(rows, spec.columns, what=f"tasks.{name}")
        read = [(row.values.get(str(columns["label"])), choices_of(row, columns)) for row in rows]
        naming = naming_of([(value, choices) for value, choices in read if isinstance(choices, Choices)])
        if naming is None:
            shown = [label for value, _ in read[:5] if (label := label_text(value)) is not None]
            raise DataError(
                f"tasks.{name}: column {columns['label']!r} must name a choice of its row by place, letter, label or text, "
                f"but {shown} of the first rows name none. Give the right columns under columns: {{label: ..., choices: ...}}."
            )
        return cls(name, columns, naming, spec.pooling, calibrates=spec.calibration == "temperature")

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> Self:
        """Return the task that ``config()`` described."""
        pooling = None if config["pooling"] is None else Pooling(config["pooling"])
        calibrates, temperature = config["calibrates"], config["temperature"]
        return cls(name, dict(config["columns"]), Naming(config["naming"]), pooling, calibrates, temperature)

    def config(self) -> dict[str, Any]:
        """Return columns and options as JSON values."""
        return {
            "columns": dict(self.columns),
            "naming": str(self.naming),
            "pooling": None if self.pooling is None else str(self.pooling),
            "calibrates": self.calibrates,
            "temperature": self.temperature,
        }

    def ask(self, text: str, pair: str | None = None) -> Row:
        """Return the row that asks for the best of the choices in ``pair``, which have ``|`` between them."""
        if pair is None:
            raise DataError(
                f"{self.name}: the task takes a text and its choices, but one text was given. Give the choices as the "
                f"second text, with {SEPARATOR} between them."
            )
        choices = [choice.strip() for choice in pair.split(SEPARATOR)]
        columns = choice_columns(self.columns)
        if self.columns["choices"] is not None:
            values: dict[str, Any] = {columns[0]: choices}
        elif len(choices) > len(columns):
            raise DataError(
                f"{self.name}: must be asked for at most {len(columns)} choices, one a column, but {len(choices)} were "
                f"given. Leave some out."
            )
        else:
            values = dict(zip(columns, choices, strict=False))
        return Row({str(self.columns["text"] or self.columns["question"]): text, **values}, where="question")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of the text, of the question and of the choices."""
        texts = (self.columns["text"], self.columns["question"])
        return (*(column for column in texts if column is not None), *choice_columns(self.columns))

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, purpose: Purpose) -> list[Encoded | Dropped]:
        """Return each row with one text a choice, or why it is not used."""
        read = [self._read(row, purpose) for row in rows]
        pairs = [pair for one in read if not isinstance(one, Dropped) for pair in one[0]]
        pieces = iter(tokenizer.texts(*zip(*pairs, strict=True)) if pairs else ())
        return [
            one if isinstance(one, Dropped) else self._encoded(row, one[1], pieces)
            for row, one in zip(rows, read, strict=True)
        ]

    def _read(self, row: Row, purpose: Purpose) -> tuple[list[tuple[str, str]], Chosen] | Dropped:
        """Return the text pair of each choice with the target of ``row``, or why it is not used."""
        choices = choices_of(row, self.columns)
        if isinstance(choices, str):
            return Dropped(row.where, choices)
        text, question = (text_in(row, self.columns[role]) for role in ("text", "question"))
        if not text and not question:
            return Dropped(row.where, "empty text")
        label = row.values.get(str(self.columns["label"]))
        place = place_of(label, choices, self.naming)
        if place is None and label_text(label) not in _NO_LABEL:
            return Dropped(row.where, "label names no choice")
        if place is None and purpose is Purpose.LEARN:
            return Dropped(row.where, "no label")
        question = asked(text, question)
        first, words = (text, [question] if question else []) if text else (question, [])
        pairs = [(first, text_of([*words, choice])) for choice in choices.texts]
        return pairs, Chosen(choices.texts, place)

    def _encoded(self, row: Row, target: Chosen, pieces: Iterator[Pieces]) -> Encoded:
        own = [next(pieces) for _ in target.texts]
        gold = None if target.place is None else LETTERS[target.place]
        num_cut = sum(piece.num_cut for piece in own)
        return example_of(own, Judged(target, gold), row.where, num_cut=num_cut)

    def collate(self, encoded: Sequence[Encoded], rows: Sequence[int], layout: Layout) -> Target:  # noqa: ARG002
        """Return the target: ``choices`` says whose each row is, (E, S); ``labels`` is (E,) places; the weight is E."""
        labels = [place for example in encoded if (place := cast(Chosen, example.target).place) is not None]
        has_gold = len(labels) == len(encoded)
        values = {"choices": places(encoded)} | ({"labels": int64(labels)} if has_gold else {})
        return Target(int64(rows), values, float(len(encoded)) if has_gold else 0.0, len(encoded))

    def head(self, info: TrunkInfo, *, dropout: float, seed: int) -> SequenceHead:
        """Return a new head with one output a choice, without a bias: softmax over choices takes no notice of one."""
        asked_for = Pooling.POOLER if self.pooling is None and info.has_pooler else self.pooling
        pooling = choose_pooling(info, asked_for, task=self.name)
        out = new_linear(info, 1, has_bias=False, seed=seed)
        return SequenceHead(out, pooling=pooling, dropout=dropout, units=of_temperature(self.temperature))

    def loss(self, outputs: Tensor, target: Target) -> Loss:
        """Return the cross entropy of the right choice among those of its row; the weight is E."""
        return cross_entropy(_scores(outputs, target), target.values["labels"])

    def answers(self, inference: Inference, encoded: Sequence[Encoded]) -> list[Answer]:
        """Return letter and text of the likeliest choice, and the probability of each letter."""
        scores_ES = _scores(inference.outputs(self.name), inference.batch.targets[self.name])
        found = scores_ES.detach().float().softmax(-1).tolist()
        return [_answer(shares, example.target.texts) for shares, example in zip(found, encoded, strict=True)]

    def calibrated(self, golds: Sequence[Any], answers: Sequence[Answer]) -> tuple[Self, list[Answer]]:
        """Return the task with the temperature that fits these dev rows, and its answers to them at that temperature."""
        if not self.calibrates or not golds:
            return self, list(answers)
        given_NC = table_of(answers)
        temperature = fit_choice(given_NC, np.array([LETTERS.index(gold) for gold in golds]))
        tempered_NC = tempered_choice(given_NC, temperature).tolist()
        found = [
            replace(answer, probabilities=dict(zip(answer.probabilities or (), row, strict=False)))
            for answer, row in zip(answers, tempered_NC, strict=True)
        ]
        return replace(self, temperature=temperature), found

    def shown(self, golds: Sequence[Any], answers: Sequence[Answer]) -> tuple[Block, ...]:
        """Return which places are taken for which, and what probabilities are worth."""
        letters = sorted({*golds, *(str(answer.label) for answer in answers)})
        return label_blocks(golds, answers, letters, temperature=self.temperature)

    def baseline(self, golds: Sequence[Any], num_answers: int) -> list[Answer]:
        """Return the most frequent place for every row; of equals the first."""
        counts = self.describe(golds)
        shares = {letter: count / len(golds) for letter, count in counts.items()}
        return [Answer(max(shares, key=shares.__getitem__, default=LETTERS[0]), shares)] * num_answers

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy first; none by place, for what one says in a row it says in no other."""
        return (accuracy(), label_calibration())

    def describe(self, golds: Sequence[Any]) -> dict[str, int]:
        """Return the number of rows whose right choice stands at each place."""
        return dict(sorted(Counter[str](golds).items()))

    def stock(self) -> Stock:
        """Return what a stock transformers model would say of this task, for export."""
        return Stock(StockForm.CHOICE, (), None, "multiple-choice")

    def same_head(self, config: Mapping[str, Any]) -> str | None:
        """Return why an old head does not fit: pooling changed."""
        return other_pooling(config, self.pooling)


def _scores(outputs_R1: Tensor, target: Target) -> Tensor:
    """Return the output of each choice by example, shape (E, S), minus infinity beyond its last one."""
    return spread(outputs_R1, target.values["choices"], fill=-math.inf).squeeze(-1)


def _answer(shares: Sequence[float], texts: Sequence[str]) -> Answer:
    own = shares[: len(texts)]
    best = own.index(max(own))
    return Answer(LETTERS[best], dict(zip(LETTERS, own, strict=False)), text=texts[best])
