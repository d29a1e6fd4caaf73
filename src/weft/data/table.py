"""Rows of one source, with all that a report and a checkpoint must say about where they come from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from weft.core.example import Row

Record = tuple[dict[str, Any], int | str]
"""Values of one record and where it begins: the line, or the row where a format has no lines, both from 1; or its id."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows that one reference names.

    Attributes:
        rows: in the order of the source; never empty. ``Row.where`` is ``<file>:<line>`` (``<line>.<number>`` for further
            elements of a list on one line), or ``<file>:<row>`` for
            Parquet, Arrow, a ``{"data": [...]}`` document and the Hub, ``<file>:<id>`` for a nested question.
        name: file, ``folder:split`` or hub id, as the reference has it, without the slice.
        digest: SHA-256 of the source's bytes (unpacked, where they were packed) and the slice.
        encoding: of the text, or the format's own; several joined by a comma.
        num_read: records read to get at the rows; more than the rows where a slice leaves records out before them,
            or had to count all of them.
    """

    rows: tuple[Row, ...]
    name: str
    digest: str
    encoding: str
    num_read: int

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, in order of first appearance."""
        return column_names(self.rows)


def column_names(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the names that occur in ``rows``, in order of first appearance."""
    names: dict[str, None] = {}
    for row in rows:
        if not row.values.keys() <= names.keys():
            names.update(dict.fromkeys(row.values))
    return tuple(names)
