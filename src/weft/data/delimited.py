"""CSV, TSV and plain text. Values stay the strings they are: ``NA``, ``007`` and an empty field are not touched.

A CSV is delimited by commas, unless its header has none: then by whichever of semicolon, tab and bar splits the header
most. A TSV is one record a line, where quotation marks mean something only around a whole field, as long as every
line then has as many fields as the header; otherwise it is read like a CSV, with line breaks inside quotes.

A text and a label with a tab between them need no header (THUCNews): one field then has few different values, and that
of the first line is one of them, which the name in a header would not be.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from weft.data.encoding import TextFile
from weft.data.table import Record
from weft.errors import DataError

_MAX_FIELD_CHARS = 2**31 - 1  # a C long, which has 32 bits on Windows
_OTHER_DELIMITERS = ";\t|"
_NUM_PROBED_LINES = 1000
_LINES_OF_A_LABEL = 4  # on average, at least
_LONGEST_LABEL = 40
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')

_Fields = tuple[list[str], int]


def read_csv(file: TextFile) -> Iterator[Record]:
    """Yield the records of a CSV with header.

    Raises:
        DataError: with file and line: a quote that is not closed, a record longer or shorter than the header.
    """
    header, _ = next(_split(file, ","), ([], 0))
    delimiter = ","
    if len(header) == 1:
        counts = {sign: len(next(_split(file, sign))[0]) for sign in _OTHER_DELIMITERS}
        best = max(counts, key=lambda sign: counts[sign])
        delimiter = best if counts[best] > 1 else ","
    return _records(_split(file, delimiter), file, delimiter)


def read_tsv(file: TextFile) -> Iterator[Record]:
    """Yield the records of a TSV with header.

    Raises:
        DataError: as for a CSV.
    """
    fields = _split_lines(file) if _has_a_record_a_line(file) else _split(file, "\t")
    return _records(fields, file, "\t")


def read_text(file: TextFile) -> Iterator[Record]:
    """Yield ``{"text": line}`` for every line that is not blank."""
    with file.open() as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield {"text": line.rstrip("\n")}, number


def label_field(file: TextFile) -> int | None:
    """Return which of the two fields of a file without a header is the label; None for any other file.

    The first lines all have two fields, none of them blank. One is a label: short, of few different values, among them that
    of the first line once more. The other is a text: most differ. Blank lines at the end do not count.
    """
    with file.open() as stream:
        lines = [line.rstrip("\n").split("\t") for line in islice(stream, _NUM_PROBED_LINES)]
    while lines and not "".join(lines[-1]).strip():
        lines.pop()
    if not lines or not all(len(fields) == 2 and all(map(str.strip, fields)) for fields in lines):
        return None
    for place in (1, 0):
        labels, texts = [fields[place] for fields in lines], {fields[1 - place] for fields in lines}
        if _are_labels(labels) and 2 * len(texts) > len(lines):
            return place
    return None


def _are_labels(values: Sequence[str]) -> bool:
    is_few = _LINES_OF_A_LABEL * len(set(values)) <= len(values)
    return is_few and values[0] in values[1:] and max(map(len, values)) <= _LONGEST_LABEL


def read_labelled(file: TextFile, *, label: int) -> Iterator[Record]:
    """Yield ``{"text": ..., "label": ...}`` for every line that is not blank of a file without a header.

    Args:
        file: of two fields a line.
        label: the place of the label, 0 or 1.

    Raises:
        DataError: with file and line: more or fewer fields.
    """
    with file.open() as stream:
        for number, line in enumerate(stream, start=1):
            fields = line.rstrip("\n").split("\t")
            if len(fields) == 2:
                yield {"text": fields[1 - label], "label": fields[label].strip()}, number
            elif line.strip():
                raise DataError(
                    f"{file.where(number)}: must have a text and a label with a tab between them, as the lines before it, but "
                    f"has {len(fields)} fields. Correct it, or write a header."
                )


def _split(file: TextFile, delimiter: str) -> Iterator[_Fields]:
    # The limit belongs to the process; 128 KiB, its default, is less than one long document.
    csv.field_size_limit(_MAX_FIELD_CHARS)
    with file.open(newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(
                    f"{file.where(line)}: quotes must enclose a whole field and be doubled inside it, but: {error}."
                ) from error
            if fields:
                yield fields, line


def _split_lines(file: TextFile) -> Iterator[_Fields]:
    with file.open() as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip("\n"):
                yield [_unquote(field) for field in line.rstrip("\n").split("\t")], number


def _unquote(field: str) -> str:
    match = _QUOTED.fullmatch(field) if field.startswith('"') else None
    return match[1].replace('""', '"') if match else field


def _has_a_record_a_line(file: TextFile) -> bool:
    with file.open() as stream:
        counts = {line.count("\t") for line in stream if line.strip("\n")}
    return len(counts) == 1 and counts != {0}


def _records(fields: Iterator[_Fields], file: TextFile, delimiter: str) -> Iterator[Record]:
    header, line = next(fields, ([], 1))
    names = _names(header, file.where(line))
    for values, line in fields:
        if len(values) == len(names):
            yield dict(zip(names, values, strict=True)), line
        elif any(value.strip() for value in values):
            raise DataError(
                f"{file.where(line)}: must have {len(names)} fields as the header has, but has {len(values)}. "
                f"A field with {delimiter!r} or a line break in it must stand in quotes."
            )


def _names(header: Iterable[str], where: str) -> list[str]:
    """Return the column names; one without a name (an index that pandas wrote) is called by its place."""
    names = [name.strip() or f"column{place}" for place, name in enumerate(header, start=1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{where}: column names must differ, but {', '.join(twice)} occurs more than once.")
    return names
