"""Spans marked in a text, as annotation tools and data sets write them, read as words with the spans over them.

Understood are ``[{"start": 0, "end": 2, "label": "address"}]`` under the names that tools use (Prodigy, CMeEE, Label
Studio's export), ``[[0, 2, "address"]]`` (doccano, spaCy) and ``{"address": {"云南": [[0, 1]]}}`` (CLUENER); in CSV the JSON
of it. Places count characters of a text, or words where the row has a list of them. An end is the place behind the last
one, unless the marked text stands beside and says that it is the last one itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

from weft.core.example import Row
from weft.data import columns as known
from weft.data.columns import Role, resolve
from weft.errors import DataError
from weft.metric.tagging import Span
from weft.task.labels import label_text, plain
from weft.task.words import is_written_in_characters, listed, units

_START: Final = ("start", "start_offset", "start_idx", "start_char", "begin", "start_pos")
_END: Final = ("end", "end_offset", "end_idx", "end_char", "stop", "end_pos")
_KIND: Final = (
    "label",
    "type",
    "entity_type",
    "entity_label",
    "entity_group",
    "category",
    "tag",
    "labels",
    "entity",
)
_SURFACE: Final = ("text", "entity", "mention", "surface", "word", "span", "value")


class Unit(StrEnum):
    """What a text with marked spans is cut into, a tag each."""

    WORDS = "words"  # runs of letters and digits, other signs, and Chinese or Japanese characters
    CHARACTERS = "characters"  # all but blanks


@dataclass(frozen=True, slots=True)
class Reading:
    """A row's words, where they stand in its text, and the spans over them.

    Attributes:
        text: as read; of a list of words empty.
        words: the units that tags are learnt for.
        bounds: characters of each word in the text; of a list of words their own places.
        spans: type, first word and the one behind the last, in order; None where the row says nothing of them; or
            why they cannot be used.
    """

    text: str
    words: tuple[str, ...]
    bounds: tuple[tuple[int, int], ...]
    spans: tuple[Span, ...] | str | None


def are_spans(value: Any) -> bool:
    """Return whether a cell holds spans, and not tags; an empty one could be either."""
    value = _cell(value)
    if isinstance(value, Mapping):
        return any(isinstance(inner, Mapping) for inner in value.values())
    return isinstance(value, list | tuple) and bool(value) and all(_is_item(one) for one in value)


def find_columns(rows: Sequence[Row], given: Mapping[str, str], *, what: str) -> dict[str, str | None]:
    """Return the columns of words and tags; without a column of words, those of a text and of what is marked in it.

    Raises:
        DataError: there is neither.
    """
    words = resolve(rows, [Role("tokens", known.TOKENS, required=False)], {}, what=what)["tokens"]
    if "tokens" in given or (words is not None and _holds_words(rows, words)):
        roles = Role("tokens", known.TOKENS), Role("tags", (*known.TAGS, *known.SPANS))
    else:
        texts = tuple(name for name in known.TEXT if name not in known.TOKENS)
        roles = Role("tokens", texts), Role("tags", (*known.SPANS, *known.TAGS))
    return resolve(rows, roles, given, what=what)


def unit_of(rows: Sequence[Row], columns: Mapping[str, str | None]) -> Unit:
    """Return what tags are learnt for: characters, as is usual, where most texts have Chinese or Japanese ones."""
    texts = [text for row in rows if isinstance(text := listed(row.values.get(str(columns["tokens"]))), str)]
    return Unit.CHARACTERS if 2 * sum(map(is_written_in_characters, texts)) > len(texts) else Unit.WORDS


def read(row: Row, columns: Mapping[str, str | None], unit: Unit) -> Reading | None:
    """Return the words and spans of ``row``, None where it has no text.

    Raises:
        DataError: a span that is none: it lies outside of the text, is not the text that stands beside it, or has no
            type.
    """
    value = listed(row.values.get(str(columns["tokens"])))
    if not value:
        return None
    text = value if isinstance(value, str) else ""
    bounds = tuple((place, place + 1) for place in range(len(value)))
    if text:
        bounds = units(text, by_character=unit is Unit.CHARACTERS)
    words = tuple(text[start:end] for start, end in bounds) if text else tuple(map(str, value))
    if not words:
        return None
    cell = _cell(row.values.get(str(columns["tags"])))
    if cell is None:
        return Reading(text, words, bounds, None)
    found = sorted({_placed(one, text, words, row.where) for one in _items(cell, row.where)})
    return Reading(text, words, bounds, _over_words(found, bounds))


def _over_words(
    found: Sequence[tuple[int, int, str]], bounds: Sequence[tuple[int, int]]
) -> tuple[Span, ...] | str:
    if any(one[1] > other[0] for one, other in pairwise(found)):
        return "spans lie over each other"
    firsts = {start: number for number, (start, _) in enumerate(bounds)}
    ends = {end: number for number, (_, end) in enumerate(bounds, start=1)}
    if not all(start in firsts and end in ends for start, end, _ in found):
        return "span begins or ends inside a word"
    return tuple((kind, firsts[start], ends[end]) for start, end, kind in found)


def _placed(
    item: tuple[Any, Any, Any, Any], text: str, words: Sequence[str], where: str
) -> tuple[int, int, str]:
    """Return start, end and type of a span, without blanks at its ends."""
    first, last, kind, surface = (plain(one) for one in item)
    name, length = label_text(kind), len(text) or len(words)
    if name is None or not _is_place(first) or not _is_place(last):
        raise DataError(
            f"{where}: a span must have a start, an end and a type, but has {first!r}, {last!r} and {kind!r}."
        )
    start, end = int(first), int(last)
    says = surface.strip() if isinstance(surface, str) else ""
    is_other = says and not _says(says, text, words, start, end)
    if is_other and _says(says, text, words, start, end + 1):
        end += 1
    unit = "characters" if text else "words"
    if not 0 <= start < end <= length:
        raise DataError(
            f"{where}: span {first}-{last} of {name} must lie within the {length} {unit} of the text and end behind its "
            f"start, but does not. An end is the place behind the last of them."
        )
    marked = text[start:end] if text else " ".join(words[start:end])
    if (says and not _says(says, text, words, start, end)) or (text and not marked.strip()):
        raise DataError(
            f"{where}: span {first}-{last} of {name} must be {says or 'a word'!r}, but the text has {marked!r} there. "
            f"Places are read as {unit}."
        )
    if not text:
        return start, end, name
    start += len(marked) - len(marked.lstrip())
    return start, end - (len(marked) - len(marked.rstrip())), name


def _says(says: str, text: str, words: Sequence[str], start: int, end: int) -> bool:
    """Return whether ``says`` is what stands from ``start`` to ``end``; between listed words nobody knows the blanks."""
    if text:
        return text[start:end].strip() == says
    return "".join("".join(words[start:end]).split()) == "".join(says.split())


def _items(cell: Any, where: str) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Yield start, end, type and text of each span as written."""
    if isinstance(cell, Mapping):
        yield from _by_type(cell, where)
        return
    for item in cell if isinstance(cell, list | tuple) else (cell,):
        one = plain(item)
        if isinstance(one, Mapping):
            start, end = _first(one, _START), _first(one, _END)
            kind = next((name for name in _KIND if one.get(name) is not None), "")
            surface = _first({name: value for name, value in one.items() if name != kind}, _SURFACE)
            yield start, end, _single(one.get(kind)), surface
        elif _is_item(one):
            yield one[0], one[1], one[2], None
        else:
            raise DataError(
                f"{where}: a span must be an object or [start, end, type], but is {str(one)[:40]!r}."
            )


