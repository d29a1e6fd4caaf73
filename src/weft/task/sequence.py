"""What classification and regression share: a text or a pair of texts in, one target a row out.

Legend: E examples, S most windows of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from weft.core.batch import Target
from weft.core.example import Dropped, Encoded, Row, Text
from weft.core.tensors import int64
from weft.data import columns as known
from weft.data.columns import Role
from weft.errors import DataError
from weft.task.base import Pieces, Tokenizer
from weft.task.documents import Windows, read
from weft.task.labels import plain
from weft.task.several import places

Columns = Mapping[str, str | None]


class Judged(NamedTuple):
    """What a row asks for: the task's own target and the gold answer, both None where it has no label, and its stratum."""

    target: Any
    gold: Any
    stratum: int = 0


def text_roles() -> tuple[Role, ...]:
    """Return the roles of the columns that hold the text and, where there is one, the second text."""
    return (Role("text", known.TEXT), Role("pair", known.PAIR, required=False))


def text_in(row: Row, column: str | None) -> str:
    r"""Return the text in a column of ``row``, empty where there is none; of a list of texts, one a line.

    Example:
        >>> text_in(Row({"a": ["x", "y"], "b": 5, "c": {"en": "x"}}, "f:1"), "a")
        'x\ny'
    """
    value = plain(row.values.get(column)) if column is not None else None
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        value = "\n".join(value)
    text = "" if value is None or isinstance(value, Mapping | list | tuple) else str(value)
    return text if text.strip() else ""


def text_columns(columns: Columns) -> tuple[str, ...]:
    """Return the columns of the text and, where there is one, the second text."""
    return tuple(column for role in ("text", "pair") if (column := columns[role]) is not None)


def encode_texts(
    rows: Sequence[Row],
    columns: Columns,
    tokenizer: Tokenizer,
    judge: Callable[[Row], Judged | Dropped],
    *,
    windows: Windows | None = None,
) -> list[Encoded | Dropped]:
    """Return each row's text or pair as tokens with the target that ``judge`` gives, or why it is not used.

    Args:
        rows: as read.
        columns: by role.
        tokenizer: of the trunk.
        judge: reads what a row asks for.
        windows: into which a text that is too long is divided; None to cut it.
    """
    results: list[Judged | Dropped] = []
    for row in rows:
        empty = not text_in(row, columns["text"]) or (columns["pair"] and not text_in(row, columns["pair"]))
        results.append(Dropped(row.where, "empty text") if empty else judge(row))
    kept = [index for index, result in enumerate(results) if isinstance(result, Judged)]
    texts = [text_in(rows[index], columns["text"]) for index in kept]
    pairs = [text_in(rows[index], columns["pair"]) for index in kept] if columns["pair"] else None
    readings = iter(read(texts, pairs, tokenizer, windows) if kept else ())
    encoded: list[Encoded | Dropped] = []
    for row, result in zip(rows, results, strict=True):
        if isinstance(result, Dropped):
            encoded.append(result)
        else:
            pieces, num_cut = next(readings)
            encoded.append(example_of(pieces, result, row.where, num_cut=num_cut))
    return encoded


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


def text_row(name: str, columns: Columns, text: str, pair: str | None) -> Row:
    """Return the row that asks for the answer to ``text`` (and ``pair``).

    Raises:
        DataError: two texts for a task on one, or the other way round.
    """
    if (columns["pair"] is None) != (pair is None):
        want, have = ("one text", "two were") if pair is not None else ("a pair of texts", "one was")
        raise DataError(f"{name}: the task takes {want}, but {have} given. Give it what it was trained on.")
    values = {columns["text"]: text} | ({columns["pair"]: pair} if pair is not None else {})
    return Row({str(column): value for column, value in values.items()}, where="question")
