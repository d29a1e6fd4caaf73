"""What all metrics share: the library's value is the statistics' value, whatever the golds and answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.core.example import Answer
from weft.metric.base import Metric, f1, mean_metric, ratio
from weft.metric.classification import label_f1, multi_label_metrics, single_label_metrics
from weft.metric.regression import regression_metrics
from weft.metric.tagging import tagging_metrics, word_metrics
from weft.metric.text import text_metrics

LABELS = st.sampled_from(["a", "b", "c", "中"])
SETS = st.frozensets(LABELS).map(lambda labels: tuple(sorted(labels)))
NUMBERS = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3).map(lambda x: round(x, 3)))
TAGS = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-LOC", "S-PER"])
TEXTS = st.lists(st.sampled_from(["red", "Red", "house", "上", "海", "!"]), max_size=4).map(" ".join)


def _tagged(draw: st.DrawFn) -> tuple[list[tuple[str, ...]], list[Answer]]:
    golds = draw(st.lists(st.lists(TAGS, min_size=1, max_size=5).map(tuple), min_size=1, max_size=6))
    return golds, [Answer(tags=tuple(draw(st.lists(TAGS, max_size=6)))) for _ in golds]


@st.composite
def _cases(draw: st.DrawFn) -> tuple[Metric, list, list[Answer]]:
    """Draw a metric of any family with golds and answers for it."""
    kind = draw(st.sampled_from(["single", "multi", "number", "tags", "text"]))
    size = draw(st.integers(1, 8))

    def many(strategy: st.SearchStrategy) -> list:
        return draw(st.lists(strategy, min_size=size, max_size=size))

    match kind:
        case "single":
            metrics, golds, answers = (
                (*single_label_metrics(), label_f1("a")),
                many(LABELS),
                [Answer(label=x) for x in many(LABELS)],
            )
        case "multi":
            golds, answers = many(SETS), [Answer(label=list(x)) for x in many(SETS)]
            metrics = multi_label_metrics()
        case "number":
            metrics, golds, answers = (
                regression_metrics(),
                many(NUMBERS),
                [Answer(value=x) for x in many(NUMBERS)],
            )
        case "tags":
            (golds, answers), metrics = _tagged(draw), (*tagging_metrics(), *word_metrics())
        case _:
            metrics, golds, answers = text_metrics(), many(TEXTS), [Answer(text=x) for x in many(TEXTS)]
    return draw(st.sampled_from(metrics)), golds, answers


@settings(deadline=None)
@given(_cases())
def test_the_value_is_finish_of_the_plain_sum(case):
    metric, golds, answers = case
    statistics = metric.statistics(golds, answers)
    assert statistics.shape[0] == len(golds)
    assert metric.finish(statistics.sum(0)) == pytest.approx(metric.value(golds, answers), abs=1e-9)


@settings(deadline=None)
@given(_cases(), st.integers(0, 1000))
def test_finish_takes_many_resamples_at_once_and_none_of_them_breaks_it(case, seed):
    metric, golds, answers = case
    statistics = metric.statistics(golds, answers)
    counts = np.random.default_rng(seed).multinomial(len(golds), np.full(len(golds), 1 / len(golds)), size=7)
    together = metric.finish(counts @ statistics)
    assert together.shape == (7,)
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together, [metric.finish(row @ statistics) for row in counts], atol=1e-12)


@settings(deadline=None)
@given(_cases(), st.integers(0, 1000))
def test_a_resample_scores_as_if_its_rows_stood_in_a_file(case, seed):
    metric, golds, answers = case
    if metric.name == "spearman":
        return  # ranks are those of the full sample, by definition
    picks = np.random.default_rng(seed).integers(len(golds), size=len(golds))
    counts = np.bincount(picks, minlength=len(golds))
    written_out = metric.value([golds[i] for i in picks], [answers[i] for i in picks])
    assert metric.finish(counts @ metric.statistics(golds, answers)) == pytest.approx(written_out, abs=1e-6)


@pytest.mark.parametrize(
    ("metrics", "golds", "answers"),
    [
        (single_label_metrics(), ["a", "b", "a"], [Answer(label=x) for x in "aba"]),
        (multi_label_metrics(), [("a",), (), ("a", "b")], [Answer(label=x) for x in (["a"], [], ["a", "b"])]),
        (regression_metrics(), [1.0, 2.0, 4.0], [Answer(value=x) for x in (1.0, 2.0, 4.0)]),
        (tagging_metrics(), [("B-X", "O"), ("O",)], [Answer(tags=x) for x in (("B-X", "O"), ("O",))]),
        (text_metrics(), ["a b", ""], [Answer(text="a b"), Answer(text="")]),
    ],
)
def test_right_answers_reach_the_best_value(metrics, golds, answers):
    for metric in metrics:
        assert metric.value(golds, answers) == pytest.approx(metric.best)


def test_nothing_over_nothing_is_zero():
    np.testing.assert_array_equal(ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0])), [0.5, 0.0])
    np.testing.assert_array_equal(f1(np.array([0.0]), np.array([0.0]), np.array([0.0])), [0.0])


def test_a_mean_metric_is_a_mean():
    metric = mean_metric("length", lambda golds, answers: 0.0, lambda gold, answer: len(gold))
    assert metric.finish(metric.statistics(["a", "abc"], [Answer(), Answer()]).sum(0)) == 2.0
