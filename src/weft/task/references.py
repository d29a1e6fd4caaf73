"""The right answers to a question as data sets write them: a piece of the context, with or without its place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weft.core.example import Row
from weft.task.labels import label_text, plain
from weft.task.sequence import Columns


@dataclass(frozen=True, slots=True)
class References:
    """What a row says of its question.

    Attributes:
        texts: the distinct answers, in order; empty where the question has none.
        span: characters of the context that the first answer with a place has, end exclusive; None without answers.
    """

    texts: tuple[str, ...]
    span: tuple[int, int] | None


UNANSWERABLE = References((), None)


def references(row: Row, context: str, columns: Columns) -> References | str | None:
    """Return the answers of a row, why they cannot be used, or None where the row says nothing of them.

    Answers are ``{"text": [...], "answer_start": [...]}``, a list of such objects or of texts, or a text, the place
    then in a column of its own; a cell of CSV may hold the JSON of it. That column may also have the places of many texts,
    of which the answers are some (the entities of ReCoRD): ``{"text": [...], "start": [...]}`` or a list of such objects.
    The first place of an answer counts. An empty list, text or object, and a row that
    says that it is impossible, is a question without an answer. A text whose place is wrong or missing is looked for.

    Args:
        row: with the columns of the roles answers, answer_start and impossible.
        context: that the answers are pieces of.
        columns: by role.
    """
    impossible = label_text(row.values.get(str(columns["impossible"]))) if columns["impossible"] else None
    if impossible is not None and impossible.lower() in ("true", "1"):
        return UNANSWERABLE
    value = _value(row.values.get(str(columns["answers"])))
    if value is None:
        return None
    starts = _value(row.values.get(str(columns["answer_start"]))) if columns["answer_start"] else None
    places = _places_by_text(starts)
    pairs = [
        (text, places.get(text.strip()) if start is None else start)
        for text, start in _pairs(value, None if places else starts)
        if text.strip()
    ]
    if not pairs:
        return UNANSWERABLE
    found = [_located(text, start, context) for text, start in pairs]
    span = next((one for one in found if not isinstance(one, str)), None)
    if span is None:
        return next(one for one in found if isinstance(one, str))
    return References(tuple(dict.fromkeys(text.strip() for text, _ in pairs)), span)


def _value(value: Any) -> Any:
    """Return a cell with arrays as lists and the JSON of an object or a list of objects read; None where missing."""
    value = plain(value)
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            return value
        if isinstance(read, dict) or (isinstance(read, list) and all(isinstance(one, dict) for one in read)):
            return read
    return None if isinstance(value, float) and label_text(value) is None else value


def _pairs(value: Any, starts: Any) -> list[tuple[str, int | None]]:
    """Return each answer's text with the place that is given for it."""
    value, starts = plain(value), plain(starts)
    if isinstance(value, dict):
        return _pairs(value.get("text", []), value.get("answer_start"))
    if not isinstance(value, list | tuple):
        return [(_text(value), _whole(_at(starts, 0)))]
    pairs: list[tuple[str, int | None]] = []
    for number, one in enumerate(value):
        if isinstance(one, dict):
            pairs += _pairs(one, None)
        else:
            pairs.append((_text(one), _whole(_at(starts, number))))
    return pairs


def _places_by_text(starts: Any) -> dict[str, int]:
    """Return the first place of each text that a cell of places names, none where it holds bare places."""
    starts = plain(starts)
    if isinstance(starts, dict):
        texts, places = plain(starts.get("text")), plain(starts.get("start"))
        rows = (
            list(zip(texts, places, strict=False))
            if isinstance(texts, list) and isinstance(places, list)
            else []
        )
    else:
        objects = starts if isinstance(starts, list) else []
        rows = [(one.get("text"), one.get("start")) for one in objects if isinstance(one, dict)]
    found: dict[str, int] = {}
    for text, start in rows:
        place = _whole(start)
        if place is not None:
            found[_text(text).strip()] = min(place, found.get(_text(text).strip(), place))
    return found


def _text(value: Any) -> str:
    """Return an answer as text; blanks around it stay, for its place counts them."""
    return value if isinstance(value, str) else label_text(value) or ""


def _at(values: Any, number: int) -> Any:
    if not isinstance(values, list | tuple):
        return values if number == 0 else None
    return values[number] if number < len(values) else None


def _whole(value: Any) -> int | None:
    """Return a place as a number; -1, which stands for an unknown one in some sets, is none."""
    text = label_text(value)
    return int(text) if text is not None and text.isdecimal() else None


def _located(text: str, start: int | None, context: str) -> tuple[int, int] | str:
    """Return the characters of an answer without the blanks around it, or why they cannot be told."""
    bare = text.strip()
    if start is not None and context.startswith(text, start):
        start += len(text) - len(text.lstrip())
    else:
        places = _places(bare, context)
        if len(places) != 1:
            return _reason(start, num_places=len(places))
        start = places[0]
    return start, start + len(bare)


def _places(text: str, context: str) -> Sequence[int]:
    """Return the first two places of ``text``, as far as there are."""
    first = context.find(text)
    second = context.find(text, first + 1) if first >= 0 else -1
    return [place for place in (first, second) if place >= 0]


def _reason(start: int | None, *, num_places: int) -> str:
    if num_places == 0:
        return "answer not in the context"
    return (
        "answer not at its answer_start" if start is not None else "answer without answer_start found twice"
    )
