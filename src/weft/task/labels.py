"""What people write in a label column, as label names in a fixed order."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

SEPARATOR = "|"  # between the labels of one cell, for multi-label rows in CSV files
_ABSENT = frozenset({"-", "-1"})
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def plain(value: Any) -> Any:
    """Return ``value`` with numpy and torch scalars and arrays as Python values."""
    return value.tolist() if hasattr(value, "tolist") else value


def label_text(value: Any) -> str | None:
    """Return the name of one label as read from a file, None where there is none (empty, null, NaN).

    Whole floats lose their point, so that a column with gaps read as floats has the labels of one without.

    Example:
        >>> label_text(1), label_text(1.0), label_text(True), label_text("  pos "), label_text("")
        ('1', '1', 'true', 'pos', None)
    """
    value = plain(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def label_set(value: Any) -> tuple[str, ...] | None:
    """Return the labels of one multi-label cell: a list, or a string with ``|`` between labels; None where missing.

    An empty list is a row to which no label applies; an empty string or null is a row without an answer.

    Example:
        >>> label_set("a|b"), label_set(["b", 3]), label_set([]), label_set("")
        (('a', 'b'), ('b', '3'), (), None)
    """
    value = plain(value)
    if not isinstance(value, list | tuple | set | frozenset):
        text = label_text(value)
        if text is None:
            return None
        value = text.split(SEPARATOR)
    names = (label_text(item) for item in value)
    return tuple(dict.fromkeys(name for name in names if name is not None))


def is_absent(names: Collection[str], labels: Collection[str]) -> bool:
    """Return whether ``names`` say only that nobody knows the label, and are none of ``labels`` themselves.

    ``-`` is what SNLI and OCNLI have where annotators disagreed, ``-1`` what test sets on the Hub have for all rows.

    Example:
        >>> is_absent(["-1"], ["0", "1"]), is_absent(["-1"], ["-1", "1"]), is_absent([], ["a"])
        (True, False, False)
    """
    return bool(names) and set(names) <= _ABSENT.difference(labels)


def labels_in(rows: Iterable[Sequence[str] | None]) -> tuple[str, ...]:
    """Return the distinct labels of ``rows`` in order, without what stands for a missing one (``is_absent``).

    ``-`` is a label beside ``+``. ``-1`` is one among numbers, such as -1, 0, 1, unless these are the ids 0, 1, 2, ...
    of three labels and more.

    Example:
        >>> labels_in([["0"], ["-1"], ["1"], ["2"], None]), labels_in([["-1"], ["0"], ["1"]]), labels_in([["-"], ["yes"]])
        (('0', '1', '2'), ('-1', '0', '1'), ('yes',))
    """
    seen = {label for row in rows for label in row or ()}
    others = seen - _ABSENT
    is_numbered = others == set(map(str, range(len(others)))) and len(others) > 2
    if is_numbered or not all(_NUMBER.fullmatch(label) for label in others):
        seen.discard("-1")
    return in_order(seen if "+" in seen else seen - {"-"})


def are_ids(seen: Collection[str], labels: Sequence[str]) -> bool:
    """Return whether all ``seen`` are numbers, from 0, of one of ``labels``, and none of them is a label itself.

    Beside a number for each of ``labels`` ``-1`` stands for a missing one.

    Example:
        >>> are_ids(["-1", "0", "1"], ["no", "yes"]), are_ids(["-1", "0", "1"], ["bad", "fair", "good"])
        (True, False)
    """
    ids = set(seen) - {"-1"}
    if len(ids) < len(seen) and len(ids) != len(labels):
        return False
    return not set(seen) & set(labels) and all(one.isdecimal() and int(one) < len(labels) for one in ids)


def named(ids: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Return the names of ids; what is not an id of ``labels`` stays as it is."""
    return tuple(labels[int(one)] if one.isdecimal() and int(one) < len(labels) else one for one in ids)


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct labels sorted: by value if all are numbers, else by code point.

    Example:
        >>> in_order(["10", "9", "9"]), in_order(["no", "10"])
        (('9', '10'), ('10', 'no'))
    """
    distinct = set(labels)
    if all(_NUMBER.fullmatch(label) for label in distinct):
        return tuple(sorted(distinct, key=lambda label: (float(label), label)))
    return tuple(sorted(distinct))


def given_labels(value: Any) -> Any:
    """Return a recipe's ``labels`` with numbers and booleans as the names they have in data; for validators.

    Raises:
        ValueError: an empty or a repeated label.
    """
    if not isinstance(value, list | tuple):
        return value
    names = [label_text(item) for item in value]
    if None in names:
        raise ValueError("a label must not be empty")
    repeated = sorted({str(name) for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"every label must be given once, but {', '.join(repeated)} is repeated")
    return tuple(names)


def difference(old: Sequence[str], new: Sequence[str]) -> str | None:
    """Return how two label lists differ, None where they do not; order counts, for it is the order of outputs."""
    if tuple(old) == tuple(new):
        return None
    gone, come = [label for label in old if label not in new], [label for label in new if label not in old]
    if not gone and not come:
        return "the labels are in another order"
    changes = [f"without {', '.join(gone)}"] * bool(gone) + [f"with {', '.join(come)}"] * bool(come)
    return f"the labels changed: now {' and '.join(changes)}"
