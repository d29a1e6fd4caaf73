"""A row on its way: read, understood by a task, encoded, answered."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a data file. ``where`` is ``file:line`` (or ``file:row``) for messages; values as read."""

    values: Mapping[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that a task does not use, and why, in a few words that can be counted (``no label``, ``empty text``)."""

    where: str
    reason: str


class Purpose(StrEnum):
    """What a row is encoded for. Generation sees the answer when it learns and only the prompt when it answers."""

    LEARN = "learn"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Text:
    """One row for the trunk.

    Attributes:
        tokens: token ids, special tokens included, truncated to the trunk's limit.
        segments: token type ids of the same length, or None.
        token_bytes: the tokens as int64 of this machine: batches are laid out from these, not from Python's numbers.
        segment_bytes: the segments likewise, empty without.
        digest: 128 bits over tokens and segments, the same on every machine of this byte order.
        key: 64 bits of it: texts with equal keys share a trunk pass.
    """

    tokens: tuple[int, ...]
    segments: tuple[int, ...] | None
    token_bytes: bytes = field(init=False, repr=False, compare=False)
    segment_bytes: bytes = field(init=False, repr=False, compare=False)
    digest: bytes = field(init=False, repr=False, compare=False)
    key: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tokens, segments = _int64(self.tokens), _int64(self.segments or ())
        digest = hashlib.blake2b(_int64((len(self.tokens),)) + tokens + segments, digest_size=16).digest()
        object.__setattr__(self, "token_bytes", tokens)
        object.__setattr__(self, "segment_bytes", segments)
        object.__setattr__(self, "digest", digest)
        object.__setattr__(self, "key", int.from_bytes(digest[:8], "big"))


@dataclass(frozen=True, slots=True)
class Encoded(Text):
    """One example of one task: its text, or its first and ``more`` (the windows of a document, the choices of a question).

    Attributes:
        target: the task's own value that ``Task.collate`` understands.
        gold: the right answer as ``Task.gold`` gave it, None when the row has no label (prediction).
        where: the row's ``file:line``.
        num_cut: tokens lost to truncation.
        more: further texts, which are rows of the same batch.
        stratum: number of the group of training rows that it belongs to; all groups of a task are drawn equally often.
        reply: what the decoder of an encoder-decoder is given for this text: its start token and the answer to learn.
        part: its number among the examples that its row gave, from 0: the blocks of a long text.
    """

    target: Any
    gold: Any
    where: str
    num_cut: int = 0
    more: tuple[Text, ...] = ()
    stratum: int = 0
    reply: Text | None = None
    part: int = 0

    @property
    def name(self) -> str:
        """Which example of which row it is: no other example of its task has this name."""
        return f"{self.where}#{self.part}" if self.part else self.where

    @property
    def texts(self) -> tuple[Text, ...]:
        """All its rows for the trunk, in the order that its task gave them."""
        return (self, *self.more)

    @property
    def num_tokens(self) -> int:
        """Tokens of all its texts and of its reply."""
        return len(self.tokens) + sum(len(text.tokens) for text in self.more) + self._num_replied

    @property
    def longest(self) -> int:
        """Tokens of its longest text, together with those of its reply."""
        longest = (
            max(len(self.tokens), *(len(text.tokens) for text in self.more))
            if self.more
            else len(self.tokens)
        )
        return longest + self._num_replied

    @property
    def _num_replied(self) -> int:
        return 0 if self.reply is None else len(self.reply.tokens)

    @property
    def identity(self) -> int:
        """64 bits that are equal for examples of equal texts."""
        if not self.more:
            return self.key
        digests = b"".join(text.digest for text in self.texts)
        return int.from_bytes(hashlib.blake2b(digests, digest_size=8).digest(), "big")


def by_row(results: Sequence[Encoded | Dropped]) -> list[list[Encoded | Dropped]]:
    """Return the results of encoding rows, a list a row: what ``weft.task.base.Task.encode`` returned.

    Example:
        >>> one, two = Encoded((1,), None, 0, 0, "a:1"), Encoded((2,), None, 0, 0, "a:1", part=1)
        >>> [len(own) for own in by_row([one, two, Dropped("a:2", "empty text"), one])]
        [2, 1, 1]
    """
    found: list[list[Encoded | Dropped]] = []
    for result in results:
        if isinstance(result, Encoded) and result.part:
            found[-1].append(result)
        else:
            found.append([result])
    return found


def _int64(values: Sequence[int]) -> bytes:
    return array("q", values).tobytes()


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of one task, for files, servers and metrics alike; unused fields stay None.

    Attributes:
        label: the chosen class (classification), a list of classes (multi-label), or the place of a choice (A, B, ...).
        probabilities: by class.
        value: a number (regression).
        tags: one tag a word (tagging).
        spans: entities as ``{"type", "start", "end", "text"}``; word positions, end exclusive; with ``start_char`` and
            ``end_char``, characters of the input, where that was a text and no list of words (tagging).
        text: generated text, or what the chosen one of several choices says.
        extra: what one family alone says besides, by name; none of the names above.
    """

    label: str | list[str] | None = None
    probabilities: Mapping[str, float] | None = None
    value: float | None = None
    tags: tuple[str, ...] | None = None
    spans: tuple[Mapping[str, Any], ...] | None = None
    text: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set, as JSON values."""
        pairs = {
            "label": self.label,
            "probabilities": None if self.probabilities is None else dict(self.probabilities),
            "value": self.value,
            "tags": None if self.tags is None else list(self.tags),
            "spans": None if self.spans is None else [dict(span) for span in self.spans],
            "text": self.text,
        }
        return {key: value for key, value in pairs.items() if value is not None} | dict(self.extra)
