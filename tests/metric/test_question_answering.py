"""The formulas of the official scripts, in English and Chinese, and intervals that are exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.example import Answer
from weft.metric.question_answering import best, exact_match, f1, longest_run, qa_metrics

ROWS = [
    (("Denver Broncos", "the Broncos"), "The Broncos!"),
    (("1,000 km",), "1,000"),
    ((), ""),
    ((), "Paris"),
    (("北京大学", "北大"), "北京的大学"),
    (("Saint Bernadette",), ""),
]
GOLDS = [gold for gold, _ in ROWS]
ANSWERS = [Answer(text=text) for _, text in ROWS]


@pytest.mark.parametrize(
    ("reference", "text", "match", "score"),
    [
        ("the Eiffel Tower", "Eiffel Tower", 1, 1),
        ("U.S.", "US", 1, 1),
        ("a cat and a dog", "cat and dog", 1, 1),
        ("twenty-one", "twenty one", 0, 0),  # punctuation goes before words are parted
        ("Saint Bernadette Soubirous", "Bernadette", 0, 1 / 2),
        ("in the late 1990s", "late 1990s", 0, 4 / 5),
        ("dog dog cat", "dog", 0, 1 / 2),  # a bag, not a set
        ("cat", "", 0, 0),
        ("", "", 1, 1),
        ("", "the", 1, 1),  # nothing is left of it
        ("naïve café", "Naïve Café.", 1, 1),
        ("Paris", "London", 0, 0),
    ],
)
def test_english_as_squad(reference: str, text: str, match: float, score: float):
    assert exact_match(reference, text) == match
    assert f1(reference, text) == pytest.approx(score)


@pytest.mark.parametrize(
    ("reference", "text", "match", "score"),
    [
        ("光荣和ω-force", "光荣和ω-force。", 1, 1),
        ("《战国无双3》", "战国无双3", 1, 1),
        ("北京大学", "在北京大学读书", 0, 2 * 4 / 11),
        ("上海北京", "北京上海", 0, 2 * 2 / 8),  # the longest run, where a bag would give 1
        ("1998年", "1998", 0, 2 / 3),
        ("Linux系统", "linux 系统", 0, 1),  # exact match keeps blanks, as the official script
        ("北京", "London", 0, 0),
        ("3.5米", "3.5", 0, 2 / 3),
        ("こんにちは", "こんにちは！", 1, 1),
        ("。", "", 1, 1),
        ("北京", "", 0, 0),
    ],
)
def test_chinese_as_cmrc(reference: str, text: str, match: float, score: float):
    assert exact_match(reference, text) == match
    assert f1(reference, text) == pytest.approx(score)


@given(st.text("abc", max_size=9), st.text("abc", max_size=9))
def test_the_longest_common_run_is_the_one_that_tables_give(a: str, b: str):
    expected = max(
        (j - i for i in range(len(a) + 1) for j in range(i, len(a) + 1) if a[i:j] in b),
        default=0,
    )
    assert longest_run(a, b) == longest_run(b, a) == expected


@given(st.text("ab 京上。.", max_size=8), st.text("ab 京上。.", max_size=8))
def test_scores_lie_between_nothing_and_a_match(reference: str, text: str):
    assert 0 <= f1(reference, text) <= 1
    assert f1(reference, text) == pytest.approx(f1(text, reference))
    assert f1(text, text) == exact_match(text, text) == 1


def test_a_row_counts_as_its_best_reference():
    assert best(f1, ("the Denver Broncos", "Broncos"), Answer(text="Broncos")) == 1
    assert best(f1, (), Answer(text="")) == 1
    assert best(f1, (), Answer(text="Broncos")) == 0
    assert best(exact_match, ["a"], Answer()) == 1, "nothing is left of an article"


def test_the_scores_of_a_split():
    metrics = {metric.name: metric for metric in qa_metrics(has_unanswerable=True)}
    assert list(metrics) == ["f1", "exact_match", "has_answer_f1", "no_answer_f1"]
    chinese = 2 * 2 / (4 + 5)  # 北京 and 大学 are as long; 北大 has one character of either
    answered = [1.0, 2 / 3, chinese, 0.0]
    expected = {
        "f1": (sum(answered) + 1) / 6,
        "exact_match": 2 / 6,
        "has_answer_f1": sum(answered) / 4,
        "no_answer_f1": 1 / 2,
    }
    for name, metric in metrics.items():
        assert metric.value(GOLDS, ANSWERS) == pytest.approx(expected[name])


@pytest.mark.parametrize("number", range(4))
def test_statistics_of_any_rows_finish_as_their_value(number: int):
    metric = qa_metrics(has_unanswerable=True)[number]
    statistics = metric.statistics(GOLDS, ANSWERS)
    draws = np.random.default_rng(1).integers(0, len(GOLDS), (20, len(GOLDS)))
    for draw in draws:
        golds: list[Any] = [GOLDS[at] for at in draw]
        answers = [ANSWERS[at] for at in draw]
        assert metric.finish(statistics[draw].sum(0)) == pytest.approx(metric.value(golds, answers))


def test_without_unanswerable_questions_there_are_two_scores():
    assert [metric.name for metric in qa_metrics(has_unanswerable=False)] == ["f1", "exact_match"]
    only = qa_metrics(has_unanswerable=True)[3]
    assert only.value([("a",)], [Answer(text="a")]) == 0.0
    assert only.finish(only.statistics([("a",)], [Answer(text="a")]).sum(0)) == 0.0
