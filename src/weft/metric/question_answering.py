"""Metrics of extractive question answering, by the formulas of the official scripts.

Golds are tuples of reference texts, empty where a question has no answer; answers carry ``text``, empty for none. A row
counts as its best reference. English is normalised and compared as bags of words (SQuAD 1.1 and 2.0: Rajpurkar et al.
2016, section 6.1; 2018), Chinese and Japanese as CMRC 2018 does (Cui et al. 2019, section 5): by character, F1 from the
longest common run. Which of the two, the texts say: one such character in either is enough.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from weft.core.example import Answer
from weft.metric.base import FloatArray, Metric, mean_metric, ratio

Gold = Sequence[str]
Score = Callable[[str, str], float]
"""Of a reference and an answer."""

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_IS_CJK = re.compile(f"[{_CJK}\u3000-\u303f\uff00-\uffef]")  # their punctuation too
_PIECE = re.compile(rf"[{_CJK}]|\d+(?:[.,]\d+)+|[^\W{_CJK}]+|[^\w\s]")
_CHINESE_MARKS = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_ENGLISH_MARKS = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def qa_metrics(*, has_unanswerable: bool) -> tuple[Metric, ...]:
    """Return F1 and exact match; where some questions have no answer, F1 of those and of the others too."""
    both = (
        mean_metric("f1", _mean_f1, lambda gold, answer: best(f1, gold, answer)),
        mean_metric("exact_match", _mean_match, lambda gold, answer: best(exact_match, gold, answer)),
    )
    if not has_unanswerable:
        return both
    return (
        *both,
        _over_some("has_answer_f1", bool),
        _over_some("no_answer_f1", lambda gold: not gold),
    )


def best(score: Score, gold: Gold, answer: Answer) -> float:
    """Return the highest ``score`` of an answer over the references; without any, the one of no answer."""
    return max(score(reference, answer.text or "") for reference in gold or ("",))


def exact_match(reference: str, text: str) -> float:
    """Return whether both are the same once normalised.

    Example:
        >>> exact_match("the Eiffel Tower", "Eiffel tower."), exact_match("《红楼梦》", "红楼梦")
        (1.0, 1.0)
    """
    return float(_normal(reference, text) == _normal(text, reference))


def f1(reference: str, text: str) -> float:
    """Return the harmonic mean of the shares of both that they have in common; of two empty ones 1.0.

    Example:
        >>> f1("Saint Bernadette Soubirous", "Bernadette"), f1("北京大学", "在北京大学读书")
        (0.5, 0.7272727272727273)
    """
    gold, found = _pieces(reference, text), _pieces(text, reference)
    if not gold or not found:
        return float(gold == found)
    common = longest_run(gold, found) if _is_chinese(reference, text) else _shared(gold, found)
    return 2 * common / (len(gold) + len(found))


def longest_run(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest run of equal pieces in both.

    Example:
        >>> longest_run("abcde", "xbcdy")
        3
    """
    low, high = 0, min(len(a), len(b))
    while low < high:  # a common run of some length has common runs of all smaller ones
        middle = (low + high + 1) // 2
        if _runs(a, middle) & _runs(b, middle):
            low = middle
        else:
            high = middle - 1
    return low


def _runs(pieces: Sequence[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(pieces[at : at + length]) for at in range(len(pieces) - length + 1)}


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    return (Counter(a) & Counter(b)).total()


def _is_chinese(a: str, b: str) -> bool:
    return bool(_IS_CJK.search(a) or _IS_CJK.search(b))


def _normal(text: str, other: str) -> str:
    """Return ``text`` as it is compared with ``other``."""
    lowered = text.lower().strip()
    if _is_chinese(text, other):
        return lowered.translate(_CHINESE_MARKS)
    return " ".join(_ARTICLE.sub(" ", lowered.translate(_ENGLISH_MARKS)).split())


def _pieces(text: str, other: str) -> list[str]:
    """Return the characters or words that ``text`` is compared with ``other`` by."""
    normal = _normal(text, other)
    return _PIECE.findall(normal) if _is_chinese(text, other) else normal.split()


def _mean_f1(golds: Sequence[Gold], answers: Sequence[Answer]) -> float:
    return _mean(f1, golds, answers)


def _mean_match(golds: Sequence[Gold], answers: Sequence[Answer]) -> float:
    return _mean(exact_match, golds, answers)


def _mean(score: Score, golds: Sequence[Gold], answers: Sequence[Answer]) -> float:
    found = [best(score, gold, answer) for gold, answer in zip(golds, answers, strict=True)]
    return sum(found) / len(found)


def _over_some(name: str, is_one: Callable[[Gold], bool]) -> Metric:
    """Return the mean F1 over the rows whose gold ``is_one``; 0.0 where there is none."""

    def value(golds: Sequence[Gold], answers: Sequence[Answer]) -> float:
        kept = [(gold, answer) for gold, answer in zip(golds, answers, strict=True) if is_one(gold)]
        return _mean(f1, [gold for gold, _ in kept], [answer for _, answer in kept]) if kept else 0.0

    def statistics(golds: Sequence[Gold], answers: Sequence[Answer]) -> FloatArray:
        pairs = zip(golds, answers, strict=True)
        return np.array(
            [(best(f1, gold, answer), 1.0) if is_one(gold) else (0.0, 0.0) for gold, answer in pairs],
            dtype=np.float64,
        )

    return Metric(name, value, statistics, lambda sums: ratio(sums[..., 0], sums[..., 1]))
