"""From what stands in a ``tokens`` column to words, and from words back to text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from weft.task.labels import plain

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\u3000-\u303f"
_IS_CJK = re.compile(f"[{_CJK}]")
_OPENING, _CLOSING = "([{\"'«“‘", ",;:!?)]}\"'»”’"
_PIECE = re.compile(f"[{_CJK}]|[^{_CJK}]+")
_SIGN = re.compile(r"\S")
_UNIT = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+|\S")


def listed(value: Any) -> list[Any] | str | None:
    """Return the cell of a list column as a list; a string stays one, and what is missing is None."""
    value = plain(value)
    if isinstance(value, list | tuple):
        return list(value)
    return value if isinstance(value, str) and value.strip() else None


def words_like(value: list[Any] | str, num_tags: int) -> tuple[str, ...]:
    """Return the words of a row with ``num_tags`` tags: as listed, else between blanks, by character, or its units."""
    if isinstance(value, list):
        return tuple(str(word) for word in value)
    words = tuple(value.split())
    others = (
        tuple(value[start:end] for start, end in units(value, by_character=one)) for one in (True, False)
    )
    return next((one for one in (words, *others) if len(one) == num_tags), words)


def units(text: str, *, by_character: bool) -> tuple[tuple[int, int], ...]:
    """Return the places of the smallest words of ``text``, at whose borders people mark spans.

    By character each sign is one that is no blank; else each Chinese or Japanese character, each run of other letters and
    digits, and each other sign.

    Example:
        >>> text = "在U.S.读iPhone7"
        >>> [text[start:end] for start, end in units(text, by_character=False)]
        ['在', 'U', '.', 'S', '.', '读', 'iPhone7']
    """
    pattern = _SIGN if by_character else _UNIT
    return tuple(match.span() for match in pattern.finditer(text))


def is_written_in_characters(text: str) -> bool:
    """Return whether there is a Chinese or Japanese character in ``text``."""
    return _IS_CJK.search(text) is not None


def words_of(value: list[Any] | str) -> tuple[str, ...]:
    """Return the words of a row without tags; of a plain sentence, split the way tagged corpora are.

    Blanks part words, punctuation around a word is a word, and so is each Chinese or Japanese character. A full stop
    is parted from the last word only, and never from one that has another (``U.S.``).

    Example:
        >>> words_of('She left "Acme Inc. (Paris)".')
        ('She', 'left', '"', 'Acme', 'Inc.', '(', 'Paris', ')', '"', '.')
    """
    if isinstance(value, list):
        return tuple(str(word) for word in value)
    words: list[str] = []
    chunks = value.split()
    for index, chunk in enumerate(chunks):
        for piece in _PIECE.findall(chunk):
            words += _peeled(piece, is_last=index == len(chunks) - 1)
    return tuple(words)


def places(words: Sequence[str], text: str) -> tuple[tuple[int, int], ...]:
    """Return the characters of each of ``words`` in ``text``, of which they are pieces in order.

    Example:
        >>> places(words_of("Ann left."), "Ann left.")
        ((0, 3), (4, 8), (8, 9))
    """
    found: list[tuple[int, int]] = []
    end = 0
    for word in words:
        start = text.index(word, end)
        end = start + len(word)
        found.append((start, end))
    return tuple(found)


def _peeled(word: str, *, is_last: bool) -> list[str]:
    before: list[str] = []
    after: list[str] = []
    while len(word) > 1 and word[0] in _OPENING:
        before.append(word[0])
        word = word[1:]
    while len(word) > 1 and (word[-1] in _CLOSING or (is_last and word[-1] == "." and "." not in word[:-1])):
        after.insert(0, word[-1])
        word = word[:-1]
    return [*before, word, *after]


def text_of(words: Sequence[str]) -> str:
    """Return the words as text: blanks between them, none where Chinese or Japanese characters meet.

    Example:
        >>> text_of(["New", "York"]), text_of(["上", "海"])
        ('New York', '上海')
    """
    if not words:
        return ""
    joints = (
        "" if _IS_CJK.match(left[-1:]) and _IS_CJK.match(right[:1]) else " "
        for left, right in pairwise(words)
    )
    return words[0] + "".join(joint + word for joint, word in zip(joints, words[1:], strict=True))
