"""Metrics of single-label and multi-label classification. Golds are label strings, or tuples of them.

Legend: N rows, C classes that occur in golds or answers, K statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from weft.core.example import Answer
from weft.metric.base import FloatArray, Metric, f1, mean_metric, ratio
from weft.metric.calibration import label_calibration, yes_calibration

OF_LABEL: Final = "f1:"
"""What the name of the F1 of one label begins with."""


def accuracy() -> Metric:
    """Return the share of rows whose answer's ``label`` is the gold one."""
    return mean_metric("accuracy", _accuracy, lambda gold, answer: float(answer.label == gold))


def single_label_metrics() -> tuple[Metric, ...]:
    """Return accuracy, macro F1, Matthews correlation and calibration error; golds are labels, answers carry ``label``."""
    return (
        accuracy(),
        Metric("macro_f1", _macro_f1, _class_counts, _finish_macro_f1),
        Metric("mcc", _mcc, _agreement, _finish_mcc),
        label_calibration(),
    )


def label_f1(label: str) -> Metric:
    """Return the F1 of one label against all others; golds are labels, answers carry ``label``.

    GLUE and SuperGLUE judge MRPC, QQP and MultiRC by it.
    """

    def is_label(rows: Sequence[str]) -> list[bool]:
        return [row == label for row in rows]

    def value(golds: Sequence[str], answers: Sequence[Answer]) -> float:
        from sklearn.metrics import f1_score

        gold, answered = is_label(golds), is_label(_predicted(answers))
        # The label in neither: scikit-learn warns that there is nothing to count. The value is 0 by convention.
        return float(f1_score(gold, answered)) if any(gold) or any(answered) else 0.0

    def statistics(golds: Sequence[str], answers: Sequence[Answer]) -> FloatArray:
        """Return (N, 3): right, answered and gold."""
        gold, answered = np.array(is_label(golds)), np.array(is_label(_predicted(answers)))
        return np.stack([gold & answered, answered, gold], axis=1).astype(np.float64)

    return Metric(f"{OF_LABEL}{label}", value, statistics, lambda sums: f1(*np.moveaxis(sums, -1, 0)))


def led_by(name: str | None, metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
    """Return ``metrics`` with the one called ``name`` first: one of them, or ``f1:<label>``; as they are for None."""
    if name is None:
        return metrics
    if name.startswith(OF_LABEL):
        return (label_f1(name.removeprefix(OF_LABEL)), *metrics)
    return tuple(sorted(metrics, key=lambda metric: metric.name != name))


def leaders(metrics: Sequence[Metric]) -> tuple[str, ...]:
    """Return the names of those of ``metrics`` that say how good labels are: the more the better."""
    return tuple(metric.name for metric in metrics if metric.higher_is_better)


def multi_label_metrics() -> tuple[Metric, ...]:
    """Return micro F1, macro F1, exact-set accuracy and calibration error; golds are tuples of labels, answers lists."""
    return (
        Metric("micro_f1", _multi_micro_f1, _multi_counts, _finish_micro_f1),
        Metric("macro_f1", _multi_macro_f1, _multi_counts, _finish_macro_f1),
        mean_metric(
            "subset_accuracy", _subset_accuracy, lambda gold, answer: float(_labels(answer) == set(gold))
        ),
        yes_calibration(),
    )


# ------------------------------------------------------------------------------------------ single label
def _predicted(answers: Sequence[Answer]) -> list[str]:
    return [str(answer.label) for answer in answers]


def _accuracy(golds: Sequence[str], answers: Sequence[Answer]) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(list(golds), _predicted(answers)))


def _macro_f1(golds: Sequence[str], answers: Sequence[Answer]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(list(golds), _predicted(answers), average="macro"))


def _mcc(golds: Sequence[str], answers: Sequence[Answer]) -> float:
    from sklearn.metrics import matthews_corrcoef

    predicted = _predicted(answers)
    # One class on both sides: scikit-learn warns that its confusion matrix has one cell. The value is 0 by convention.
    return float(matthews_corrcoef(list(golds), predicted)) if len({*golds, *predicted}) > 1 else 0.0


def _one_hot(labels: Sequence[str], classes: Sequence[str]) -> FloatArray:
    index = {label: column for column, label in enumerate(classes)}
    hot_NC = np.zeros((len(labels), len(classes)))
    hot_NC[np.arange(len(labels)), [index[label] for label in labels]] = 1.0
    return hot_NC


