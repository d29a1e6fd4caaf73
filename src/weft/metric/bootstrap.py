"""Confidence intervals by the percentile bootstrap over rows: one matrix product, the same numbers for a seed.

Legend: N rows, S resamples, K statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from weft.core.example import Answer
from weft.metric.base import FloatArray, Metric

_CHUNK_VALUES = 2_000_000  # resample counts held at once (16 MB), whatever the number of rows


class Difference(NamedTuple):
    """How much one model's score differs from another's on the same rows.

    Attributes:
        difference: first minus second, in the metric's unit.
        low, high: ends of its interval.
        p: two-sided probability of a difference as far from zero under resampling of the rows.
    """

    difference: float
    low: float
    high: float
    p: float


def interval(
    metric: Metric,
    golds: Sequence[Any],
    answers: Sequence[Answer],
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the ends of the percentile interval of ``metric`` at ``level``.

    Rows are drawn with replacement, N at a time. Source: Efron & Tibshirani 1993, chapter 13.

    Raises:
        ValueError: no rows.
    """
    statistics_NK = _statistics(metric, golds, answers)
    chunks = _resample_counts(len(golds), resamples=resamples, seed=seed)
    values_S = np.concatenate([metric.finish(_product(counts, statistics_NK)) for counts in chunks])
    return _ends(values_S, level)


def paired(
    metric: Metric,
    golds: Sequence[Any],
    first: Sequence[Answer],
    second: Sequence[Answer],
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> Difference:
    """Return how the answers ``first`` differ from ``second``: both are scored on the same resampled rows.

    ``p`` is twice the smaller share of resamples on one side of zero, with one added to both counts so that it is
    never 0 (Davison & Hinkley 1997, section 4.2). The sign is plain: for an error metric, below zero is better.

    Raises:
        ValueError: no rows.
    """
    first_NK, second_NK = _statistics(metric, golds, first), _statistics(metric, golds, second)
    values: list[FloatArray] = []
    for counts in _resample_counts(len(golds), resamples=resamples, seed=seed):
        values.append(metric.finish(_product(counts, first_NK)) - metric.finish(_product(counts, second_NK)))
    values_S = np.concatenate(values)
    side = min(int((values_S <= 0).sum()), int((values_S >= 0).sum()))
    low, high = _ends(values_S, level)
    difference = metric.value(golds, first) - metric.value(golds, second)
    return Difference(difference, low, high, p=min(1.0, 2 * (side + 1) / (resamples + 1)))


def _statistics(metric: Metric, golds: Sequence[Any], answers: Sequence[Answer]) -> FloatArray:
    if not golds:
        raise ValueError(f"{metric.name}: an interval needs at least one row, but there is none.")
    return metric.statistics(golds, answers)


def _resample_counts(num_rows: int, *, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Yield (S, N) counts of how often each row was drawn: multinomial, by counting uniform draws."""
    generator = np.random.default_rng(seed)
    size = max(1, _CHUNK_VALUES // num_rows)
    for start in range(0, resamples, size):
        num = min(size, resamples - start)
        draws_SN = generator.integers(num_rows, size=(num, num_rows))
        draws_SN += np.arange(num)[:, None] * num_rows
        yield (
            np.bincount(draws_SN.ravel(), minlength=num * num_rows).reshape(num, num_rows).astype(np.float64)
        )


def _ends(values_S: FloatArray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values_S, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _product(counts_SN: FloatArray, statistics_NK: FloatArray) -> FloatArray:
    """Return ``counts statistics``, by one thread: numpy's others would spin for a while and keep torch's from a core."""
    with threadpool_limits(1, user_api="blas"):
        return counts_SN @ statistics_NK
