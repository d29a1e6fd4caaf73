"""Metrics of regression. Golds are floats, answers carry ``value``.

Legend: N rows, K statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from weft.core.example import Answer
from weft.metric.base import FloatArray, Metric, ratio

# Below this share of the largest magnitude (or of the full sample's variance), a spread is rounding noise.
_FLAT = 1e-10


def regression_metrics() -> tuple[Metric, ...]:
    """Return Pearson and Spearman correlation and the root mean squared error.

    Correlation with a constant (a mean baseline, or a resample of equal rows) is undefined; here it is 0.0. The
    statistics of Spearman are ranks among the full sample: a resample is not ranked again, which keeps the
    bootstrap one matrix product and changes its interval by the order of 1/N.
    """
    return (
        Metric("pearson", _pearson, _pearson_statistics, _finish_pearson),
        Metric("spearman", _spearman, _spearman_statistics, _finish_pearson),
        Metric("rmse", _rmse, _rmse_statistics, _finish_rmse, best=0.0, higher_is_better=False),
    )


def _columns(golds: Sequence[float], answers: Sequence[Answer]) -> tuple[FloatArray, FloatArray]:
    values = [np.nan if answer.value is None else answer.value for answer in answers]
    return np.array(golds, dtype=np.float64), np.array(values, dtype=np.float64)


def _is_flat(column_N: FloatArray) -> bool:
    return bool(np.ptp(column_N) <= _FLAT * np.abs(column_N).max())


def _standard(column_N: FloatArray) -> FloatArray:
    """Return the column with mean 0 and variance 1: correlation is the same, and its sums do not cancel."""
    if _is_flat(column_N):
        return np.zeros_like(column_N)
    centred_N = column_N - column_N.mean()
    return centred_N / centred_N.std()


def _moments(first_N: FloatArray, second_N: FloatArray) -> FloatArray:
    x, y = _standard(first_N), _standard(second_N)
    return np.stack([x, y, x * x, y * y, x * y, np.ones_like(x)], axis=1)


def _finish_pearson(sums: FloatArray) -> FloatArray:
    x, y, xx, yy, xy, n = (sums[..., column] for column in range(6))
    variance_x, variance_y = n * xx - x * x, n * yy - y * y
    floor = _FLAT * n * n
    product = np.where((variance_x > floor) & (variance_y > floor), variance_x * variance_y, 0.0)
    return ratio(n * xy - x * y, np.sqrt(product))


def _pearson_statistics(golds: Sequence[float], answers: Sequence[Answer]) -> FloatArray:
    return _moments(*_columns(golds, answers))


def _pearson(golds: Sequence[float], answers: Sequence[Answer]) -> float:
    from scipy.stats import pearsonr

    gold_N, value_N = _columns(golds, answers)
    if _is_flat(gold_N) or _is_flat(value_N):
        return 0.0
    result: Any = pearsonr(gold_N, value_N)
    return float(result.statistic)


def _spearman_statistics(golds: Sequence[float], answers: Sequence[Answer]) -> FloatArray:
    from scipy.stats import rankdata

    gold_N, value_N = _columns(golds, answers)
    return _moments(rankdata(gold_N), rankdata(value_N))


def _spearman(golds: Sequence[float], answers: Sequence[Answer]) -> float:
    from scipy.stats import spearmanr

    gold_N, value_N = _columns(golds, answers)
    if np.ptp(gold_N) == 0 or np.ptp(value_N) == 0:
        return 0.0
    result: Any = spearmanr(gold_N, value_N)
    return float(result.statistic)


def _rmse_statistics(golds: Sequence[float], answers: Sequence[Answer]) -> FloatArray:
    gold_N, value_N = _columns(golds, answers)
    return np.stack([(gold_N - value_N) ** 2, np.ones_like(gold_N)], axis=1)


def _rmse(golds: Sequence[float], answers: Sequence[Answer]) -> float:
    from sklearn.metrics import root_mean_squared_error

    return float(root_mean_squared_error(*_columns(golds, answers)))


def _finish_rmse(sums: FloatArray) -> FloatArray:
    return np.sqrt(ratio(sums[..., 0], sums[..., 1]))
