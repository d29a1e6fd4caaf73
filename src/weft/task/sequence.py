"""What families on one text or a pair share: the text of a cell, one target a row.

Legend: E examples, S most windows of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from weft.core.batch import Target
from weft.core.example import Encoded, Row, Text
from weft.core.tensors import int64
from weft.data import columns as known
from weft.data.columns import Role
from weft.data.joined import is_filled, pieces, value_of
from weft.task.base import Pieces
from weft.task.labels import label_text, plain
from weft.task.several import places

Columns = Mapping[str, str | None]


class Judged(NamedTuple):
    """What a row asks for: the task's own target and the gold answer, both None where it has no label, and its stratum."""

    target: Any
    gold: Any
    stratum: int = 0


def text_roles() -> tuple[Role, ...]:
    """Return the roles of the columns that hold the text and, where there is one, the second text."""
    return (Role("text", known.TEXT, is_text=True), Role("pair", known.PAIR, required=False, is_text=True))


def text_in(row: Row, column: str | None) -> str:
    r"""Return the text in a column of ``row``, empty where there is none; of a list of texts, one a line.

    Example:
        >>> text_in(Row({"a": ["x", "y"], "b": 5, "c": {"en": "x"}}, "f:1"), "a")
        'x\ny'
        >>> text_in(Row({"a": ["x", "y"], "b": 5, "c": {"en": "x"}}, "f:1"), "{b} or {c.en}: {a}")
        '5 or x: x; y'
    """
    if column is not None and is_filled(column, row.values):
        return _joined(row, column)
    value = plain(row.values.get(column)) if column is not None else None
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        value = "\n".join(value)
    text = "" if value is None or isinstance(value, Mapping | list | tuple) else str(value)
    return text if text.strip() else ""


def _joined(row: Row, template: str) -> str:
    """Return what a template makes of ``row``, empty where all its columns are."""
    texts = [
        (_within(value_of(row.values, text)), True) if is_name else (text, False)
        for text, is_name in pieces(template)
    ]
    is_empty = not any(text for text, is_value in texts if is_value)
    return "" if is_empty else "".join(text for text, _ in texts)


def _within(value: Any) -> str:
    """Return a value as part of a text: a list with semicolons, which tokenizers keep, between its elements."""
    value = plain(value)
    if isinstance(value, list | tuple):
        return "; ".join(text for one in value if (text := _within(one)))
    return "" if isinstance(value, Mapping) else label_text(value) or ""


def example_of(pieces: Sequence[Pieces], judged: Judged, where: str, *, num_cut: int) -> Encoded:
    """Return the example of one text or several, the first of ``pieces`` first."""
    first, *rest = pieces
    more = tuple(Text(piece.tokens, piece.segments) for piece in rest)
    target, gold, stratum = judged
    return Encoded(first.tokens, first.segments, target, gold, where, num_cut, more, stratum)


def collate_rows(
    encoded: Sequence[Encoded], rows: Sequence[int], *, name: str, values: Callable[[Sequence[Any]], Tensor]
) -> Target:
    """Return the target of one value an example under ``name``; without gold there are rows to answer, and no value.

    Where an example has several windows, ``windows`` says whose each row is: (E, S), see ``weft.task.several``.

    Args:
        encoded: whose targets are the values.
        rows: of the batch.
        name: of the tensor.
        values: makes it of the targets.
    """
    targets = [example.target for example in encoded if example.target is not None]
    has_gold = len(targets) == len(encoded)
    own = {"windows": places(encoded)} if len(rows) > len(encoded) else {}
    return Target(
        rows_R=int64(rows),
        values=own | {name: values(targets)} if has_gold else own,
        weight=float(len(encoded)) if has_gold else 0.0,
        num_examples=len(encoded),
    )
