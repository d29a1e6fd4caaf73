"""The bootstrap: known distributions, determinism, coverage, and pairs on the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from weft.core.example import Answer
from weft.metric import bootstrap
from weft.metric.bootstrap import interval, paired
from weft.metric.classification import single_label_metrics
from weft.metric.regression import regression_metrics

ACCURACY = single_label_metrics()[0]
RMSE = regression_metrics()[2]


def _right(num_right: int, num: int) -> tuple[list[str], list[Answer]]:
    return ["a"] * num, [Answer(label="a" if i < num_right else "b") for i in range(num)]


def test_the_interval_of_accuracy_is_the_binomials():
    low, high = interval(ACCURACY, *_right(70, 100), resamples=20_000, seed=1)
    assert (low, high) == pytest.approx(tuple(binom.ppf([0.025, 0.975], 100, 0.7) / 100), abs=0.011)


def test_the_level_is_the_share_inside():
    golds, answers = _right(50, 100)
    wide, narrow = (interval(ACCURACY, golds, answers, resamples=5000, seed=1, level=x) for x in (0.99, 0.5))
    assert wide[0] < narrow[0] < 0.5 < narrow[1] < wide[1]
    assert narrow == pytest.approx(tuple(binom.ppf([0.25, 0.75], 100, 0.5) / 100), abs=0.011)


def test_certain_answers_have_no_width():
    assert interval(ACCURACY, *_right(5, 5), resamples=100, seed=0) == (1.0, 1.0)


def test_equal_seeds_give_equal_ends_and_others_do_not():
    golds = list(np.linspace(0, 1, 50))
    answers = [Answer(value=x * x) for x in golds]
    first, again, other = (interval(RMSE, golds, answers, resamples=200, seed=seed) for seed in (3, 3, 4))
    assert first == again != other


def test_chunks_do_not_change_the_distribution(monkeypatch):
    golds, answers = _right(70, 100)
    monkeypatch.setattr(bootstrap, "_CHUNK_VALUES", 1000)
    low, high = interval(ACCURACY, golds, answers, resamples=4000, seed=1)
    assert (low, high) == pytest.approx(tuple(binom.ppf([0.025, 0.975], 100, 0.7) / 100), abs=0.011)


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_every_resample_draws_as_many_rows_as_there_are(monkeypatch, chunk):
    monkeypatch.setattr(bootstrap, "_CHUNK_VALUES", chunk)
    counts = np.concatenate(list(bootstrap._resample_counts(5, resamples=9, seed=0)))
    assert counts.shape == (9, 5)
    np.testing.assert_array_equal(counts.sum(1), np.full(9, 5.0))


def test_ninety_five_percent_intervals_hold_the_truth_about_that_often():
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        golds, answers = _right(int(generator.binomial(200, 0.6)), 200)
        low, high = interval(ACCURACY, golds, answers, resamples=300, seed=trial)
        hits += low <= 0.6 <= high
    assert 180 <= hits <= 199


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="at least one row"):
        interval(ACCURACY, [], [], resamples=10, seed=0)


def test_a_model_does_not_differ_from_itself():
    golds, answers = _right(30, 50)
    assert paired(ACCURACY, golds, answers, answers, resamples=100, seed=0) == (0.0, 0.0, 0.0, 1.0)


def test_a_clear_difference_has_the_smallest_p_that_resampling_can_show():
    golds, good = _right(100, 100)
    _, bad = _right(10, 100)
    found = paired(ACCURACY, golds, good, bad, resamples=999, seed=0)
    assert found.difference == pytest.approx(0.9)
    assert found.p == pytest.approx(0.002)
    assert 0.8 < found.low < found.high < 1.0


def test_the_other_order_turns_the_sign():
    golds = [float(x) for x in range(40)]
    first, second = ([Answer(value=x + step * (-1) ** int(x)) for x in golds] for step in (1.0, 1.5))
    there, back = (
        paired(RMSE, golds, *pair, resamples=200, seed=0) for pair in ((first, second), (second, first))
    )
    assert there.difference == pytest.approx(-back.difference) == pytest.approx(-0.5)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p == back.p


def test_pairing_sees_what_two_separate_intervals_hide():
    golds = ["a"] * 200
    first = [Answer(label="a" if i % 2 else "b") for i in range(200)]
    second = [
        Answer(label="a" if i % 2 and i > 24 else "b") for i in range(200)
    ]  # the same but for twelve rows
    found = paired(ACCURACY, golds, first, second, resamples=2000, seed=0)
    apart = [interval(ACCURACY, golds, answers, resamples=2000, seed=0) for answers in (first, second)]
    assert apart[1][1] > apart[0][0]
    assert found.low > 0
    assert found.p < 0.01


def test_products_run_on_one_thread_and_others_keep_theirs(monkeypatch):
    from threadpoolctl import threadpool_info

    from weft.metric import bootstrap

    def threads():
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    seen, before = [], threads()

    class Counts:
        def __matmul__(self, other):
            seen.append(threads())
            return other

    bootstrap._product(Counts(), np.ones((2, 2)))
    assert seen
    assert set(seen[0]) == {1}
    assert threads() == before
