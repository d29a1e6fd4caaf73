"""Rows of generation as examples: conversations and plain texts for decoders, sources and replies for encoder-decoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from weft.core.example import Dropped, Encoded, Purpose, Row
from weft.errors import ModelError, TemplateRefusal
from weft.task.answering import AnswerSpec, Prompt, gold_of, prompt_of
from weft.task.base import Tokenizer
from weft.task.conversation import Conversation, Reason
from weft.task.languages import ANY, Languages
from weft.task.prompts import plain_text, read
from weft.task.rendering import Piece, Renderer, renderer, without_tools
from weft.task.replies import pairs_of
from weft.task.sequence import Columns, text_in
from weft.task.speech import UNFINISHED, whole
from weft.task.supervision import Supervised, has_loss, learnt
from weft.task.writing import Learn, Span, Writer, blocks, counted

_ROWS_AT_ONCE = 1024  # whose renderings are kept, and whose pieces go to the tokenizer together


class _Draft(NamedTuple):
    """A conversation with the pieces of its prompt and of what follows, before they are tokens."""

    talk: Conversation
    pieces: list[Piece]
    gold: str | None


class _Tokenized(NamedTuple):
    """A row with the tokens of its text, or of its question where it has that alone."""

    row: Row
    tokens: tuple[int, ...]
    is_question: bool


@dataclass(frozen=True, slots=True)
class Encoder:
    """Makes examples of rows.

    Attributes:
        name: of the task.
        tokenizer: of the model.
        columns: of the rows, by role.
        answering: how rows are answered and judged.
        template: as in the recipe.
        learn: what is learnt of a conversation; an encoder-decoder learns the last answer.
        max_new_tokens: longest answer.
        languages: that an encoder-decoder reads and writes.
    """

    name: str
    tokenizer: Tokenizer
    columns: Columns
    answering: AnswerSpec
    template: str | None
    learn: Learn
    max_new_tokens: int
    languages: Languages = ANY

    def encode(self, rows: Sequence[Row], purpose: Purpose) -> list[Encoded | Dropped]:
        """Return each row as tokens with its target, or why it is not used; a plain text to learn as its blocks.

        Raises:
            ModelError: plain texts for an encoder-decoder, or languages that are not the model's.
        """
        languages = self.languages.found(self.name, self.tokenizer, self.columns)
        if self.columns["text"] is not None:
            return [result for one in self._tokenized(rows) for result in self._text(one, purpose)]
        if self.tokenizer.reply_start is not None:
            return self._replies(rows, purpose, None if languages is None else languages.ids(self.tokenizer))
        parts = [rows[at : at + _ROWS_AT_ONCE] for at in range(0, len(rows), _ROWS_AT_ONCE)]
        return [result for part in parts for result in self._conversations(part, purpose)]

    @property
    def _room(self) -> int:
        """How many tokens a prompt may have: the same to learn and to answer."""
        return self.tokenizer.max_tokens - min(self.max_new_tokens, self.tokenizer.max_tokens // 2)

    def _target(self, row: Row, stop: int) -> Prompt:
        """Return how a row is answered; where the template ends answers otherwise, the tokenizer's end ends them too."""
        own = prompt_of(row, self.columns, self.answering, self.tokenizer)
        if stop == own.stop:
            return own
        return replace(own, stop=stop, more_stops=(*own.more_stops, own.stop))

    # ------------------------------------------------------------------------------------ conversations

    def _conversations(self, rows: Sequence[Row], purpose: Purpose) -> list[Encoded | Dropped]:
        way = renderer(self.tokenizer, self.template)
        writer = Writer(self.tokenizer, way, room=self._room)
        drafts = [self._draft(row, way, purpose) for row in rows]
        writer.remember(draft.pieces for draft in drafts if isinstance(draft, _Draft))
        encoded = self._asked if purpose is Purpose.ANSWER else self._learnt
        return [
            Dropped(row.where, draft) if isinstance(draft, str) else encoded(row, draft, writer, way)
            for row, draft in zip(rows, drafts, strict=True)
        ]

    def _draft(self, row: Row, way: Renderer, purpose: Purpose) -> _Draft | Reason:
        talk = read(row, self.columns)
        if isinstance(talk, str):
            return talk
        try:
            return _question(talk, way) if purpose is Purpose.ANSWER else _lesson(talk, way, self.learn)
        except TemplateRefusal as refusal:
            return _refused(refusal)

    def _asked(self, row: Row, draft: _Draft, writer: Writer, way: Renderer) -> Encoded | Dropped:
        try:
            asked = writer.ask(draft.talk)
        except TemplateRefusal as refusal:
            return Dropped(row.where, _refused(refusal))
        gold = gold_of(row, self.columns, draft.gold)
        target = self._target(row, way.stop)
        return Encoded(asked.tokens, None, target, gold, row.where, num_cut=asked.num_cut)

    def _learnt(self, row: Row, draft: _Draft, writer: Writer, _way: Renderer) -> Encoded | Dropped:
        try:
            texts = writer.learn(draft.talk, self.learn)
        except TemplateRefusal as refusal:
            return Dropped(row.where, _refused(refusal))
        if not has_loss(texts):
            return Dropped(row.where, "no answer left after cutting: raise model.max_tokens")
        return learnt(texts, gold_of(row, self.columns, draft.gold), row.where)

    # --------------------------------------------------------------------------------------- plain texts

    def _tokenized(self, rows: Sequence[Row]) -> list[_Tokenized]:
        """Return rows with the tokens of their text, or of their prompt where they have that alone."""
        if self.tokenizer.reply_start is not None:
            raise ModelError(
                f"tasks.{self.name}: plain texts are learnt by decoders, but this model has an encoder. Give it columns "
                f"instruction and output, or choose a decoder."
            )
        texts = [plain_text(row, self.columns) for row in rows]
        prompts = [text_in(row, self.columns["instruction"]) for row in rows]
        used = [text or prompt for text, prompt in zip(texts, prompts, strict=True)]
        plain = self.tokenizer.plain(used) if used else []
        start = self.tokenizer.start
        return [
            _Tokenized(row, (*start, *tokens) if own else (), is_question=not text)
            for row, tokens, own, text in zip(rows, plain, used, texts, strict=True)
        ]

    def _text(self, one: _Tokenized, purpose: Purpose) -> Sequence[Encoded | Dropped]:
        """Return the blocks of a text, all of which is learnt; to be judged, its second half is asked for.

        A question, which has a prompt instead of a text, is continued from its end.
        """
        row, tokens, is_question = one
        if not tokens or (is_question and purpose is Purpose.LEARN):
            return [Dropped(row.where, "no text")]
        half = self._half(tokens)
        rest = whole(tokens[half : half + self.max_new_tokens], self.tokenizer.decode).strip()
        if purpose is Purpose.LEARN:
            gold = gold_of(row, self.columns, rest)  # a blank one too: the text is learnt all the same
            parts = blocks((*tokens, self.tokenizer.stop), self.tokenizer.max_tokens)
            return [learnt([text], gold, row.where, part=part) for part, text in enumerate(parts)]
        prompt = tokens[-self._room :] if is_question else tokens[:half]
        num_cut = len(tokens) - len(prompt) if is_question else 0
        target = self._target(row, self.tokenizer.stop)
        gold = gold_of(row, self.columns, None if is_question else rest or None)
        return [Encoded(prompt, None, target, gold, row.where, num_cut=num_cut)]

    def _half(self, tokens: tuple[int, ...]) -> int:
        """Return how many tokens of a text are its first half; a character of several tokens is not torn."""
        half = min(self._room, max(1, len(tokens) // 2))
        while half > 1 and self.tokenizer.decode(tokens[:half]).endswith(UNFINISHED):
            half -= 1
        return half

    # ------------------------------------------------------------------------------------------- replies

    def _replies(
        self, rows: Sequence[Row], purpose: Purpose, languages: tuple[int, int] | None
    ) -> list[Encoded | Dropped]:
        """Return each row for an encoder-decoder: what stands before the last answer is read, the answer is a reply."""
        read = [self._exchange(row, purpose) for row in rows]
        asked = [one for one in read if isinstance(one, Conversation)]
        pairs = iter(pairs_of(asked, self.tokenizer, template=self.template, languages=languages))
        learns = purpose is Purpose.LEARN
        results: list[Encoded | Dropped] = []
        for row, talk in zip(rows, read, strict=True):
            if isinstance(talk, str):
                results.append(Dropped(row.where, talk))
                continue
            source, source_cut, reply, cut = next(pairs)
            weight = talk.turns[-1].weight
            target = (
                Supervised(((Span(1, len(reply.tokens), weight),),))
                if learns
                else replace(self._target(row, self.tokenizer.stop), first=languages and languages[1])
            )
            gold = gold_of(row, self.columns, talk.turns[-1].text.strip() if talk.is_answered else None)
            example = Encoded(
                source.tokens,
                source.segments,
                target,
                gold,
                row.where,
                num_cut=cut if learns else source_cut,
                reply=reply if learns else None,
            )
            results.append(example)
        return results

    def _exchange(self, row: Row, purpose: Purpose) -> Conversation | Reason:
        talk = read(row, self.columns)
        if isinstance(talk, str):
            return talk
        if purpose is Purpose.ANSWER:
            return without_tools(talk)
        if not talk.answers:
            return "no answer"
        last = max(counted(talk, Learn.ANSWERS), default=None)
        if last is None:
            return "no answer with a weight"
        return without_tools(replace(talk, turns=talk.turns[: last + 1]))


def _question(talk: Conversation, way: Renderer) -> _Draft:
    """Return the question for the last answer, given all before it, or for what is to follow."""
    talk = way.fitted(talk)
    gold = way.said(talk) if talk.is_answered else None
    before = replace(talk, turns=talk.turns[: len(talk.turns) - talk.is_answered])
    return _Draft(before, way.prompt(before), gold)


def _lesson(talk: Conversation, way: Renderer, learn: Learn) -> _Draft | Reason:
    """Return a conversation to its last answer, with the pieces of the text that is learnt first."""
    if not talk.answers:
        return "no answer"
    talk = way.fitted(replace(talk, turns=talk.turns[: talk.answers[-1] + 1]))
    turns = counted(talk, learn)
    if not turns:
        return "no answer with a weight"
    part = replace(talk, turns=talk.turns[: turns[-1] + 1])
    before = replace(talk, turns=talk.turns[: turns[-1]])
    return _Draft(talk, [*way.prompt(before), *way.answer(part)], way.said(talk))


def _refused(refusal: TemplateRefusal) -> Reason:
    return f"refused by the chat template: {refusal.__cause__}"[:120]
