"""Span metrics against values worked out by hand, and against seqeval where it is strict about nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities

from weft.core.example import Answer
from weft.metric.tagging import aligned, spans, tagging_metrics, word_metrics


def _values(golds, answers):
    return {m.name: m.value(golds, [Answer(tags=tuple(tags)) for tags in answers]) for m in tagging_metrics()}


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        (["B-PER", "I-PER", "O", "B-LOC"], [("PER", 0, 2), ("LOC", 3, 4)]),
        (["I-PER", "I-PER", "B-PER"], [("PER", 0, 2), ("PER", 2, 3)]),
        (["B-PER", "I-LOC"], [("PER", 0, 1), ("LOC", 1, 2)]),
        (["S-A", "B-A", "I-A", "E-A", "S-A"], [("A", 0, 1), ("A", 1, 4), ("A", 4, 5)]),
        (["B-a-b", "I-a-b"], [("a-b", 0, 2)]),
        (["O", "O"], []),
        ([], []),
    ],
)
def test_spans(tags, found):
    assert spans(tags) == found


def test_values():
    golds = [("B-PER", "I-PER", "O"), ("B-LOC", "O", "B-PER")]
    answers = [("B-PER", "I-PER", "O"), ("B-PER", "O", "O")]  # one right of two answered and three gold
    by_hand = {"span_f1": 0.4, "span_precision": 0.5, "span_recall": 1 / 3, "token_accuracy": 4 / 6}
    assert _values(golds, answers) == pytest.approx(by_hand)


def test_no_spans_anywhere_score_nothing_and_warn_of_nothing():
    values = _values([("O", "O")], [("O", "O")])
    assert values == {"span_f1": 0.0, "span_precision": 0.0, "span_recall": 0.0, "token_accuracy": 1.0}


def test_a_word_that_was_not_answered_is_outside():
    assert aligned(("B-X", "O", "O"), Answer(tags=("B-X",))) == ["B-X", "O", "O"]
    assert aligned(("O",), Answer(tags=("O", "B-X"))) == ["O"]
    assert aligned(("O",), Answer()) == ["O"]


def test_tags_without_spans_have_token_accuracy_only():
    (metric,) = word_metrics()
    assert metric.name == "token_accuracy"
    assert metric.value([("NN", "VB")], [Answer(tags=("NN", "NN"))]) == 0.5


TAGS = st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"])
ANY_TAGS = st.sampled_from(["O", *(f"{mark}-{kind}" for mark in "BIES" for kind in ("X", "Y", "a-b"))])


@settings(deadline=None, max_examples=300)
@given(st.lists(ANY_TAGS, max_size=12))
def test_spans_are_those_of_seqeval_also_where_tags_break_rules(tags):
    assert spans(tags) == [(kind, start, end + 1) for kind, start, end in get_entities(tags)]


@pytest.mark.parametrize("tags", [["B", "I", "O", "I"], ["S", "E", "I"], ["O", "B", "B", "E"]])
def test_tags_without_a_type_mark_spans_all_the_same(tags):
    assert [one[1:] for one in spans(tags)] == [(start, end + 1) for _, start, end in get_entities(tags)]


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=6), min_size=1, max_size=5))
def test_rows_counted_apart_are_seqevals_rows_counted_together(rows):
    golds, answers = ([tuple(pair[side] for pair in row) for row in rows] for side in (0, 1))
    metric = tagging_metrics()[0]
    sums = metric.statistics(golds, [Answer(tags=tags) for tags in answers]).sum(0)
    expected = f1_score([list(tags) for tags in golds], [list(tags) for tags in answers], zero_division=0)
    assert metric.finish(sums) == pytest.approx(expected, abs=1e-12)
