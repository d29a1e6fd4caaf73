"""What people write in a label column, as label names in a fixed order."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

SEPARATOR = "|"  # between the labels of one cell, for multi-label rows in CSV files
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
