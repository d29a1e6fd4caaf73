"""A text of several columns: ``{word}: {sentence1}`` in the place of a column name.

What stands in braces is the name of a column, or of a value inside one (``{target.span1_text}``), letter for letter, and
nothing else: there are no formats, no attributes and no calls. A brace itself is written twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from weft.core.example import Row
from weft.data.table import column_names
from weft.errors import DataError, nearest

_PIECE = re.compile(r"(?P<twice>\{\{|\}\})|\{(?P<name>[^{}]+)\}|(?P<text>[^{}]+)")


class Piece(NamedTuple):
    """Words of a template, or the name of a column."""

    text: str
    is_name: bool


def is_joined(column: str, columns: Collection[str] = ()) -> bool:
    """Return whether ``column`` is a template, and not one of ``columns``, which may be called anything."""
    return ("{" in column or "}" in column) and column not in columns


def is_filled(column: str, columns: Collection[str] = ()) -> bool:
    """Return whether ``column`` is a template that is well formed, which a plain column's name with a brace in it is not."""
    if not is_joined(column, columns):
        return False
    try:
        return bool(pieces(column))
    except ValueError:
        return False


@lru_cache(maxsize=256)
def pieces(template: str) -> tuple[Piece, ...]:
    """Return what a template is made of.

    Raises:
        ValueError: a brace stands alone, or no column is named.

    Example:
        >>> [piece.text for piece in pieces("{word}: {sentence1}") if piece.is_name]
        ['word', 'sentence1']
    """
    found: list[Piece] = []
    at = 0
    while at < len(template):
        match = _PIECE.match(template, at)
        if match is None:
            raise ValueError(
                f"a brace stands alone at character {at + 1}; write {{{{ or }}}} for the sign itself"
            )
        name = match["name"]
        text = match["text"] if match["twice"] is None else match["twice"][0]
        found.append(Piece(text, is_name=False) if name is None else Piece(name, is_name=True))
        at = match.end()
    if not any(piece.is_name for piece in found):
        raise ValueError("it names no column")
    return tuple(found)


def named(column: str) -> tuple[str, ...]:
    """Return the names in a template, each once; of a plain column its own."""
    if not is_joined(column):
        return (column,)
    return tuple(dict.fromkeys(piece.text for piece in pieces(column) if piece.is_name))


def holder(name: str, columns: Collection[str]) -> str | None:
    """Return which of ``columns`` holds ``name``: that column, or the one that ``name`` is a value inside of."""
    if name in columns:
        return name
    outer = name.partition(".")[0]
    return outer if outer != name and outer in columns else None


def value_of(values: Mapping[str, Any], name: str) -> Any:
    """Return the value called ``name``: of a column, or inside one (``target.span1_text``); None without."""
    if name in values:
        return values[name]
    found: Any = values
    for key in name.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def check_joined(column: str, columns: Sequence[str], *, role: str, what: str) -> None:
    """Refuse a template that cannot be filled from ``columns``.

    Raises:
        DataError: it is not well formed, or names a column that does not exist.
    """
    try:
        names = named(column)
    except ValueError as error:
        raise DataError(
            f"{what}: the text for {role} must name columns in braces, such as '{{title}}: {{body}}', but is {column!r}: "
            f"{error}."
        ) from error
    for name in names:
        if holder(name, columns) is None:
            raise DataError(
                f"{what}: the column {name} in the text for {role} must exist, but does not. {nearest(name, columns)}"
            )


def check_rows(columns: Mapping[str, str | None], rows: Sequence[Row], *, what: str) -> None:
    """Refuse rows of which none has a column that a template of ``columns`` names.

    Raises:
        DataError: with the place of the first row.
    """
    present = column_names(rows)
    for role, column in columns.items():
        if column is not None and is_joined(column, present) and rows:
            check_joined(column, present, role=role, what=f"{rows[0].where}: {what}")


def held(columns: Iterable[str]) -> set[str]:
    """Return the columns that templates among ``columns`` name, which no other role may then find by itself."""
    joined = [name for column in columns if is_joined(column) for name in named(column)]
    return {part for name in joined for part in (name, name.partition(".")[0])}
