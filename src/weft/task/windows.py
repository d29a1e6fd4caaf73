"""Windows of a context: which tokens an answer has in each, and the best spans that the scores of all of them give.

Legend: N tokens of the context in one window, K lengths of spans.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.task.base import Windows

FIRST = (0, 0)
"""The span of a window without the answer: its first token, as in transformers' run_qa."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What it takes to read answers back: a context and where the pieces of its windows stand in it.

    Attributes:
        context: the text.
        at: position in each window's row of its first piece of the context.
        bounds: pieces of the context in each window, the first and the end.
        starts: first character of each piece of the context.
        ends: end of each piece's characters.
    """

    context: str
    at: int
    bounds: tuple[tuple[int, int], ...]
    starts: Sequence[int]
    ends: Sequence[int]


@dataclass(frozen=True, slots=True)
class Span:
    """Characters of the context, end exclusive, and their score: the sum of the two logits."""

    start: int
    end: int
    score: float


def token_spans(windows: Windows, answer: tuple[int, int] | None) -> tuple[tuple[int, int], ...] | None:
    """Return the first and last token of the answer in each window's row, ``FIRST`` where it is not whole in it.

    Args:
        windows: of a context.
        answer: its characters, end exclusive; None for a question without an answer.

    Returns:
        None where no piece stands for the answer.
    """
    if answer is None:
        return (FIRST,) * len(windows.bounds)
    first, last = bisect_right(windows.ends, answer[0]), bisect_left(windows.starts, answer[1]) - 1
    if first > last:
        return None
    return tuple(
        (windows.at + first - low, windows.at + last - low) if low <= first and last < high else FIRST
        for low, high in windows.bounds
    )


def best_spans(
    reading: Reading, logits: Sequence[NDArray[np.float32]], *, most_tokens: int, number: int
) -> list[Span]:
    """Return the best spans of a context over all its windows, best first, no two of the same characters.

    Args:
        reading: of the context.
        logits: of each window's row, (tokens, 2).
        most_tokens: of a span.
        number: of spans, at most.
    """
    found: dict[tuple[int, int], float] = {}
    for (low, high), scores in zip(reading.bounds, logits, strict=True):
        own = _possible(reading, scores[reading.at : reading.at + high - low], low)
        for score, first, last in _best_pairs(own, most_tokens=most_tokens, number=number):
            place = _characters(reading, low + first, low + last)
            if score > found.get(place, -np.inf):
                found[place] = score
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [Span(start, end, score) for (start, end), score in ordered[:number]]


def _possible(reading: Reading, scores: NDArray[np.float32], low: int) -> NDArray[np.float32]:
    """Return the scores with -inf for pieces that are blank: no answer begins or ends there."""
    places = zip(reading.starts[low : low + len(scores)], reading.ends[low : low + len(scores)], strict=True)
    is_blank = [not reading.context[start:end].strip() for start, end in places]
    return np.where(np.array(is_blank, dtype=bool)[:, None], np.float32(-np.inf), scores)


def _best_pairs(
    scores: NDArray[np.float32], *, most_tokens: int, number: int
) -> list[tuple[float, int, int]]:
    """Return the ``number`` best (score, first, last) of spans of up to ``most_tokens`` tokens."""
    if not len(scores):
        return []
    width = min(most_tokens, len(scores))
    padded = np.concatenate([scores[:, 1], np.full(width - 1, -np.inf, dtype=np.float32)])
    grid_NK = scores[:, :1] + np.lib.stride_tricks.sliding_window_view(padded, width)
    flat = grid_NK.ravel()
    some = np.argsort(-flat, kind="stable")[:number] if flat.size <= number else _largest(flat, number)
    return [
        (float(flat[at]), int(at) // width, int(at) // width + int(at) % width)
        for at in some
        if np.isfinite(flat[at])
    ]


def _largest(values: NDArray[np.float32], number: int) -> NDArray[np.intp]:
    """Return where the largest values are, largest first, of equals the first."""
    some = np.argpartition(-values, number)[:number]
    return some[np.lexsort((some, -values[some]))]


def _characters(reading: Reading, first: int, last: int) -> tuple[int, int]:
    """Return the characters of a run of pieces, without blanks around them.

    A character and the marks that combine with it are one: pieces may part them, or leave a mark out.
    """
    context, start, end = reading.context, reading.starts[first], reading.ends[last]
    while 0 < start < len(context) and unicodedata.category(context[start]).startswith("M"):
        start -= 1
    while end < len(context) and unicodedata.category(context[end]).startswith("M"):
        end += 1
    text = context[start:end]
    return start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