def _both_one_hot(golds: Sequence[str], answers: Sequence[Answer]) -> tuple[FloatArray, FloatArray]:
    predicted = _predicted(answers)
    classes = sorted({*golds, *predicted})
    return _one_hot(list(golds), classes), _one_hot(predicted, classes)


def _class_counts(golds: Sequence[str], answers: Sequence[Answer]) -> FloatArray:
    """Return (N, 3C): right, answered and gold, class by class."""
    gold_NC, answer_NC = _both_one_hot(golds, answers)
    return np.concatenate([gold_NC * answer_NC, answer_NC, gold_NC], axis=1)


def _finish_macro_f1(sums: FloatArray) -> FloatArray:
    """Average over the classes that occur in the (re)sample, as scikit-learn does by default."""
    right, answered, gold = np.split(sums, 3, axis=-1)
    present = ((answered + gold) > 0).sum(-1).astype(np.float64)
    return ratio(f1(right, answered, gold).sum(-1), present)


def _agreement(golds: Sequence[str], answers: Sequence[Answer]) -> FloatArray:
    """Return (N, 2C + 1): gold and answer one-hot, and whether they agree."""
    gold_NC, answer_NC = _both_one_hot(golds, answers)
    return np.concatenate([gold_NC, answer_NC, (gold_NC * answer_NC).sum(1, keepdims=True)], axis=1)


def _finish_mcc(sums: FloatArray) -> FloatArray:
    """Return the multi-class Matthews correlation (Gorodkin 2004, R_K), 0.0 where one side is constant."""
    gold, answered = np.split(sums[..., :-1], 2, axis=-1)
    num_rows, right = gold.sum(-1), sums[..., -1]
    covariance = right * num_rows - (gold * answered).sum(-1)
    spread_gold = num_rows**2 - (gold**2).sum(-1)
    spread_answered = num_rows**2 - (answered**2).sum(-1)
    return ratio(covariance, np.sqrt(spread_gold * spread_answered))


# ------------------------------------------------------------------------------------------- multi-label
def _labels(answer: Answer) -> set[str]:
    return set(answer.label or ())


def _indicators(golds: Sequence[Any], answers: Sequence[Answer]) -> tuple[FloatArray, FloatArray]:
    gold_sets, answer_sets = [set(gold) for gold in golds], [_labels(answer) for answer in answers]
    classes = sorted(set[str]().union(*gold_sets, *answer_sets))
    gold_NC = np.array([[label in row for label in classes] for row in gold_sets], dtype=np.float64)
    answer_NC = np.array([[label in row for label in classes] for row in answer_sets], dtype=np.float64)
    return gold_NC, answer_NC


def _multi_counts(golds: Sequence[Any], answers: Sequence[Answer]) -> FloatArray:
    gold_NC, answer_NC = _indicators(golds, answers)
    return np.concatenate([gold_NC * answer_NC, answer_NC, gold_NC], axis=1)


def _finish_micro_f1(sums: FloatArray) -> FloatArray:
    right, answered, gold = (part.sum(-1) for part in np.split(sums, 3, axis=-1))
    return f1(right, answered, gold)


def _multi_f1(golds: Sequence[Any], answers: Sequence[Answer], *, average: str) -> float:
    from sklearn.metrics import f1_score

    gold_NC, answer_NC = _indicators(golds, answers)
    if not gold_NC.shape[1]:  # no label on either side in any row
        return 0.0
    if gold_NC.shape[1] == 1:  # scikit-learn reads one column as plain binary labels
        return float(f1_score(gold_NC[:, 0], answer_NC[:, 0]))
    return float(f1_score(gold_NC, answer_NC, average=average))


def _multi_micro_f1(golds: Sequence[Any], answers: Sequence[Answer]) -> float:
    return _multi_f1(golds, answers, average="micro")


def _multi_macro_f1(golds: Sequence[Any], answers: Sequence[Answer]) -> float:
    return _multi_f1(golds, answers, average="macro")


def _subset_accuracy(golds: Sequence[Any], answers: Sequence[Answer]) -> float:
    from sklearn.metrics import accuracy_score

    gold_NC, answer_NC = _indicators(golds, answers)
    if not gold_NC.shape[1]:
        return 1.0
    return float(
        accuracy_score(gold_NC[:, 0], answer_NC[:, 0])
        if gold_NC.shape[1] == 1
        else accuracy_score(gold_NC, answer_NC)
    )
