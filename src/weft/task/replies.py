"""What an encoder-decoder reads and what its decoder is to write: the tokenizer's ordinary special tokens around each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from weft.core.example import Text
from weft.task.base import Tokenizer
from weft.task.conversation import Conversation
from weft.task.rendering import renderer
from weft.task.templates import FORMATS, fill

SOURCE_TEMPLATE = "{system}\n\n{instruction}\n\n{input}"
"""What is read where a recipe gives no template: nothing but what the row says."""


class Pair(NamedTuple):
    """One exchange in tokens.

    Attributes:
        source: what the encoder reads.
        source_cut: tokens of it that were cut off.
        reply: what the decoder is given: the token that it begins from, and the answer with its special tokens. Each
            token is predicted from those before it.
        num_cut: tokens of both that were cut off.
    """

    source: Text
    source_cut: int
    reply: Text
    num_cut: int


def pairs_of(
    asked: Sequence[Conversation],
    tokenizer: Tokenizer,
    *,
    template: str | None,
    languages: tuple[int, int] | None = None,
) -> list[Pair]:
    """Return sources and replies of exchanges, each at most the tokenizer's ``max_tokens`` long.

    A reply that is too long loses its end, and with it the token that ends an answer: nobody learns to stop early.

    Args:
        asked: without tools; the reply is the last turn where that is an answer, else empty.
        tokenizer: of an encoder-decoder.
        template: of what is read, as in the recipe.
        languages: tokens that say the languages of source and reply, for tokenizers that put one before a text.
    """
    assert tokenizer.reply_start is not None, "a model of one stack goes on with its prompt"
    if not asked:
        return []
    before = [one.turns[: len(one.turns) - one.is_answered] for one in asked]
    talks = [replace(one, turns=turns) for one, turns in zip(asked, before, strict=True)]
    sources = tokenizer.texts([_source(talk, tokenizer, template).strip() for talk in talks])
    answers = tokenizer.texts([one.turns[-1].text.strip() if one.is_answered else "" for one in asked])
    source_language, reply_language = languages or (None, None)
    pairs: list[Pair] = []
    for source, answer in zip(sources, answers, strict=True):
        read, written = _said_in(source_language, source.tokens), _said_in(reply_language, answer.tokens)
        end = () if tokenizer.stop in written else (tokenizer.stop,)
        whole = (tokenizer.reply_start, *written, *end)
        reply = whole[: tokenizer.max_tokens]
        num_cut = source.num_cut + answer.num_cut + len(whole) - len(reply)
        pairs.append(Pair(Text(read, source.segments), source.num_cut, Text(reply, None), num_cut))
    return pairs


def _said_in(language: int | None, tokens: tuple[int, ...]) -> tuple[int, ...]:
    """Return the tokens of a text with that of its language before it, in the place of the one that stands there."""
    return tokens if language is None else (language, *tokens[1:])


def _source(talk: Conversation, tokenizer: Tokenizer, template: str | None) -> str:
    """Return what is read: a format of a name as it is written, else a prompt filled with the question.

    Earlier turns stand before the question in the instruction, each with its speaker's name.
    """
    if template is not None and template in FORMATS:
        way = renderer(tokenizer, template)
        return "".join(piece.text for piece in way.prompt(way.fitted(talk)))
    *earlier, asked = talk.turns
    lines = [f"{turn.speaker.capitalize()}: {turn.text}" for turn in earlier]
    return fill(
        template or SOURCE_TEMPLATE,
        system=talk.system,
        instruction="\n".join([*lines, asked.content]),
        given=asked.given,
    )
