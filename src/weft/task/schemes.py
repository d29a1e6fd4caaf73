"""The ways of writing spans as one tag a word: which one a corpus uses, and what breaks it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

from weft.metric.tagging import OUTSIDE, Span, spans


class Scheme(StrEnum):
    """How tags mark spans."""

    BIO = "bio"  # B- opens every span (IOB2)
    BIOES = "bioes"  # E- closes it, S- is a span of one word; also written BILOU or BMES
    IOB1 = "iob1"  # B- only between touching spans of one type
    IO = "io"  # I- alone; touching spans of one type are one
    PLAIN = "plain"  # no spans: each word has a label of its own (parts of speech)


_MARKED = re.compile(r"([BIESLUMW])-(.+)")
_SPELLINGS = {"L": "E", "U": "S", "W": "S", "M": "I"}  # BILOU, BMES, BMEWO -> BIOES
_MARKS = {Scheme.BIO: "BI", Scheme.BIOES: "BIES", Scheme.IOB1: "BI", Scheme.IO: "I"}


def recognise(rows: Sequence[Sequence[str]], known: Sequence[str] = ()) -> Scheme | None:
    """Return the scheme in which the fewest tags of ``rows`` break a rule; None for a mix of marked and bare tags.

    ``known`` are tags that there may be besides those in ``rows``.
    Bare tags only (no ``B-`` and the like, and ``O`` or not) are PLAIN.
    """
    tags = {*known, *(tag for row in rows for tag in row)} - {OUTSIDE}
    marks = {match[1] for tag in tags if (match := _MARKED.fullmatch(tag))}
    is_marked = [_MARKED.fullmatch(tag) is not None for tag in tags]
    if not any(is_marked):
        return Scheme.PLAIN
    if not all(is_marked):
        return None
    if marks - {"B", "I"}:
        return Scheme.BIOES
    if marks == {"I"}:
        return Scheme.IO
    return min((Scheme.BIO, Scheme.IOB1), key=lambda scheme: sum(num_broken(row, scheme) for row in rows))


def spelled(tags: Iterable[str], scheme: Scheme) -> tuple[str, ...] | None:
    """Return ``tags`` in the scheme's own spelling, or None if one of them does not belong to it.

    For BIOES the marks of BILOU and BMES are understood, for IO bare types.
    """
    if scheme is Scheme.PLAIN:
        return tuple(tags)
    result: list[str] = []
    for tag in tags:
        match = _MARKED.fullmatch(tag)
        if tag == OUTSIDE:
            result.append(tag)
        elif match is None and scheme is Scheme.IO:
            result.append(f"I-{tag}")
        elif match is None:
            return None
        else:
            mark = _SPELLINGS.get(match[1], match[1]) if scheme is Scheme.BIOES else match[1]
            if mark not in _MARKS[scheme]:
                return None
            result.append(f"{mark}-{match[2]}")
    return tuple(result)


def repaired(tags: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """Return spelled ``tags`` with the same spans (read leniently) and every rule of the scheme kept.

    Example:
        >>> repaired(["O", "I-PER", "I-PER"], Scheme.BIO)
        ('O', 'B-PER', 'I-PER')
    """
    return tuple(tags) if scheme is Scheme.PLAIN else write(spans(tags), len(tags), scheme)


def num_broken(tags: Sequence[str], scheme: Scheme) -> int:
    """Return how many spelled ``tags`` a repair changes."""
    return sum(old != new for old, new in zip(tags, repaired(tags, scheme), strict=True))


def write(found: Sequence[Span], num_words: int, scheme: Scheme) -> tuple[str, ...]:
    """Return the tags that mark the spans ``found``, which are in order and do not overlap."""
    tags = [OUTSIDE] * num_words
    touching = ("", 0)  # type and end of the span before
    for kind, start, end in found:
        marks = _marks(end - start, scheme, is_touching=touching == (kind, start))
        tags[start:end] = [f"{mark}-{kind}" for mark in marks]
        touching = (kind, end)
    return tuple(tags)


def _marks(length: int, scheme: Scheme, *, is_touching: bool) -> str:
    match scheme:
        case Scheme.BIO:
            return "B" + "I" * (length - 1)
        case Scheme.BIOES:
            return "S" if length == 1 else "B" + "I" * (length - 2) + "E"
        case Scheme.IOB1:
            return ("B" if is_touching else "I") + "I" * (length - 1)
        case Scheme.IO | Scheme.PLAIN:
            return "I" * length


def all_tags(seen: Iterable[str], scheme: Scheme) -> tuple[str, ...]:
    """Return every tag that the scheme has for the types in ``seen``, ``O`` first; PLAIN tags as they are, sorted.

    A tag that training rows lack is in the list too: repairs and other splits may need it.
    """
    distinct = set(seen)
    if scheme is Scheme.PLAIN:
        return tuple(sorted(distinct))
    kinds = sorted({tag.split("-", 1)[1] for tag in distinct - {OUTSIDE}})
    return (OUTSIDE, *(f"{mark}-{kind}" for kind in kinds for mark in _MARKS[scheme]))
