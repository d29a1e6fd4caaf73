"""What a metric is: a value from a well-kept library, and row statistics that make its interval cheap and exact.

Legend: N rows, K statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.core.example import Answer

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metric:
    """One number about answers.

    A metric is a function of the SUM of row statistics, so a bootstrap is one matrix product: resample counts
    (B, N) times statistics (N, K), then ``finish``. ``value`` (from the library) and ``finish`` of the plain sum agree.

    Attributes:
        name: as reported (``accuracy``, ``span_f1``).
        value: golds, answers -> float.
        statistics: golds, answers -> (N, K).
        finish: sums (..., K) -> values (...,).
        best: the value of perfect answers (1.0, or 0.0 for errors).
        higher_is_better: the direction.
        selects: whether checkpoints may be chosen by it; if not, they are by the loss on the dev rows, where there is one.
        signature: what the value depends on besides golds and answers (tokenizer, smoothing, version), from the golds.
    """

    name: str
    value: Callable[[Sequence[Any], Sequence[Answer]], float]
    statistics: Callable[[Sequence[Any], Sequence[Answer]], FloatArray]
    finish: Callable[[FloatArray], FloatArray]
    best: float = 1.0
    higher_is_better: bool = True
    selects: bool = True
    signature: Callable[[Sequence[Any]], str] | None = None


def ratio(numerators: FloatArray, denominators: FloatArray) -> FloatArray:
    """Return the element-wise quotient, 0.0 where the denominator is 0 (nothing to be right about)."""
    return np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators > 0)


def f1(correct: FloatArray, answered: FloatArray, gold: FloatArray) -> FloatArray:
    """Return the harmonic mean of precision and recall from their three counts, 0.0 where all are 0."""
    return ratio(2 * correct, answered + gold)


def mean_of(row_score: Callable[[Any, Answer], float]) -> Callable[[Sequence[Any], Sequence[Answer]], float]:
    """Return the mean over rows of a score that no library has, as a metric's ``value``."""

    def value(golds: Sequence[Any], answers: Sequence[Answer]) -> float:
        return sum(row_score(g, a) for g, a in zip(golds, answers, strict=True)) / len(golds)

    return value


def mean_metric(
    name: str,
    value: Callable[[Sequence[Any], Sequence[Answer]], float],
    row_score: Callable[[Any, Answer], float],
) -> Metric:
    """Return the metric that is the plain mean of ``row_score`` over rows; ``value`` is the library's reading of it."""

    def statistics(golds: Sequence[Any], answers: Sequence[Answer]) -> FloatArray:
        return np.array(
            [(row_score(g, a), 1.0) for g, a in zip(golds, answers, strict=True)], dtype=np.float64
        )

    return Metric(name, value, statistics, lambda sums: ratio(sums[..., 0], sums[..., 1]))
