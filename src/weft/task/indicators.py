"""Labels in a column each, 1 where a label applies and 0 where it does not (Jigsaw, GoEmotions, SemEval-2018).

The names of these columns, with ``|`` between them, stand in the place of one label column, as labels do in one cell.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from weft.core.example import Row
from weft.data import columns as known
from weft.data.columns import Role, resolve
from weft.data.joined import held, is_joined
from weft.data.table import column_names
from weft.errors import DataError, nearest
from weft.task.labels import SEPARATOR, label_text
from weft.task.sequence import text_roles

_NUMBERS: Final = frozenset({"0", "1", "-1"})
_YES, _NO = frozenset({"1", "true"}), frozenset({"0", "false"})
_UNKNOWN = "-1"  # Jigsaw's test rows that nobody judged


def find_columns(
    rows: Sequence[Row], given: Mapping[str, str], *, multi_label: bool, what: str
) -> dict[str, str | None]:
    """Return the columns of the text, of a second one, and of the label or, of several labels, those with ``|`` between.

    Raises:
        DataError: there is no text or no label, or the labels have columns of their own and ``multi_label`` is false.
    """
    present = column_names(rows)
    if is_several(given.get("label", ""), present):
        names = tuple(dict.fromkeys(name.strip() for name in given["label"].split(SEPARATOR)))
        for name in names:
            if name not in present:
                raise DataError(
                    f"{what}: the columns for label must exist, but {name} does not. {nearest(name, present)}"
                )
    else:
        found = resolve(rows, (*text_roles(), Role("label", known.LABEL, required=False)), given, what=what)
        own = {column for column in found.values() if column is not None}
        own |= held(column for column in own if is_joined(column, present))
        names = () if found["label"] is not None else indicators(rows, taken=own)
        if len(names) < 2:
            return resolve(rows, (*text_roles(), Role("label", known.LABEL)), given, what=what)
    if not multi_label:
        raise DataError(
            f"{what}: must have one column for label, but {', '.join(names[:6])} are a label each, 0 or 1. Set multi_label: "
            f"true, or say which with columns: {{label: <column>}}."
        )
    rest = Row({name: None for name in present if name not in names}, rows[0].where)
    texts = {role: column for role, column in given.items() if role != "label"}
    return {**resolve([rest], text_roles(), texts, what=what), "label": SEPARATOR.join(names)}


def indicators(rows: Sequence[Row], *, taken: Collection[str | None]) -> tuple[str, ...]:
    """Return the columns that hold nothing but 0 and 1 (or -1 for unknown); if there are none, but true and false."""
    free = [name for name in column_names(rows) if name not in taken and SEPARATOR not in name]
    cells = {name: [row.values.get(name) for row in rows] for name in free}
    seen = {
        name: {
            (text.lower(), isinstance(value, bool))
            for value in own
            if (text := label_text(value)) is not None
        }
        for name, own in cells.items()
    }
    numbers = [name for name in free if seen[name] and seen[name] <= {(sign, False) for sign in _NUMBERS}]
    words = [name for name in free if seen[name] and {text for text, _ in seen[name]} <= {"true", "false"}]
    return tuple(numbers if len(numbers) > 1 else words)


def is_several(column: str, columns: Collection[str]) -> bool:
    """Return whether ``column`` names several, and not one of ``columns``."""
    return SEPARATOR in column and column not in columns


def labels_of(row: Row, column: str) -> tuple[str, ...] | None:
    """Return the labels that apply to ``row``, None where all their cells are empty or -1.

    Raises:
        DataError: a cell says neither yes nor no.
    """
    texts = {name: label_text(row.values.get(name)) for name in column.split(SEPARATOR)}
    known_texts = {
        name: text.lower() for name, text in texts.items() if text not in (None, _UNKNOWN) and text
    }
    for name, text in known_texts.items():
        if text not in _YES | _NO:
            raise DataError(
                f"{row.where}: column {name} must be 0 or 1, but is {text!r}. Correct it, or leave it empty."
            )
    return tuple(name for name, text in known_texts.items() if text in _YES) if known_texts else None
