"""Metrics of generated text. Golds are strings, or several right answers; ``Answer.text`` is what was generated.

No library is asked here: both are closed forms of a few lines, and the usual packages split Chinese text badly.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from weft.core.example import Answer
from weft.metric.base import Metric, mean_metric, mean_of

# A word is a run of letters and digits; a CJK character (ideograph, kana) is a word of its own.
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


def references(gold: Any) -> tuple[str, ...]:
    """Return the right answers of one row: its gold is one, or several."""
    return (gold,) if isinstance(gold, str) else tuple(gold)


def words(text: str) -> list[str]:
    """Return the lower-cased words of ``text``; a Chinese character is one.

    Example:
        >>> words("It's 上海!")
        ['it', 's', '上', '海']
    """
    return _WORD.findall(text.lower())


def best_of(score: Callable[[str, str], float]) -> Callable[[Any, Answer], float]:
    """Return the score of an answer against that reference of its row which it fits best."""

    def row_score(gold: Any, answer: Answer) -> float:
        return max(score(reference, answer.text or "") for reference in references(gold))

    return row_score


def text_metric(name: str, score: Callable[[str, str], float]) -> Metric:
    """Return the mean over rows of ``score`` (reference, text)."""
    row_score = best_of(score)
    return mean_metric(name, mean_of(row_score), row_score)


def text_metrics() -> tuple[Metric, ...]:
    """Return exact match (after folding blanks) and F1 of the bags of words, for tasks that name no metric.

    Nobody said that exact match counts here, and for long answers it is 0 throughout: it chooses no checkpoint.
    """
    return replace(exact_match(), selects=False), token_f1()


def exact_match() -> Metric:
    """Return the share of answers that are right but for blanks."""
    return text_metric("exact_match", lambda gold, text: float(gold.split() == text.split()))


def token_f1() -> Metric:
    """Return the mean F1 of the bags of words."""
    return text_metric("token_f1", bag_f1)


def bag_f1(gold: str, text: str) -> float:
    """Return the F1 of the lower-cased words of ``text`` against those of ``gold``, order ignored.

    Source: the answer F1 of SQuAD (Rajpurkar et al. 2016, section 6.1), without its removal of English articles.

    Example:
        >>> bag_f1("the red house", "The house!")
        0.8
    """
    return count_f1(words(gold), words(text))


def count_f1(gold: Sequence[Any], found: Sequence[Any]) -> float:
    """Return the F1 of what two lists have in common, each thing as often as it is in both; two empty ones are equal."""
    if not gold and not found:
        return 1.0
    return 2 * (Counter(gold) & Counter(found)).total() / (len(gold) + len(found))
