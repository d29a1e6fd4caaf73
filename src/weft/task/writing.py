"""Conversations and texts as tokens: what is learnt of them, and how they are made to fit.

Pieces are tokenized apart, each as it goes on behind the one before. So a prompt is the same token for token in learning
and in answering, and what is learnt starts and ends with a token.

Too long a conversation loses its oldest turns, never the system's words and never the last question: the context of an
answer is what was just said. Answers among the turns that were left out are learnt in texts of their own, so that none is
lost. A single question that is too long loses its middle: its start holds the instruction, its end the call to answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from weft.task.base import Tokenizer
from weft.task.conversation import Conversation, Speaker
from weft.task.rendering import Piece, Renderer

_BREAK = "\n"


class Learn(StrEnum):
    """Which tokens of a conversation are learnt."""

    ANSWERS = "answers"  # of every answer, with its end token
    LAST = "last"  # of the last answer
    ALL = "all"  # every token, those of the questions too


class Span(NamedTuple):
    """Tokens of a text that are learnt: from ``start`` on, before ``end``, each counting ``weight``."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Written:
    """One text as tokens, with what is learnt of it and how many tokens did not fit."""

    tokens: tuple[int, ...]
    spans: tuple[Span, ...]
    num_cut: int


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What stands before an answer, fitted.

    Attributes:
        tokens: at most as many as there is room.
        tail: the text of its last piece.
        places: where answers inside can be learnt, by turn.
        first: the first turn that was kept.
        num_cut: tokens that did not fit.
    """

    tokens: tuple[int, ...]
    tail: str
    places: dict[int, tuple[int, int]]
    first: int
    num_cut: int


class Writer:
    """Writes conversations as tokens; texts that were tokenized once are remembered.

    Args:
        tokenizer: makes tokens.
        renderer: makes text.
        room: most tokens of a prompt.
    """

    def __init__(self, tokenizer: Tokenizer, renderer: Renderer, *, room: int) -> None:
        self._tokenizer = tokenizer
        self._renderer = renderer
        self._room = room
        self._ids: dict[tuple[str, str | None], tuple[int, ...]] = {}
        self._marks = tuple(mark for mark in tokenizer.specials if mark)

    def remember(self, texts: Iterable[Sequence[Piece]]) -> None:
        """Tokenize the pieces of many texts in a few calls."""
        wanted: dict[str | None, dict[str, None]] = {}
        for pieces in texts:
            for text, behind in self._keys(pieces, None):
                if (text, behind) not in self._ids:
                    wanted.setdefault(behind, {})[text] = None
        for behind, names in wanted.items():
            found = (
                self._tokenizer.plain(list(names))
                if behind is None
                else self._tokenizer.continued(list(names), behind=behind)
            )
            self._ids.update(zip(((name, behind) for name in names), found, strict=True))

    def ask(self, talk: Conversation) -> Written:
        """Return the prompt of an answer to the last turn of ``talk``."""
        prompt = self._fitted(talk)
        return Written(prompt.tokens, (), prompt.num_cut)

    def learn(self, talk: Conversation, learn: Learn) -> list[Written]:
        """Return texts in which every answer of ``talk`` that counts is learnt once: the last one's first.

        Args:
            talk: fitted to the renderer.
            learn: what counts.
        """
        wanted = set(counted(talk, learn))
        texts: list[Written] = []
        while wanted:
            turn = max(wanted)
            prompt = self._fitted(replace(talk, turns=talk.turns[:turn]))
            texts.append(self._learnt(talk, turn, prompt, wanted, learn))
            done = (
                {one for one in wanted if one >= prompt.first} if learn is Learn.ALL else set(prompt.places)
            )
            wanted -= {turn, *done}
        return texts

    def _learnt(
        self, talk: Conversation, turn: int, prompt: _Prompt, wanted: set[int], learn: Learn
    ) -> Written:
        part = replace(talk, turns=talk.turns[prompt.first : turn + 1])
        tokens, places = self._laid(self._renderer.answer(part), prompt.tail, len(prompt.tokens))
        whole = (*prompt.tokens, *tokens)
        end = min(len(whole), self._tokenizer.max_tokens)
        if learn is Learn.ALL:
            spans = [Span(0, end, 1.0)]
        else:
            inside = {one: place for one, place in prompt.places.items() if one in wanted}
            (inside[turn],) = places.values()
            spans = [
                Span(first, min(last, end), talk.turns[one].weight)
                for one, (first, last) in inside.items()
                if first < end
            ]
        return Written(whole[:end], tuple(spans), prompt.num_cut + len(whole) - end)

    def _fitted(self, talk: Conversation) -> _Prompt:
        whole = self._prompt(talk, 0)
        length = len(whole.tokens)
        if length <= self._room:
            return whole
        starts = [at for at, turn in enumerate(talk.turns) if at and turn.speaker is Speaker.USER]
        tried: dict[int, _Prompt] = {}

        def is_fitting(number: int) -> bool:
            if number not in tried:
                tried[number] = self._prompt(talk, starts[number])
            return len(tried[number].tokens) <= self._room

        number = _first_guess(talk, starts, self._room / length)
        while number < len(starts) and not is_fitting(number):
            number += 1
        while number and is_fitting(number - 1):
            number -= 1
        if number < len(starts):
            return replace(tried[number], num_cut=length - len(tried[number].tokens))
        shortest = tried[number - 1] if starts else whole
        tokens = cut_middle(shortest.tokens, self._room)
        return replace(shortest, tokens=tokens, places={}, num_cut=length - len(tokens))

    def _prompt(self, talk: Conversation, first: int) -> _Prompt:
        """Return the prompt without the turns before ``first``."""
        pieces = self._renderer.prompt(replace(talk, turns=talk.turns[first:]))
        start = self._renderer.start
        tokens, places = self._laid(pieces, None, len(start))
        moved = {turn + first: place for turn, place in places.items()}
        return _Prompt((*start, *tokens), pieces[-1].text, moved, first, 0)

    def _laid(
        self, pieces: Sequence[Piece], before: str | None, start: int
    ) -> tuple[list[int], dict[int, tuple[int, int]]]:
        """Return the tokens of pieces that follow the text ``before``, and where answers stand, counted from ``start``."""
        tokens: list[int] = []
        places: dict[int, tuple[int, int]] = {}
        for piece, key in zip(pieces, self._keys(pieces, before), strict=True):
            first = start + len(tokens)
            tokens += self._ids[key] if key in self._ids else self._read(*key)
            tokens += [self._renderer.stop] * piece.stops
            if piece.turn is not None:
                places[piece.turn] = (first, start + len(tokens))
        return tokens, places

    def _keys(self, pieces: Sequence[Piece], before: str | None) -> list[tuple[str, str | None]]:
        """Return each piece's text with the mark that it stands behind, None at the start of a text."""
        texts = [before, *(piece.text for piece in pieces)]
        return [
            (piece.text, None if last is None else self._mark(last))
            for piece, last in zip(pieces, texts, strict=False)
        ]

    def _mark(self, text: str) -> str:
        if not text.endswith(self._marks):
            return _BREAK
        return max((mark for mark in self._marks if text.endswith(mark)), key=len)

    def _read(self, text: str, behind: str | None) -> tuple[int, ...]:
        if behind is None:
            return self._tokenizer.plain([text])[0]
        return self._tokenizer.continued([text], behind=behind)[0]


