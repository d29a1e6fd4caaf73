"""Regression: a number for a text or a pair of texts, answered in the units of the data.

Legend: R rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any, ClassVar, Literal, Self, cast

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
from weft.metric.regression import regression_metrics
from weft.objective.losses import squared_error
from weft.recipe.spec import TaskSpec
from weft.report.details import Block
from weft.task.base import Tokenizer
from weft.task.documents import AnyWindows
from weft.task.heads import SequenceHead, Units
from weft.task.labels import label_text
from weft.task.sequence import Columns, Judged, collate_rows, text_roles
from weft.task.shown import value_blocks
from weft.task.texts import Texts

NUM_BINS = 5


class RegressionSpec(TaskSpec):
    """A recipe's regression task."""

    kind: Literal["regression"]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Task family."""
    pooling: Pooling | None = None
    """How a text becomes one vector: pooler, cls, mean or last; default: as the architecture's own classifier does."""
    windows: AnyWindows | None = None
    """How a text beyond max_tokens is read whole: mean or max (of the outputs of its windows); default: it is cut."""


@dataclass(frozen=True, slots=True)
class Regression:
    """A fitted regression task; ``mean`` and ``std`` are those of the training scores."""

    kind: ClassVar[str] = "regression"
    spec_type: ClassVar[type[TaskSpec]] = RegressionSpec
    wants_lm_head: ClassVar[bool] = False

    name: str
    texts: Texts
    mean: float
    std: float

    @classmethod
    def fit(cls, name: str, spec: TaskSpec, rows: Sequence[Row]) -> Self:
        """Return the task with the mean and deviation of the scores in ``rows``."""
        spec = cast(RegressionSpec, spec)
        roles = (*text_roles(), Role("score", known.SCORE))
        columns = resolve(rows, roles, spec.columns, what=f"tasks.{name}")
        numbers = [number for row in rows if isinstance(number := _score_of(row, columns), float)]
        if len(set(numbers)) < 2:
            raise DataError(
                f"tasks.{name}: column {columns['score']!r} must hold at least two different numbers, but holds "
                f"{sorted(set(numbers))} in {len(rows)} rows. Give the right column under columns: {{score: ...}}."
            )
        texts = Texts(columns, spec.pooling, spec.windows)
        return cls(name, texts, fmean(numbers), pstdev(numbers))

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> Self:
        """Return the task that ``config()`` described."""
        return cls(name, Texts.from_config(config), config["mean"], config["std"])

    def config(self) -> dict[str, Any]:
        """Return the unit, columns and options as JSON values."""
        return {**self.texts.config(), "mean": self.mean, "std": self.std}

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
        score = _score_of(row, self.texts.columns)
        if isinstance(score, str):
            return Dropped(row.where, score)
        if score is None and purpose is Purpose.LEARN:
            return Dropped(row.where, "no score")
        return Judged(score, score)

    def collate(self, encoded: Sequence[Encoded], rows: Sequence[int], layout: Layout) -> Target:  # noqa: ARG002
        """Return the target: ``scores`` is (R,), in the units of the data."""
        return collate_rows(encoded, rows, name="scores", values=float32)

    def head(self, info: TrunkInfo, *, dropout: float, seed: int) -> SequenceHead:
        """Return a head that learns in standard units and answers in the data's (decision record 0004).

        Where the architecture's stock head has no bias there is nothing to carry a shift: then the unit is the
        root mean square of the scores, so that answers of the right size are within reach of the weights.
        """
        units = Units(self.mean, self.std) if info.has_bias else Units(scale=math.hypot(self.mean, self.std))
        return self.texts.head(info, 1, task=self.name, dropout=dropout, seed=seed, units=units)

    def loss(self, outputs: Tensor, target: Target) -> Loss:
        """Return the squared error in units of the training scores' standard deviation."""
        return squared_error(outputs.squeeze(-1), target.values["scores"], scale=self.std)

    def answers(self, inference: Inference, encoded: Sequence[Encoded]) -> list[Answer]:
        """Return the value of each row, in the units of the data."""
        values_R = inference.outputs(self.name).detach().float().cpu().squeeze(-1)
        assert len(encoded) == values_R.shape[0]
        return [Answer(value=value) for value in values_R.tolist()]

    def shown(self, golds: Sequence[Any], answers: Sequence[Answer]) -> tuple[Block, ...]:
        """Return answered values against gold ones, and how far they are off."""
        return value_blocks(golds, answers)

    def baseline(self, golds: Sequence[Any], num_answers: int) -> list[Answer]:
        """Return the mean of ``golds`` for every row."""
        return [Answer(value=fmean(golds) if golds else self.mean)] * num_answers

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Pearson correlation first."""
        return regression_metrics()

    def describe(self, golds: Sequence[Any]) -> dict[str, int]:
        """Return the number of rows in each of five equal ranges from the least to the greatest score."""
        low, high = min(golds, default=0.0), max(golds, default=0.0)
        if low == high:
            return {f"{low:.4g}": len(golds)}
        width = (high - low) / NUM_BINS
        bins = [min(int((gold - low) / width), NUM_BINS - 1) for gold in golds]
        names = [f"{low + i * width:.4g} to {low + (i + 1) * width:.4g}" for i in range(NUM_BINS)]
        return {name: bins.count(index) for index, name in enumerate(names)}

    def stock(self) -> Stock:
        """Return what a stock transformers model would say of this task, for export."""
        return self.texts.stock((self.name,), "regression")

    def same_head(self, config: Mapping[str, Any]) -> str | None:
        """Return why an old head does not fit: pooling or units changed."""
        if changed := self.texts.changed(config):
            return changed
        if (config.get("mean"), config.get("std")) != (self.mean, self.std):
            return f"the scores' mean and deviation changed: now {self.mean:.4g} and {self.std:.4g}"
        return None


def _score_of(row: Row, columns: Columns) -> float | str | None:
    """Return the score of a row, None where it has none, or why it cannot be used."""
    value = row.values.get(str(columns["score"]))
    text = label_text(value)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        return "score is not a number"
    return number if math.isfinite(number) else "score is not finite"
