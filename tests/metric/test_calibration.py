"""Expected calibration error: by hand, in its bins, and the same from row statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.core.example import Answer
from weft.metric.bootstrap import interval
from weft.metric.calibration import NUM_BINS, bins_of, confidence, label_calibration, yes_calibration


def says(label, share):
    return Answer(label=label, probabilities={label: share, "other": 1 - share})


def test_gaps_are_weighed_by_their_bins():
    # two bins: 0.9 twice, right once; 0.6 twice, right twice
    answers = [says("a", 0.9), says("a", 0.9), says("b", 0.6), says("b", 0.6)]
    value = label_calibration().value(["a", "b", "b", "b"], answers)
    assert value == pytest.approx(0.5 * (0.9 - 0.5) + 0.5 * (1 - 0.6))


def test_opposite_gaps_cancel_in_one_bin_and_nowhere_else():
    golds = ["a", "b"]
    one_bin = [says("a", 0.61), says("a", 0.62)]
    assert label_calibration().value(golds, one_bin) == pytest.approx(abs(0.5 - 0.615))
    two_bins = [says("a", 0.5), says("a", 0.95)]
    assert label_calibration().value(golds, two_bins) == pytest.approx((0.5 + 0.95) / 2)


def test_bins_are_of_equal_width_and_take_their_lower_end():
    edges = np.arange(NUM_BINS) / NUM_BINS
    assert bins_of(edges + 1e-9).tolist() == list(range(NUM_BINS))
    assert bins_of(np.array([1.0, 0.0])).tolist() == [NUM_BINS - 1, 0]


def test_an_answer_without_probabilities_is_sure():
    assert confidence(Answer(label="a")) == 1.0
    assert label_calibration().value(["a", "b"], [Answer(label="a"), Answer(label="a")]) == 0.5


def test_of_several_labels_every_probability_counts():
    answers = [
        Answer(label=["a"], probabilities={"a": 0.8, "b": 0.3}),
        Answer(label=[], probabilities={"a": 0.1, "b": 0.1}),
    ]
    value = yes_calibration().value([("a",), ("b",)], answers)
    # bins: 0.8 true, 0.3 false, and 0.1 twice of which one is true
    assert value == pytest.approx((0.2 + 0.3 + abs(1 - 0.2)) / 4)


shares = st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.5, 1)), min_size=1, max_size=30)


@settings(deadline=None)
@given(shares, st.integers(0, 99))
def test_row_statistics_add_up_to_the_value_of_any_resample(rows, seed):
    golds, answers = [gold for gold, _ in rows], [says("a", share) for _, share in rows]
    metric = label_calibration()
    picks = np.random.default_rng(seed).integers(len(rows), size=len(rows))
    sums = metric.statistics(golds, answers)[picks].sum(0)
    written_out = metric.value([golds[at] for at in picks], [answers[at] for at in picks])
    assert metric.finish(sums) == pytest.approx(written_out, abs=1e-12)


def test_it_has_an_interval_around_it():
    random = np.random.default_rng(0)
    golds = ["a" if draw < 0.7 else "b" for draw in random.random(400)]
    answers = [says("a", 0.95)] * 400
    metric = label_calibration()
    low, high = interval(metric, golds, answers, resamples=500, seed=0)
    value = metric.value(golds, answers)
    assert low < value < high
    assert value == pytest.approx(0.95 - golds.count("a") / 400)
    assert not metric.higher_is_better
