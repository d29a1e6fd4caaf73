"""Ordinal regression: labels that have an order, such as stars, for a text or a pair of texts.

One output for each label but the last: whether a text that has come as far goes further, ``P(label > k | label >= k)``.
The product of the first k is ``P(label > k)``, which falls with k whatever the outputs: no label has a negative
probability, and answers do not contradict one another. (CORN: Shi, Cao and Raschka 2021, arXiv:2111.08851.)

Legend: R rows, K labels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import numpy as np
from pydantic import BeforeValidator
from torch import Tensor

from weft.core.batch import Target
from weft.core.example import Answer, Dropped, Encoded, Purpose, Row
from weft.core.features import Pooling
from weft.core.layout import Layout
from weft.core.loss import Loss
from weft.core.network import Inference, TrunkInfo
from weft.core.stock import Stock
from weft.core.tensors import float32
from weft.data import columns as known
from weft.data.columns import Role, resolve
from weft.errors import DataError
from weft.metric.base import Metric
from weft.metric.ordinal import ordinal_metrics
from weft.objective.losses import continuation_loss
from weft.recipe.spec import TaskSpec
from weft.report.details import Block
from weft.task.base import Tokenizer
from weft.task.documents import AnyWindows
from weft.task.heads import SequenceHead
from weft.task.labels import are_ids, difference, given_labels, is_absent, label_text, labels_in, named
from weft.task.sequence import Columns, Judged, collate_rows, text_roles
from weft.task.shown import label_blocks
from weft.task.temperature import fit_order, table_of, tempered_order
from weft.task.texts import Texts


class OrdinalSpec(TaskSpec):
    """A recipe's ordinal regression task."""

    kind: Literal["ordinal"]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Task family."""
    labels: Annotated[tuple[str, ...], BeforeValidator(given_labels)] = ()
    """Labels from the lowest to the highest; data may hold these or their ranks from 0. Default: those of the training rows,
    if they are numbers. Rows with others are dropped."""
    pooling: Pooling | None = None
    """How a text becomes one vector: pooler, cls, mean or last; default: as the architecture's own classifier does."""
    windows: AnyWindows | None = None
    """How a text beyond max_tokens is read whole: mean or max (of the scores of its windows); default: it is cut."""
    calibration: Literal["temperature", "none"] = "temperature"
    """Whether a temperature is fitted to dev rows, so that probabilities come true; the answered label stays."""


