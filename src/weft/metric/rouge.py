"""ROUGE: what an answer and its reference have in common in words, pairs of words, or words in order.

F1 of each row against its best reference, mean over rows, without stemming. Words are lower-cased; a Chinese character
is one, which the package of the field drops (it keeps a to z and digits only). On English text the values are that
package's. Source: Lin 2004, ROUGE: a package for automatic evaluation of summaries.
"""

from __future__ import annotations

from collections.abc import Sequence

from weft.metric.base import Metric
from weft.metric.text import count_f1, text_metric, words


def rouge_n(size: int) -> Metric:
    """Return ROUGE-N for runs of ``size`` words."""
    return text_metric(
        f"rouge{size}", lambda gold, text: _share(_runs(words(gold), size), _runs(words(text), size))
    )


def rouge_l() -> Metric:
    """Return ROUGE-L on whole answers: the longest common subsequence."""
    return text_metric("rougeL", lambda gold, text: sequence_f1(words(gold), words(text)))


def sequence_f1(gold: Sequence[str], found: Sequence[str]) -> float:
    """Return the F1 of the longest common subsequence, 0 where either is empty."""
    if not gold or not found:
        return 0.0
    return 2 * common_length(gold, found) / (len(gold) + len(found))


def common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, all places of ``first`` in one machine operation.

    Source: Hyyrö 2004, Bit-parallel LCS-length computation revisited, figure 2: zero bits count matches.

    Example:
        >>> common_length("abcbdab", "bdcaba")
        4
    """
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    everywhere = row = (1 << len(first)) - 1
    for word in second:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & everywhere
    return len(first) - row.bit_count()


def _share(gold: Sequence[tuple[str, ...]], found: Sequence[tuple[str, ...]]) -> float:
    return count_f1(gold, found) if gold and found else 0.0


def _runs(own: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(own[start : start + size]) for start in range(len(own) - size + 1)]
