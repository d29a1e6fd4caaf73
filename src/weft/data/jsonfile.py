"""JSON Lines and JSON documents. Which of the two a file is, its content says: both occur under both endings.

``NaN`` is read as a missing value. A line that is not an object, a lone surrogate and a cut-off line are errors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from weft.data import squad
from weft.data.encoding import TextFile
from weft.data.table import Record
from weft.errors import DataError

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BLANKS = re.compile(r"[ \t\r\n]*")
_KINDS: dict[type, str] = {
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
}


def read(file: TextFile, *, is_lines: bool) -> Iterator[Record]:
    """Yield the objects of ``file``: one a line, the elements of a list, or those of ``{"data": [...]}``.

    Objects that nest questions in paragraphs become a row a question (``weft.data.squad``).

    Args:
        file: the file.
        is_lines: its name says JSON Lines: a single object is then a row, whatever it holds.

    Raises:
        DataError: with file and line, at the first thing that is not such an object.
    """
    first, second = _first_lines(file)
    if first.lstrip().startswith("["):
        records = _elements(file)
    elif is_lines or (second and _is_object(first)):
        records = _lines(file)
    else:
        records = _document(file)
    return squad.flattened(records, name=file.name)


def looks_like_lines(file: TextFile) -> bool:
    """Return whether the first line of ``file`` that is not blank is a JSON object."""
    first, _ = _first_lines(file)
    return first.lstrip().startswith("{") and _is_object(first)


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(parse_constant=_constant)


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def _first_lines(file: TextFile) -> tuple[str, str]:
    """Return the first two lines that are not blank."""
    with file.open(newline="\n") as stream:
        lines = (line for line in stream if line.strip())
        return next(lines, ""), next(lines, "")


def _is_object(text: str) -> bool:
    try:
        return isinstance(_decoder().decode(text), dict)
    except (ValueError, RecursionError):
        return False


def _lines(file: TextFile) -> Iterator[Record]:
    decoder = _decoder()
    with file.open(newline="\n") as stream:  # other line ends are legal inside a JSON string
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                value = decoder.decode(line)
            except (ValueError, RecursionError) as error:
                _refuse(error, file, line=number)
            _check(value, line, file.where(number))
            yield value, number


def _elements(file: TextFile) -> Iterator[Record]:
    """Yield the elements of a list, each with the line where it begins; a further one of a line at ``<line>.<number>``."""
    with file.open(newline="\n") as stream:
        text = stream.read()
    decoder = _decoder()
    at = _skip(text, text.index("[") + 1)
    line, counted, number = 1, 0, 0  # of the elements that begin on the line
    while text[at : at + 1] != "]":
        breaks = text.count("\n", counted, at)
        line, counted, number = line + breaks, at, 1 if breaks else number + 1
        place = f"{line}.{number}" if number > 1 else line
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            _refuse(error, file, line=getattr(error, "lineno", line))
        _check(value, text[at:end], f"{file.name}:{place}")
        yield value, place
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            line += text.count("\n", counted, at)
            found = repr(text[at]) if at < len(text) else "the end of the file"
            raise DataError(
                f"{file.where(line)}: the list must go on with ',' or ']', but with {found} it does not."
            )
    if (rest := _skip(text, at + 1)) < len(text):
        line += text.count("\n", counted, rest)
        raise DataError(f"{file.where(line)}: nothing must follow the list, but {text[rest]!r} does.")


def _document(file: TextFile) -> Iterator[Record]:
    with file.open(newline="\n") as stream:
        text = stream.read()
    if not text.strip():
        return
    try:
        value = _decoder().decode(text)
    except (ValueError, RecursionError) as error:
        _refuse(error, file, line=getattr(error, "lineno", 1))
    _check(value, text, file.where(1))
    yield from _unwrap(value, 1, file)


def _unwrap(value: dict[str, Any], line: int, file: TextFile) -> Iterator[Record]:
    """Yield the rows of ``{"data": [...]}`` with their row numbers, or ``value`` itself."""
    rows = value.get("data")
    if not isinstance(rows, list):
        yield value, line
        return
    for number, row in enumerate(rows, start=1):
        _check(row, "", f"{file.name}: element {number} of data")
        yield row, number


def _check(value: object, text: str, where: str) -> None:
    if not isinstance(value, dict):
        kind = _KINDS.get(type(value), "null")
        raise DataError(f'{where}: each row must be a JSON object such as {{"text": ...}}, but is {kind}.')
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: must be Unicode text, but holds one half of a surrogate pair (\\u{ord(error.object[error.start]):04x})."
            ) from error


def _refuse(error: Exception, file: TextFile, *, line: int) -> NoReturn:
    if isinstance(error, json.JSONDecodeError):
        what = f"{error.msg[0].lower()}{error.msg[1:]} (column {error.colno})"
    elif isinstance(error, RecursionError):
        what = "it is nested too deeply"
    else:
        what = str(error)
    raise DataError(f"{file.where(line)}: must be whole, valid JSON, but {what}.") from error


def _skip(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    assert match is not None  # the pattern matches the empty string
    return match.end()