@dataclass(frozen=True, slots=True)
class Ordinal:
    """A fitted ordinal regression task.

    Attributes:
        name: of the task.
        texts: how they are read.
        labels: from the lowest to the highest.
        has_ids: whether data holds their ranks from 0 instead of labels.
        calibrates: whether a temperature is fitted to dev rows.
        temperature: by which the log odds of ``P(label > k)`` are divided.
    """

    kind: ClassVar[str] = "ordinal"
    spec_type: ClassVar[type[TaskSpec]] = OrdinalSpec
    wants_lm_head: ClassVar[bool] = False

    name: str
    texts: Texts
    labels: tuple[str, ...]
    has_ids: bool = False
    calibrates: bool = True
    temperature: float = 1.0

    @classmethod
    def fit(cls, name: str, spec: TaskSpec, rows: Sequence[Row]) -> Self:
        """Return the task with the labels that ``rows`` hold, or that ``spec`` gives."""
        spec = cast(OrdinalSpec, spec)
        columns = resolve(
            rows, (*text_roles(), Role("label", known.RATING)), spec.columns, what=f"tasks.{name}"
        )
        read = [(label,) for row in rows if (label := _label_of(row, columns)) is not None]
        seen = labels_in(read)
        has_ids = are_ids(seen, spec.labels)
        seen = named(seen, spec.labels) if has_ids else seen
        labels = spec.labels or seen
        if not spec.labels and not all(map(_is_number, labels)):
            raise DataError(
                f"tasks.{name}: labels of column {columns['label']!r} must be numbers to be ordered by themselves, but are "
                f"{list(labels[:10])}. Give them in order under labels: [<lowest>, ..., <highest>]."
            )
        if spec.labels and seen and (len(labels) < 2 or not set(labels) & set(seen)):
            raise DataError(
                f"tasks.{name}.labels: must name at least two labels, some of column {columns['label']!r}, but names "
                f"{', '.join(labels)}. The column holds {', '.join(seen[:20])}."
            )
        if len(labels) < 2 or not seen:
            raise DataError(
                f"tasks.{name}: column {columns['label']!r} must hold at least two different labels, but holds "
                f"{list(seen[:10])} in {len(rows)} rows. Give the right column under columns: {{label: ...}}."
            )
        calibrates = spec.calibration == "temperature"
        return cls(name, Texts(columns, spec.pooling, spec.windows), labels, has_ids, calibrates)

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> Self:
        """Return the task that ``config()`` described."""
        return cls(
            name,
            Texts.from_config(config),
            tuple(config["labels"]),
            config["has_ids"],
            calibrates=config.get("calibrates", False),
            temperature=config.get("temperature", 1.0),
        )

    def config(self) -> dict[str, Any]:
        """Return labels, columns and options as JSON values."""
        return {
            **self.texts.config(),
            "labels": list(self.labels),
            "has_ids": self.has_ids,
            "calibrates": self.calibrates,
            "temperature": self.temperature,
        }

    def ask(self, text: str, pair: str | None = None) -> Row:
        """Return the row that asks for the answer to ``text`` (and ``pair``)."""
        return self.texts.ask(text, pair, task=self.name)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of the text and, where there is one, the second text."""
        return self.texts.inputs

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, purpose: Purpose) -> list[Encoded | Dropped]:
        """Return each row as tokens with its target, or why it is not used."""
        return self.texts.encode(rows, tokenizer, lambda row: self._judge(row, purpose))

    def _judge(self, row: Row, purpose: Purpose) -> Judged | Dropped:
        label = _label_of(row, self.texts.columns)
        if label is not None and self.has_ids:
            (label,) = named((label,), self.labels)
        if label is None or is_absent((label,), self.labels):
            return Dropped(row.where, "no label") if purpose is Purpose.LEARN else Judged(None, None)
        if label not in self.labels:
            return Dropped(row.where, "label not in the list")
        rank = self.labels.index(label)
        return Judged(tuple(float(rank > k) for k in range(len(self.labels) - 1)), label)

    def collate(self, encoded: Sequence[Encoded], rows: Sequence[int], layout: Layout) -> Target:  # noqa: ARG002
        """Return the target: ``levels`` is (R, K - 1), 1 where a row's label is higher."""
        return collate_rows(encoded, rows, name="levels", values=float32)

    def head(self, info: TrunkInfo, *, dropout: float, seed: int) -> SequenceHead:
        """Return a new head with one output for each label but the last."""
        return self.texts.head(info, len(self.labels) - 1, task=self.name, dropout=dropout, seed=seed)

    def loss(self, outputs: Tensor, target: Target) -> Loss:
        """Return the negative log-likelihood of the labels, which is CORN's loss as a sum over rows."""
        return continuation_loss(outputs, target.values["levels"])

    def answers(self, inference: Inference, encoded: Sequence[Encoded]) -> list[Answer]:
        """Return each row's label, the probability of every label, and the mean of the labels as a value."""
        above = inference.numbers(self.name, _above)
        assert len(encoded) == len(above)
        found = [self._answer(shares) for shares in above]
        return found if self.temperature == 1 else self._tempered(found)

    def _answer(self, above: Sequence[float]) -> Answer:
        """Return the answer of one row from ``P(label > k)``: the label in the middle of its probability."""
        probabilities = [high - low for high, low in pairwise((1.0, *above, 0.0))]
        return self._said(self.labels[sum(share > 0.5 for share in above)], probabilities)

    def _said(self, label: Any, probabilities: Sequence[float]) -> Answer:
        value = math.fsum(p * one for p, one in zip(probabilities, _values(self.labels), strict=True))
        return Answer(label, dict(zip(self.labels, probabilities, strict=True)), value)

    def _tempered(self, answers: Sequence[Answer]) -> list[Answer]:
        """Return answers at temperature 1 as they are at the task's own: with the same labels."""
        tempered = tempered_order(table_of(answers), self.temperature).tolist()
        return [self._said(one.label, row) for one, row in zip(answers, tempered, strict=True)]

    def calibrated(self, golds: Sequence[Any], answers: Sequence[Answer]) -> tuple[Self, list[Answer]]:
        """Return the task with the temperature that fits these dev rows, and its answers to them at that temperature.

        The answered label stays what it was; the mean of the labels moves with their probabilities.
        """
        if not self.calibrates or not golds:
            return self, list(answers)
        golds_N = np.array([self.labels.index(gold) for gold in golds])
        task = replace(self, temperature=fit_order(table_of(answers), golds_N))
        return task, task._tempered(answers)

    def shown(self, golds: Sequence[Any], answers: Sequence[Answer]) -> tuple[Block, ...]:
        """Return which labels are taken for which, the scores of each, and what probabilities are worth."""
        return label_blocks(
            golds, answers, self.labels, temperature=self.temperature, tempered=tempered_order
        )

    def baseline(self, golds: Sequence[Any], num_answers: int) -> list[Answer]:
        """Return the middle of the training labels for every row."""
        ranks = [self.labels.index(gold) for gold in golds]
        counts = [sum(rank > k for rank in ranks) for k in range(len(self.labels) - 1)]
        return [self._answer([count / max(1, len(ranks)) for count in counts])] * num_answers

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Quadratic weighted kappa first."""
        return ordinal_metrics(self.labels)

    def describe(self, golds: Sequence[Any]) -> dict[str, int]:
        """Return the number of rows that have each label."""
        counts = Counter(golds)
        return {label: counts[label] for label in self.labels}

    def stock(self) -> Stock:
        """Return what a stock transformers model would say of this task: of each label but the last, whether it is passed.

        Its outputs are yes and no, and the sigmoid of each is the probability that its name says, at temperature 1: that of
        the task divides the odds of their products, which a last layer cannot say.
        """
        names = [f"> {label}" for label in self.labels[:-1]]
        passed = (*names[:1], *(f"{name} given {before}" for before, name in pairwise(names)))
        return self.texts.stock(passed, "multi_label_classification")

    def same_head(self, config: Mapping[str, Any]) -> str | None:
        """Return why an old head does not fit: labels, their order or pooling changed."""
        return self.texts.changed(config) or difference(config.get("labels", ()), self.labels)


def _label_of(row: Row, columns: Columns) -> str | None:
    return label_text(row.values.get(str(columns["label"])))


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


def _above(logits: Tensor) -> Tensor:
    """Return ``P(label > k)`` of logits ``P(label > k | label >= k)``."""
    return logits.sigmoid().cumprod(-1)


def _values(labels: Sequence[str]) -> list[float]:
    """Return what each label counts in a mean: itself if all are numbers, else its rank from 1."""
    if all(map(_is_number, labels)):
        return [float(label) for label in labels]
    return [float(rank) for rank in range(1, len(labels) + 1)]