def _by_type(cell: Mapping[str, Any], where: str) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Yield the spans of ``{type: {text: [[first, last], ...]}}``; a type or a text may have none."""
    for kind, texts in cell.items():
        if texts is not None and not isinstance(texts, Mapping):
            raise DataError(
                f"{where}: spans of {kind} must be given by their texts, but are {str(texts)[:40]!r}. Write "
                f'{{"{kind}": {{"<text>": [[<first>, <last>]]}}}}.'
            )
        for surface, places in (texts or {}).items():
            for place in plain(places) or ():
                pair = plain(place)
                if not isinstance(pair, list | tuple) or len(pair) != 2:
                    raise DataError(
                        f"{where}: places of {surface!r} must be [first, last], but one is {pair!r}."
                    )
                yield pair[0], pair[1], kind, surface


def _cell(value: Any) -> Any:
    """Return a cell with JSON read; None where it is missing."""
    value = plain(value)
    if isinstance(value, str):
        if not value.lstrip().startswith(("[", "{")):
            return value.strip() or None
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return None if isinstance(value, float) and label_text(value) is None else value


def _is_item(value: Any) -> bool:
    value = plain(value)
    if isinstance(value, Mapping):
        return _first(value, _START) is not None and _first(value, _END) is not None
    return isinstance(value, list | tuple) and len(value) == 3 and _is_place(value[0]) and _is_place(value[1])


def _is_place(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()


def _holds_words(rows: Sequence[Row], column: str) -> bool:
    """Return whether cells are words; Prodigy's ``tokens`` are objects beside the text."""
    cells = (listed(row.values.get(column)) for row in rows)
    cell = next((one for one in cells if one), None)
    return cell is not None and not (isinstance(cell, list) and isinstance(cell[0], Mapping))


def _first(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _single(value: Any) -> Any:
    """Return a type; Label Studio writes a list of one."""
    value = plain(value)
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