def _first_guess(talk: Conversation, starts: Sequence[int], share: float) -> int:
    """Return the number of the first of ``starts`` from which on a conversation has at most ``share`` of its letters."""
    letters = [len(turn.text) for turn in talk.turns]
    whole = len(talk.system) + sum(letters)
    kept = (len(talk.system) + sum(letters[start:]) for start in starts)
    return next(
        (number for number, rest in enumerate(kept) if rest <= share * whole), max(0, len(starts) - 1)
    )


def counted(talk: Conversation, learn: Learn) -> tuple[int, ...]:
    """Return the turns of ``talk`` whose answers are learnt."""
    if learn is Learn.ALL:
        return talk.answers
    chosen = talk.answers[-1:] if learn is Learn.LAST else talk.answers
    return tuple(turn for turn in chosen if talk.turns[turn].weight > 0)


def blocks(tokens: Sequence[int], size: int) -> list[Written]:
    """Return a long text as texts of at most ``size`` tokens in which every token but the first is learnt once.

    Each block starts with the last token of the one before, which is where the next token is predicted from.

    Example:
        >>> [one.tokens for one in blocks((1, 2, 3, 4, 5), 3)]
        [(1, 2, 3), (3, 4, 5)]
    """
    starts = range(0, max(1, len(tokens) - 1), size - 1)
    parts = [tuple(tokens[at : at + size]) for at in starts]
    return [Written(part, (Span(0, len(part), 1.0),), 0) for part in parts]


def cut_middle(tokens: tuple[int, ...], room: int) -> tuple[int, ...]:
    """Return at most ``room`` tokens, the first and the last: an instruction's start and the call to answer stay."""
    if len(tokens) <= room:
        return tokens
    tail = room // 2
    return tokens[: room - tail] + tokens[len(tokens) - tail :]
