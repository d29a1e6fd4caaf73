"""Metrics of generated text, English and Chinese."""

from __future__ import annotations

import pytest

from weft.core.example import Answer
from weft.metric.text import bag_f1, text_metrics

EXACT, F1 = text_metrics()


def _answers(*texts: str | None) -> list[Answer]:
    return [Answer(text=text) for text in texts]


def test_exact_match_folds_blanks_and_nothing_else():
    golds = ["Paris", "the  red\nhouse", "yes", "no"]
    assert EXACT.value(golds, _answers(" Paris ", "the red house", "Yes", None)) == 0.5


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("the red house", "The house!", 0.8),
        ("a a b", "a b b", 2 / 3),
        ("red", "blue", 0.0),
        ("", "", 1.0),
        ("red", "", 0.0),
        ("上海很大", "上海大", 6 / 7),
        ("住在上海 now", "上海", 4 / 7),
    ],
)
def test_bag_f1(gold, text, expected):
    assert bag_f1(gold, text) == pytest.approx(expected)
    assert bag_f1(text, gold) == pytest.approx(expected)


def test_token_f1_is_the_mean_over_rows():
    assert F1.value(["a b", "c"], _answers("a b", "d")) == 0.5
