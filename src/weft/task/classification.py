"""Classification of a text or a pair of texts: one label a row, or any number of them.

Legend: R rows, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from weft.core.batch import Target
from weft.core.example import Answer, Dropped, Encoded, Purpose, Row
from weft.core.features import Pooling
from weft.core.layout import Layout
from weft.core.loss import Loss
from weft.core.network import Inference, TrunkInfo
from weft.core.stock import Stock
from weft.core.tensors import float32, int64
from weft.data.table import column_names
from weft.errors import DataError, nearest
from weft.metric.base import Metric
from weft.metric.classification import (
    OF_LABEL,
    leaders,
    led_by,
    multi_label_metrics,
    single_label_metrics,
)
from weft.recipe.spec import TaskSpec
from weft.report.details import Block
from weft.task.base import Tokenizer
from weft.task.criterion import PLAIN, Criterion, CriterionSpec, class_weights, imbalance, yes_weights
from weft.task.documents import AnyWindows
from weft.task.heads import SequenceHead, of_temperature
from weft.task.indicators import find_columns, is_several, labels_of
from weft.task.labels import (
    SEPARATOR,
    are_ids,
    difference,
    given_labels,
    is_absent,
    label_set,
    label_text,
    labels_in,
    named,
)
from weft.task.sequence import Columns, Judged, collate_rows
from weft.task.shown import label_blocks, set_blocks
from weft.task.temperature import fit_choice, fit_yes, table_of, tempered_choice, tempered_yes
from weft.task.texts import Texts


class ClassificationSpec(CriterionSpec):
    """A recipe's classification task."""

    kind: Literal["classification"]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Task family."""
    labels: Annotated[tuple[str, ...], BeforeValidator(given_labels)] = ()
    """Labels to learn in the order of the outputs, and of the ids where data has ids; default: those of the training rows,
    sorted. Rows with others are dropped."""
    multi_label: bool = False
    """Whether a row may have any number of labels (a list, 'a|b', or a column each with 0 and 1) instead of exactly one."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Only for multi_label: a label is answered when its probability is above this."""
    pooling: Pooling | None = None
    """How a text becomes one vector: pooler, cls, mean or last; default: as the architecture's own classifier does."""
    windows: AnyWindows | None = None
    """How a text beyond max_tokens is read whole: mean or max (of the outputs of its windows); default: it is cut."""
    balance: Literal["none", "weights", "effective", "sampling"] = "none"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Small classes count more: weights (inverse frequency), effective (arXiv:1901.05555), or sampling: drawn more often."""

    calibration: Literal["temperature", "none"] = "temperature"
    """Whether logits are divided by a temperature that is fitted to dev rows, so that probabilities come true (arXiv:1706.04599)."""

    metric: str | None = None
    """What checkpoints are chosen by: accuracy, macro_f1, mcc (Matthews) or f1:<label>; of several labels micro_f1, macro_f1
    or subset_accuracy; default: the first of them."""

    @model_validator(mode="after")
    def _metric_is_known(self) -> Self:
        names = leaders(multi_label_metrics() if self.multi_label else single_label_metrics())
        is_of_label = self.metric is not None and self.metric.startswith(OF_LABEL) and not self.multi_label
        if self.metric is not None and not is_of_label and self.metric not in names:
            known = [*names, *([] if self.multi_label else [f"{OF_LABEL}<label>"])]
            raise ValueError(f"metric: must be one of {', '.join(known)}, but is {self.metric}")
        return self

    @model_validator(mode="after")
    def _sampling_needs_one_label(self) -> Self:
        if self.balance == "sampling" and self.multi_label:
            raise ValueError(
                "balance: sampling needs one label a row, but multi_label is true; use weights or effective"
            )
        return self

    @model_validator(mode="after")
    def _threshold_needs_multi_label(self) -> Self:
        if "threshold" in self.model_fields_set and not self.multi_label:
            raise ValueError(
                "threshold: needs multi_label: true, but that is not set, and a single label is the most probable one. Leave "
                "it out, or set multi_label"
            )
        return self


@dataclass(frozen=True, slots=True)
class Classification:
    """A fitted classification task.

    Attributes:
        name: of the task.
        texts: how they are read.
        labels: in the order of the outputs.
        multi_label: whether a row may have any number of them.
        threshold: above which a label is answered, of several.
        criterion: how the loss is summed.
        draws_evenly: whether training rows of all labels are drawn equally often.
        calibrates: whether a temperature is fitted to dev rows.
        temperature: of the head's outputs: what they are divided by.
        has_ids: whether data holds numbers of ``labels`` instead of labels.
        metric: that checkpoints are chosen by; None for the family's first.
    """

    kind: ClassVar[str] = "classification"
    spec_type: ClassVar[type[TaskSpec]] = ClassificationSpec
    wants_lm_head: ClassVar[bool] = False

    name: str
    texts: Texts
    labels: tuple[str, ...]
    multi_label: bool = False
    threshold: float = 0.5
    criterion: Criterion = PLAIN
    draws_evenly: bool = False
    calibrates: bool = True
    temperature: float = 1.0
    has_ids: bool = False
    metric: str | None = None

    @classmethod
    def fit(cls, name: str, spec: TaskSpec, rows: Sequence[Row]) -> Self:
        """Return the task with the labels that ``rows`` hold, or that ``spec`` gives."""
        spec = cast(ClassificationSpec, spec)
        columns = find_columns(rows, spec.columns, multi_label=spec.multi_label, what=f"tasks.{name}")
        sets = [_labels_of(row, columns, multi_label=spec.multi_label) for row in rows]
        has_ids = are_ids(labels_in(sets), spec.labels)
        sets = [one and named(one, spec.labels) for one in sets] if has_ids else sets
        seen = labels_in(sets)
        labels = spec.labels or _columns_of(columns, rows) or seen
        least = 1 if spec.multi_label else 2
        if 0 < len(spec.labels) < least:
            raise DataError(
                f"tasks.{name}.labels: must name at least {least} labels, but names {spec.labels[0]} alone. Column "
                f"{columns['label']!r} holds {', '.join(seen[:20]) or 'none'}."
            )
        if len(labels) < least or not seen:
            raise DataError(
                f"tasks.{name}: column {columns['label']!r} must hold at least {least} different labels, but holds "
                f"{list(seen)} in {len(rows)} rows. Give the right column under columns: {{label: ...}}."
            )
        if not set(labels) & set(seen):
            raise DataError(
                f"tasks.{name}.labels: must name labels of column {columns['label']!r}, but {list(labels)} has none of "
                f"them. Choices: {', '.join(seen[:20])}."
            )
        _check_metric(name, spec.metric, labels)
        criterion = Criterion.of(spec, _weights([one for one in sets if one is not None], labels, spec))
        return cls(
            name,
            Texts(columns, spec.pooling, spec.windows),
            labels,
            spec.multi_label,
            spec.threshold,
            criterion,
            draws_evenly=spec.balance == "sampling",
            calibrates=spec.calibration == "temperature",
            has_ids=has_ids,
            metric=spec.metric,
        )

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> Self:
        """Return the task that ``config()`` described."""
        criterion = Criterion.from_config(config["criterion"]) if "criterion" in config else PLAIN
        return cls(
            name,
            Texts.from_config(config),
            tuple(config["labels"]),
            config["multi_label"],
            config["threshold"],
            criterion,
            draws_evenly=config.get("draws_evenly", False),
            calibrates=config.get("calibrates", False),
            temperature=config.get("temperature", 1.0),
            has_ids=config.get("has_ids", False),
            metric=config.get("metric"),
        )

    def config(self) -> dict[str, Any]:
        """Return labels, columns and options as JSON values."""
        return {
            **self.texts.config(),
            "labels": list(self.labels),
            "multi_label": self.multi_label,
            "threshold": self.threshold,
            "criterion": self.criterion.config(),
            "draws_evenly": self.draws_evenly,
            "calibrates": self.calibrates,
            "temperature": self.temperature,
            "has_ids": self.has_ids,
            "metric": self.metric,
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
        labels = _labels_of(row, self.texts.columns, multi_label=self.multi_label)
        if labels is not None and self.has_ids:
            labels = named(labels, self.labels)
        if labels is None or is_absent(labels, self.labels):
            return Dropped(row.where, "no label") if purpose is Purpose.LEARN else Judged(None, None)
        if not set(labels) <= set(self.labels):
            return Dropped(row.where, "label not in the list")
        if not self.multi_label:
            number = self.labels.index(labels[0])
            return Judged(number, labels[0], stratum=number if self.draws_evenly else 0)
        hot = tuple(float(label in labels) for label in self.labels)
        return Judged(hot, tuple(label for label in self.labels if label in labels))

    def collate(self, encoded: Sequence[Encoded], rows: Sequence[int], layout: Layout) -> Target:  # noqa: ARG002
        """Return the target: ``labels`` is (R,) class numbers, or (R, C) yes and no when multi-label."""
        values = float32 if self.multi_label else int64
        return self.criterion.weigh(collate_rows(encoded, rows, name="labels", values=values))

    def head(self, info: TrunkInfo, *, dropout: float, seed: int) -> SequenceHead:
        """Return a new head with one output a label; a temperature is its unit, so stock models have it in their weights."""
        units, outputs = of_temperature(self.temperature), len(self.labels)
        return self.texts.head(info, outputs, task=self.name, dropout=dropout, seed=seed, units=units)

    def loss(self, outputs: Tensor, target: Target) -> Loss:
        """Return cross entropy, or for multi-label independent yes/no losses averaged over labels."""
        return self.criterion.loss(outputs, target)

    def answers(self, inference: Inference, encoded: Sequence[Encoded]) -> list[Answer]:
        """Return label and probabilities of each row."""
        probabilities = inference.numbers(self.name, torch.sigmoid if self.multi_label else _softmax)
        assert len(encoded) == len(probabilities)
        return [self._answer(row) for row in probabilities]

    def _answer(self, probabilities: Sequence[float]) -> Answer:
        by_label = dict(zip(self.labels, probabilities, strict=True))
        if self.multi_label:
            chosen = [label for label, probability in by_label.items() if probability > self.threshold]
            return Answer(label=chosen, probabilities=by_label)
        return Answer(self.labels[probabilities.index(max(probabilities))], by_label)

    def calibrated(self, golds: Sequence[Any], answers: Sequence[Answer]) -> tuple[Self, list[Answer]]:
        """Return the task with the temperature that fits these dev rows, and its answers to them at that temperature.

        The most probable label stays what it was.
        """
        if not self.calibrates or not golds:
            return self, list(answers)
        given_NC = table_of(answers)
        if self.multi_label:
            yes_NC = np.array([[float(label in gold) for label in self.labels] for gold in golds])
            temperature = fit_yes(given_NC, yes_NC)
            tempered_NC = tempered_yes(given_NC, temperature)
        else:
            temperature = fit_choice(given_NC, np.array([self.labels.index(gold) for gold in golds]))
            tempered_NC = tempered_choice(given_NC, temperature)
        task = replace(self, temperature=temperature)
        return task, [task._answer(row) for row in tempered_NC.tolist()]

    def shown(self, golds: Sequence[Any], answers: Sequence[Answer]) -> tuple[Block, ...]:
        """Return which labels are taken for which, the scores of each, and what probabilities are worth."""
        if self.multi_label:
            return set_blocks(golds, answers, temperature=self.temperature)
        return label_blocks(golds, answers, self.labels, temperature=self.temperature)

    def baseline(self, golds: Sequence[Any], num_answers: int) -> list[Answer]:
        """Return the most frequent label (or set of labels) for every row; of equals the first in label order."""
        shares = {label: count / max(1, len(golds)) for label, count in self.describe(golds).items()}
        if not self.multi_label:
            return [Answer(label=max(shares, key=shares.__getitem__), probabilities=shares)] * num_answers
        counts = Counter(tuple(gold) for gold in golds)
        common = min(counts, key=lambda labels: (-counts[labels], labels), default=())
        return [Answer(label=list(common), probabilities=shares)] * num_answers

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The one that the recipe names first, else accuracy, or micro F1 when multi-label."""
        return led_by(self.metric, multi_label_metrics() if self.multi_label else single_label_metrics())

    def describe(self, golds: Sequence[Any]) -> dict[str, int]:
        """Return the number of rows that have each label."""
        counts = Counter(label for gold in golds for label in (gold if self.multi_label else (gold,)))
        return {label: counts[label] for label in self.labels}

    def warnings(self, golds: Sequence[Any]) -> tuple[str, ...]:
        """Return a warning where labels differ much in size and nothing is done about it."""
        is_answered = self.multi_label or self.draws_evenly or self.criterion.weights
        return () if is_answered else imbalance(self.name, self.describe(golds))

    def stock(self) -> Stock:
        """Return what a stock transformers model would say of this task, for export."""
        problem = "multi_label_classification" if self.multi_label else "single_label_classification"
        return self.texts.stock(self.labels, problem)

    def same_head(self, config: Mapping[str, Any]) -> str | None:
        """Return why an old head does not fit: labels, their order or kind, or pooling changed."""
        if config.get("multi_label") != self.multi_label:
            return f"multi_label is now {self.multi_label}"
        return self.texts.changed(config) or difference(config.get("labels", ()), self.labels)


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


