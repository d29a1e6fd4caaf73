"""CoNLL columns: one token a line, token first and tag last, a blank line between sentences.

Columns are separated by tabs, or by blanks in a line without tabs; those between the first and the last are left out.
``-DOCSTART-`` lines and comments (``# ...``) are skipped. A line that starts with ``#`` is a token all the same when it
has as many columns as the others and ends in a BIO tag: tweets have such tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from weft.data.encoding import TextFile
from weft.data.table import Record
from weft.errors import DataError

_BLANKS = re.compile(r" +")
_TAG = re.compile(r"O|[BIESLUM]-\S+")
_NUM_PROBED_LINES = 1000


def read(file: TextFile) -> Iterator[Record]:
    """Yield ``{"tokens": [...], "tags": [...]}`` for every sentence, with the line of its first token.

    Raises:
        DataError: with file and line: a line with one column, or with more or fewer columns than the first.
    """
    tokens: list[str] = []
    tags: list[str] = []
    begin = 0
    for number, columns in _columns(file):
        if columns:
            begin = begin if tokens else number
            tokens.append(columns[0])
            tags.append(columns[-1])
        elif tokens:
            yield {"tokens": tokens, "tags": tags}, begin
            tokens, tags = [], []
    if tokens:
        yield {"tokens": tokens, "tags": tags}, begin


def looks_like(file: TextFile) -> bool:
    """Return whether the beginning of a ``.txt`` or ``.tsv`` file is plainly CoNLL.

    That is: it starts with ``-DOCSTART-``, or has at least two token lines, all of them of the same number of columns
    (two or more) and ending in a BIO, BIOES or BILOU tag.
    """
    with file.open() as stream:
        lines = [split(line) for line in islice(stream, _NUM_PROBED_LINES)]
    lines = [columns for columns in lines if columns and not columns[0].startswith("#")]
    if lines and lines[0][0] == "-DOCSTART-":
        return True
    are_tagged = all(len(columns) >= 2 and _TAG.fullmatch(columns[-1]) for columns in lines)
    return are_tagged and len(lines) >= 2 and len({len(columns) for columns in lines}) == 1


def split(line: str) -> list[str]:
    """Return the columns of ``line``, none for a blank one. Only blanks and tabs separate: U+00A0 can be a token."""
    line = line.strip("\n").rstrip(" \t\r")
    if "\t" in line:
        return [column.strip(" ") for column in line.split("\t")]
    line = line.strip(" ")
    return _BLANKS.split(line) if line else []


def _columns(file: TextFile) -> Iterator[tuple[int, list[str]]]:
    """Yield the columns of each token line; none where a sentence ends."""
    num_columns = 0
    with file.open() as stream:
        for number, line in enumerate(stream, start=1):
            columns = split(line)
            if columns and _is_comment(line, columns, num_columns):
                continue
            if not columns or columns[0] == "-DOCSTART-":
                yield number, []
                continue
            num_columns = num_columns or len(columns)
            _check(columns, num_columns, file.where(number))
            yield number, columns


def _is_comment(line: str, columns: list[str], num_columns: int) -> bool:
    if not line.startswith("#"):
        return False
    has_shape = len(columns) == num_columns if num_columns else len(columns) >= 2
    return not (has_shape and _TAG.fullmatch(columns[-1]))


def _check(columns: list[str], num_columns: int, where: str) -> None:
    if len(columns) < 2:
        raise DataError(f"{where}: must have a token and a tag, but has one column: {columns[0][:40]!r}.")
    if len(columns) != num_columns:
        raise DataError(
            f"{where}: must have {num_columns} columns as the lines before it have, but has {len(columns)}. "
            "Separate the columns by tabs where a token holds blanks."
        )
    if not columns[0] or not columns[-1]:
        raise DataError(f"{where}: must have a token and a tag, but one of them is empty.")
