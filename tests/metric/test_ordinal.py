"""Metrics of ordered labels against values worked out by hand and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.example import Answer
from weft.metric.ordinal import ordinal_metrics

LABELS = ("1", "2", "3", "4", "5")


def _values(golds, labels, order=LABELS):
    answers = [Answer(label=label) for label in labels]
    return {metric.name: metric.value(golds, answers) for metric in ordinal_metrics(order)}


def test_values_by_hand():
    found = _values(["1", "2", "3", "5"], ["1", "3", "3", "3"])
    # squared distances 0 + 1 + 0 + 4; all pairs of a gold and an answer: golds 0 1 2 4, answers 0 2 2 2
    pairs = sum((g - a) ** 2 for g in (0, 1, 2, 4) for a in (0, 2, 2, 2)) / 4
    assert found == pytest.approx({"qwk": 1 - 5 / pairs, "mae": 3 / 4, "accuracy": 0.5})


def test_a_label_counts_by_its_rank_and_not_by_its_name():
    order = ("poor", "fair", "good")
    assert _values(["poor", "good"], ["good", "poor"], order) == pytest.approx(
        {"qwk": -1, "mae": 2, "accuracy": 0}
    )
    assert _values(["10", "30"], ["20", "30"], ("10", "20", "30"))["mae"] == 0.5


@pytest.mark.parametrize("labels", [["3", "3"], ["2", "2"]])
def test_a_constant_answer_agrees_by_chance_only(labels):
    assert _values(["3", "3"], labels)["qwk"] == 0.0
    assert _values(["1", "5"], labels)["qwk"] == 0.0


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=30))
def test_sums_of_row_statistics_give_the_same(pairs):
    golds, answers = [gold for gold, _ in pairs], [Answer(label=label) for _, label in pairs]
    for metric in ordinal_metrics(LABELS):
        sums = metric.statistics(golds, answers).sum(0)
        assert float(metric.finish(sums)) == pytest.approx(metric.value(golds, answers), abs=1e-9)
        twice = metric.finish(np.stack([sums, 2 * sums]))
        assert twice[0] == pytest.approx(twice[1])


def test_directions():
    kappa, error, right = ordinal_metrics(LABELS)
    assert (kappa.name, kappa.best, kappa.higher_is_better) == ("qwk", 1.0, True)
    assert (error.name, error.best, error.higher_is_better) == ("mae", 0.0, False)
    assert (right.name, right.best) == ("accuracy", 1.0)
