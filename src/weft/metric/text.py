"""Metrics of generated text. Golds are strings, answers carry ``text``.

No library is asked here: both are closed forms of a few lines, and the usual packages split Chinese text badly.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from weft.core.example import Answer
from weft.metric.base import Metric, mean_metric

# A word is a run of letters and digits; a CJK character (ideograph, kana) is a word of its own.
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


def text_metrics() -> tuple[Metric, ...]:
    """Return exact match (after folding blanks) and F1 of the bags of words."""
    return (
        mean_metric("exact_match", _mean_match, _matches),
        mean_metric("token_f1", _mean_f1, lambda gold, answer: bag_f1(gold, answer.text or "")),
    )


def bag_f1(gold: str, text: str) -> float:
    """Return the F1 of the lower-cased words of ``text`` against those of ``gold``, order ignored.

    Source: the answer F1 of SQuAD (Rajpurkar et al. 2016, section 6.1), without its removal of English articles.

    Example:
        >>> bag_f1("the red house", "The house!")
        0.8
    """
    gold_words, words = Counter(_WORD.findall(gold.lower())), Counter(_WORD.findall(text.lower()))
    if not gold_words and not words:
        return 1.0
    return 2 * (gold_words & words).total() / (gold_words.total() + words.total())


def _matches(gold: str, answer: Answer) -> float:
    return float(gold.split() == (answer.text or "").split())


def _mean_match(golds: Sequence[str], answers: Sequence[Answer]) -> float:
    return sum(map(_matches, golds, answers)) / len(golds)


def _mean_f1(golds: Sequence[str], answers: Sequence[Answer]) -> float:
    return sum(bag_f1(gold, answer.text or "") for gold, answer in zip(golds, answers, strict=True)) / len(
        golds
    )
