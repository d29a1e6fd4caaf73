"""What is worth knowing about data before anything is trained on it. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from weft.core.example import Row
from weft.core.seeds import fold
from weft.data.text import normalise
from weft.errors import DataError

_SEEDS = 2**63  # fold returns 63 bits


def lengths(values: Iterable[int]) -> tuple[float, int, int]:
    """Return mean, 95th percentile (nearest rank) and maximum of ``values``; zeros when there are none.

    Example:
        >>> lengths([1, 2, 3, 10])
        (4.0, 10, 10)
    """
    ordered = sorted(values)
    if not ordered:
        return 0.0, 0, 0
    rank = -(-len(ordered) * 95 // 100)
    return sum(ordered) / len(ordered), ordered[rank - 1], ordered[-1]


def duplicates(texts: Iterable[str]) -> int:
    """Return how many of ``texts`` have occurred before them, after ``normalise``.

    Example:
        >>> duplicates(["Good film", "good  film", "bad film"])
        1
    """
    counts = Counter(map(normalise, texts))
    return counts.total() - len(counts)


def overlap(a: Iterable[str], b: Iterable[str]) -> int:
    """Return how many different texts occur on both sides, after ``normalise``.

    Example:
        >>> overlap(["Good film", "bad film"], ["GOOD FILM", "good film", "new"])
        1
    """
    return len(set(map(normalise, a)) & set(map(normalise, b)))


def hold_out(
    rows: Sequence[Row], *, share: float, seed: int, key: Callable[[Row], str]
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Return ``rows`` as training and dev rows, about ``share`` of them in dev; both keep their order.

    A row's side depends on ``seed`` and its normalised text alone. Equal texts therefore stay together, in other
    tasks and other files too, and a row does not change sides when others are added; only when a side would stay
    empty, the text nearest to it moves there.

    Args:
        rows: the rows to divide.
        share: between 0 and 1, both excluded.
        seed: the recipe's.
        key: the text of a row.

    Raises:
        DataError: ``share`` out of range, or fewer than two different texts.
    """
    if not 0 < share < 1:
        raise DataError(f"hold-out: the share must lie between 0 and 1, but is {share}.")
    texts = [normalise(key(row)) for row in rows]
    places = {text: fold(seed, "hold-out", text) / _SEEDS for text in set(texts)}
    if len(places) < 2:
        raise DataError(
            f"hold-out: rows must have at least two different texts, but have {len(places)}. Give dev data of their own."
        )
    ordered = sorted(places, key=lambda text: (places[text], text))
    dev = {text for text in ordered if places[text] < share} or {ordered[0]}
    if len(dev) == len(ordered):
        dev.remove(ordered[-1])
    sides = [text in dev for text in texts]
    train_rows = tuple(row for row, is_dev in zip(rows, sides, strict=True) if not is_dev)
    dev_rows = tuple(row for row, is_dev in zip(rows, sides, strict=True) if is_dev)
    return train_rows, dev_rows
