"""Metrics of ordered labels. Golds are label strings, answers carry ``label``; a label counts by its rank.

Legend: N rows, K statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from weft.core.example import Answer
from weft.metric.base import FloatArray, Metric, ratio
from weft.metric.classification import accuracy

Ranked = Callable[[Sequence[Any], Sequence[Answer]], tuple[FloatArray, FloatArray]]


def ordinal_metrics(labels: Sequence[str]) -> tuple[Metric, ...]:
    """Return quadratic weighted kappa, the mean absolute error in ranks, and accuracy.

    Args:
        labels: from the lowest to the highest.
    """
    rank_of = {label: float(rank) for rank, label in enumerate(labels)}

    def ranked(golds: Sequence[Any], answers: Sequence[Answer]) -> tuple[FloatArray, FloatArray]:
        return (
            np.array([rank_of[gold] for gold in golds]),
            np.array([rank_of[str(answer.label)] for answer in answers]),
        )

    return (
        Metric("qwk", _kappa(ranked, len(labels)), _moments(ranked), _finish_kappa),
        Metric("mae", _error(ranked), _errors(ranked), _finish_mean, best=0.0, higher_is_better=False),
        accuracy(),
    )


def _kappa(ranked: Ranked, num_labels: int) -> Callable[[Sequence[Any], Sequence[Answer]], float]:
    def kappa(golds: Sequence[Any], answers: Sequence[Answer]) -> float:
        from sklearn.metrics import cohen_kappa_score

        gold_N, answer_N = ranked(golds, answers)
        if len({*gold_N, *answer_N}) < 2:  # scikit-learn divides 0 by 0
            return 0.0
        ranks = [float(rank) for rank in range(num_labels)]
        return float(cohen_kappa_score(gold_N, answer_N, labels=ranks, weights="quadratic"))

    return kappa


def _moments(ranked: Ranked) -> Callable[[Sequence[Any], Sequence[Answer]], FloatArray]:
    def moments(golds: Sequence[Any], answers: Sequence[Answer]) -> FloatArray:
        gold_N, answer_N = ranked(golds, answers)
        squares = [(gold_N - answer_N) ** 2, gold_N**2, answer_N**2]
        return np.stack([*squares, gold_N, answer_N, np.ones_like(gold_N)], axis=1)

    return moments


def _finish_kappa(sums: FloatArray) -> FloatArray:
    """Return 1 - D / E (Cohen 1968): squared distances as they are, and as they were if answers knew nothing of golds.

    Where both are one and the same constant there is nothing to agree about: 0.
    """
    distances, gold_squares, answer_squares, golds, answers, num_rows = (sums[..., at] for at in range(6))
    expected = gold_squares + answer_squares - 2 * ratio(golds * answers, num_rows)
    return ratio(expected - distances, np.maximum(expected, 0.0))


def _error(ranked: Ranked) -> Callable[[Sequence[Any], Sequence[Answer]], float]:
    def error(golds: Sequence[Any], answers: Sequence[Answer]) -> float:
        from sklearn.metrics import mean_absolute_error

        return float(mean_absolute_error(*ranked(golds, answers)))

    return error


def _errors(ranked: Ranked) -> Callable[[Sequence[Any], Sequence[Answer]], FloatArray]:
    def errors(golds: Sequence[Any], answers: Sequence[Answer]) -> FloatArray:
        gold_N, answer_N = ranked(golds, answers)
        return np.stack([np.abs(gold_N - answer_N), np.ones_like(gold_N)], axis=1)

    return errors


def _finish_mean(sums: FloatArray) -> FloatArray:
    return ratio(sums[..., 0], sums[..., 1])
