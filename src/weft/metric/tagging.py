"""Metrics of tagging, and how a row of tags is read as spans. Golds are tuples of tags, answers carry ``tags``.

Legend: N rows, K statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from weft.core.example import Answer
from weft.metric.base import FloatArray, Metric, f1, ratio

OUTSIDE = "O"

Span = tuple[str, int, int]  # type, first word, word after the last

# Read here, not by seqeval: importing that takes longer than reading most corpora, and every row is read.
_OPENING = ("B", "S", OUTSIDE)
_CLOSING = ("E", "S", OUTSIDE)


def spans(tags: Sequence[str]) -> list[Span]:
    """Return the spans in ``tags``, read leniently as conlleval and seqeval do: a stray ``I-`` opens a span.

    Example:
        >>> spans(["B-PER", "I-PER", "O", "I-LOC"])
        [('PER', 0, 2), ('LOC', 3, 4)]
    """
    found: list[Span] = []
    begin, before, kind = 0, OUTSIDE, ""
    for place, tag in enumerate((*tags, OUTSIDE)):
        mark, own = tag[:1], tag[1:].split("-", 1)[-1]
        if mark == before == OUTSIDE:
            continue
        if mark in _OPENING or before in _CLOSING or own != kind:
            if before != OUTSIDE:
                found.append((kind, begin, place))
            begin = place
        before, kind = mark, own
    return found


def tagging_metrics() -> tuple[Metric, ...]:
    """Return span F1, precision, recall (seqeval's lenient reading, over all types) and token accuracy."""
    return (
        Metric("span_f1", _span_f1, _span_counts, lambda sums: f1(sums[..., 0], sums[..., 1], sums[..., 2])),
        Metric(
            "span_precision", _span_precision, _span_counts, lambda sums: ratio(sums[..., 0], sums[..., 1])
        ),
        Metric("span_recall", _span_recall, _span_counts, lambda sums: ratio(sums[..., 0], sums[..., 2])),
        *word_metrics(),
    )


def word_metrics() -> tuple[Metric, ...]:
    """Return token accuracy alone, for tags that mark no spans (parts of speech)."""
    return (
        Metric("token_accuracy", _accuracy, _word_counts, lambda sums: ratio(sums[..., 0], sums[..., 1])),
    )


def aligned(gold: Sequence[str], answer: Answer) -> list[str]:
    """Return the answer's tags, one for each gold tag; words without an answer are outside."""
    tags = list(answer.tags or ())[: len(gold)]
    return tags + [OUTSIDE] * (len(gold) - len(tags))


Golds = Sequence[Sequence[str]]


def _both(golds: Golds, answers: Sequence[Answer]) -> tuple[list[list[str]], list[list[str]]]:
    pairs = list(zip(golds, answers, strict=True))
    return [list(gold) for gold, _ in pairs], [aligned(gold, answer) for gold, answer in pairs]


def _seqeval(measure: Callable[..., Any], golds: Golds, answers: Sequence[Answer]) -> float:
    return float(measure(*_both(golds, answers), zero_division=0))  # 0 for no spans at all, without a warning


def _span_f1(golds: Golds, answers: Sequence[Answer]) -> float:
    from seqeval.metrics import f1_score

    return _seqeval(f1_score, golds, answers)


def _span_precision(golds: Golds, answers: Sequence[Answer]) -> float:
    from seqeval.metrics import precision_score

    return _seqeval(precision_score, golds, answers)


def _span_recall(golds: Golds, answers: Sequence[Answer]) -> float:
    from seqeval.metrics import recall_score

    return _seqeval(recall_score, golds, answers)


def _span_counts(golds: Golds, answers: Sequence[Answer]) -> FloatArray:
    """Return (N, 3): right, answered and gold spans."""
    rows: list[tuple[int, int, int]] = []
    for gold, answer in zip(*_both(golds, answers), strict=True):
        gold_spans, answer_spans = set(spans(gold)), set(spans(answer))
        rows.append((len(gold_spans & answer_spans), len(answer_spans), len(gold_spans)))
    return np.array(rows, dtype=np.float64)


def _accuracy(golds: Golds, answers: Sequence[Answer]) -> float:
    from sklearn.metrics import accuracy_score

    gold_rows, answer_rows = _both(golds, answers)
    return float(
        accuracy_score([tag for row in gold_rows for tag in row], [tag for row in answer_rows for tag in row])
    )


def _word_counts(golds: Golds, answers: Sequence[Answer]) -> FloatArray:
    """Return (N, 2): right words and words."""
    pairs = zip(*_both(golds, answers), strict=True)
    counts = [(sum(g == a for g, a in zip(gold, answer, strict=True)), len(gold)) for gold, answer in pairs]
    return np.array(counts, dtype=np.float64)
