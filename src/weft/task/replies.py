"""What an encoder-decoder reads and what its decoder is to write: the tokenizer's ordinary special tokens around each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from weft.core.example import Text
from weft.task.base import Pieces, Tokenizer
from weft.task.prompts import Exchange, fill

SOURCE_TEMPLATE = "{system}\n\n{instruction}\n\n{input}"
"""What is read where a recipe gives no template: nothing but what the row says."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One exchange in tokens.

    Attributes:
        source: what the encoder reads.
        reply: what the decoder is given: the token that it begins from, and the answer with its special tokens. Each
            token is predicted from those before it.
        num_cut: tokens of both that were cut off.
    """

    source: Pieces
    reply: Text
    num_cut: int


def pairs_of(asked: Sequence[Exchange], tokenizer: Tokenizer, *, template: str | None) -> list[Pair]:
    """Return sources and replies of exchanges, each at most the tokenizer's ``max_tokens`` long.

    A reply that is too long loses its end, and with it the token that ends an answer: nobody learns to stop early.

    Args:
        asked: an answer that is None is taken to be empty.
        tokenizer: of an encoder-decoder.
        template: of what is read, as in the recipe.
    """
    assert tokenizer.reply_start is not None, "a model of one stack goes on with its prompt"
    if not asked:
        return []
    sources = tokenizer.texts([fill(template or SOURCE_TEMPLATE, one).strip() for one in asked])
    answers = tokenizer.texts([one.answer or "" for one in asked])
    pairs: list[Pair] = []
    for source, answer in zip(sources, answers, strict=True):
        end = () if tokenizer.stop in answer.tokens else (tokenizer.stop,)
        whole = (tokenizer.reply_start, *answer.tokens, *end)
        reply = whole[: tokenizer.max_tokens]
        num_cut = source.num_cut + answer.num_cut + len(whole) - len(reply)
        pairs.append(Pair(source, Text(reply, None), num_cut))
    return pairs
