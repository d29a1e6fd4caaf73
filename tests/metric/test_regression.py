"""Regression metrics: closed forms, constants, and numbers far from zero."""

from __future__ import annotations

import math

import numpy as np
import pytest

from weft.core.example import Answer
from weft.metric.regression import regression_metrics

PEARSON, SPEARMAN, RMSE = regression_metrics()


def _answers(*values: float) -> list[Answer]:
    return [Answer(value=value) for value in values]


def test_a_line_is_perfectly_correlated_and_a_falling_one_perfectly_not():
    assert PEARSON.value([1.0, 2.0, 3.0], _answers(10, 20, 30)) == pytest.approx(1.0)
    assert PEARSON.value([1.0, 2.0, 3.0], _answers(3, 2, 1)) == pytest.approx(-1.0)


def test_pearson_by_hand():
    assert PEARSON.value([1.0, 2.0, 3.0], _answers(1, 3, 2)) == pytest.approx(0.5)


def test_spearman_sees_order_only():
    assert SPEARMAN.value([1.0, 2.0, 3.0, 4.0], _answers(1, 10, 100, 1000)) == pytest.approx(1.0)
    assert PEARSON.value([1.0, 2.0, 3.0, 4.0], _answers(1, 10, 100, 1000)) < 0.9


def test_rmse_is_an_error_in_the_units_of_the_data():
    assert RMSE.value([1.0, 2.0], _answers(1, 5)) == pytest.approx(3 / math.sqrt(2))
    assert (RMSE.best, RMSE.higher_is_better) == (0.0, False)


@pytest.mark.parametrize("metric", [PEARSON, SPEARMAN])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 + 0.1])
def test_correlation_with_a_constant_is_zero(metric, constant):
    for golds, values in (
        ([1.0, 2.0, 3.0], [constant] * 3),
        ([constant] * 3, [1.0, 2.0, 3.0]),
        ([5.0], [5.0]),
    ):
        assert metric.value(golds, _answers(*values)) == 0.0
        assert metric.finish(metric.statistics(golds, _answers(*values)).sum(0)) == 0.0


@pytest.mark.parametrize("metric", [PEARSON, SPEARMAN])
def test_a_resample_of_one_row_has_no_correlation(metric):
    statistics = metric.statistics([1.0, 2.0, 7.0], _answers(1.1, 2.0, 6.0))
    assert metric.finish(np.array([0.0, 3.0, 0.0]) @ statistics) == 0.0


def test_correlation_survives_a_large_offset():
    golds = [1e9 + x for x in (1.0, 2.0, 3.0)]
    answers = _answers(1e9 + 1, 1e9 + 3, 1e9 + 2)
    assert PEARSON.finish(PEARSON.statistics(golds, answers).sum(0)) == pytest.approx(0.5, abs=1e-6)