def _weights(
    rows: Sequence[Sequence[str]], labels: Sequence[str], spec: ClassificationSpec
) -> tuple[float, ...]:
    """Return what each of ``labels`` counts, from those of the training rows that can be used."""
    usable = [own for own in rows if set(own) <= set(labels)]
    found = Counter(label for own in usable for label in own)
    counts = [found[label] for label in labels]
    return yes_weights(counts, len(usable), spec) if spec.multi_label else class_weights(counts, spec)


def _check_metric(name: str, metric: str | None, labels: Sequence[str]) -> None:
    label = (metric or "").removeprefix(OF_LABEL)
    if metric is not None and metric.startswith(OF_LABEL) and label not in labels:
        raise DataError(
            f"tasks.{name}.metric: must be the F1 of a label, but {label!r} is none. {nearest(label, labels)}"
        )


def _columns_of(columns: Columns, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the labels that have a column each, none where one column holds them."""
    label = str(columns["label"])
    return tuple(label.split(SEPARATOR)) if is_several(label, column_names(rows)) else ()


def _labels_of(row: Row, columns: Columns, *, multi_label: bool) -> tuple[str, ...] | None:
    column = str(columns["label"])
    if is_several(column, row.values):
        return labels_of(row, column)
    value = row.values.get(column)
    if multi_label:
        return label_set(value)
    text = label_text(value)
    return None if text is None else (text,)
