"""How far probabilities are from the shares that come true: the expected calibration error.

Legend: N rows, P probabilities, K statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.core.example import Answer
from weft.metric.base import FloatArray, Metric, ratio

NUM_BINS = 15
"""Bins of equal width, as the paper has them."""


def confidence(answer: Answer) -> float:
    """Return the probability of the answered label; an answer without probabilities is sure of itself."""
    return 1.0 if answer.probabilities is None else answer.probabilities.get(str(answer.label), 0.0)


def label_calibration() -> Metric:
    """Return the error of the answered label's probability (Guo et al. 2017, arXiv:1706.04599, equation 3)."""
    return _metric(several=False)


def yes_calibration() -> Metric:
    """Return the error over every label's probability of rows that may have several."""
    return _metric(several=True)


def bins_of(probabilities_P: FloatArray) -> NDArray[np.int64]:
    """Return the number of each probability's bin; the lower end of a bin belongs to it, and 1 to the last.

    Example:
        >>> bins_of(np.array([0.0, 0.5, 1.0])).tolist()
        [0, 7, 14]
    """
    return np.minimum((probabilities_P * NUM_BINS).astype(np.int64), NUM_BINS - 1)


class Claims(NamedTuple):
    """Probabilities that were answered, and what came true.

    Attributes:
        rows_P: the row of each.
        claimed_P: each probability.
        true_P: 1.0 where it came true, else 0.0.
    """

    rows_P: NDArray[np.int64]
    claimed_P: FloatArray
    true_P: FloatArray


def claims(golds: Sequence[Any], answers: Sequence[Answer], *, several: bool) -> Claims:
    """Return what was claimed of each row: that the answered label is right, or that each label applies."""
    if several:
        said = [_yes(gold, answer) for gold, answer in zip(golds, answers, strict=True)]
        rows_P = np.repeat(np.arange(len(said)), [len(own) for own in said])
        claimed = [share for own in said for share in own.values()]
        true = [label in gold for gold, own in zip(golds, said, strict=True) for label in own]
    else:
        rows_P = np.arange(len(answers))
        claimed = [confidence(answer) for answer in answers]
        true = [answer.label == gold for gold, answer in zip(golds, answers, strict=True)]
    return Claims(rows_P, np.array(claimed, dtype=np.float64), np.array(true, dtype=np.float64))


def _yes(gold: Sequence[str], answer: Answer) -> Mapping[str, float]:
    """Return the probability of each label; an answer without probabilities is sure of what it says, and only that."""
    if answer.probabilities is not None:
        return answer.probabilities
    answered = set(answer.label or ())
    return {label: float(label in answered) for label in sorted(answered.union(gold))}


def _metric(*, several: bool) -> Metric:
    return Metric(
        "ece",
        partial(_value, several=several),
        partial(_statistics, several=several),
        _finish,
        best=0.0,
        higher_is_better=False,
    )


def _value(golds: Sequence[Any], answers: Sequence[Answer], *, several: bool) -> float:
    """Return the gap between claimed and true in each bin, averaged over the probabilities."""
    _, claimed_P, true_P = claims(golds, answers, several=several)
    bins_P = bins_of(claimed_P)
    members = [bins_P == number for number in np.unique(bins_P)]
    return float(sum(abs(true_P[own].mean() - claimed_P[own].mean()) * own.mean() for own in members))


def _statistics(golds: Sequence[Any], answers: Sequence[Answer], *, several: bool) -> FloatArray:
    """Return (N, bins + 1): claimed minus true in each bin, and the number of probabilities."""
    rows_P, claimed_P, true_P = claims(golds, answers, several=several)
    statistics_NK = np.zeros((len(golds), NUM_BINS + 1))
    np.add.at(statistics_NK, (rows_P, bins_of(claimed_P)), claimed_P - true_P)
    statistics_NK[:, -1] = np.bincount(rows_P, minlength=len(golds))
    return statistics_NK


def _finish(sums: FloatArray) -> FloatArray:
    return ratio(np.abs(sums[..., :-1]).sum(-1), sums[..., -1])
