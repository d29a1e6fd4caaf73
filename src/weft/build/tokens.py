"""A tokenizer that remembers: large lists of texts are tokenized once on a machine, whatever reads them again."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from weft.core.caches import cache_home, limit_bytes
from weft.data.tokens import TokenStore
from weft.model.tokenizer import HFTokenizer, Pieces, Rendered, Windows
from weft.task.base import Tokenizer

ENCODING = 1  # of texts as pieces; raise it whenever the same text may give other pieces
_WORTH_CHARACTERS = 1 << 18  # of a list: below, tokenizing takes less than a tenth of a second
_LIMIT_BYTES = 1 << 30


class RememberingTokenizer:
    """A tokenizer whose answers for large lists come from a store where it has them; see ``weft.task.base.Tokenizer``.

    Args:
        tokenizer: answers what the store does not.
        store: of earlier answers.
        worth_characters: shortest list, in characters, that is kept.
    """

    def __init__(
        self, tokenizer: HFTokenizer, store: TokenStore, *, worth_characters: int = _WORTH_CHARACTERS
    ) -> None:
        self._tokenizer = tokenizer
        self._store = store
        self._worth = worth_characters
        self.max_tokens = tokenizer.max_tokens
        self.pad = tokenizer.pad
        self.stop = tokenizer.stop
        self.unknown = tokenizer.unknown
        self.reply_start = tokenizer.reply_start
        self.languages = tokenizer.languages

    @property
    def start(self) -> tuple[int, ...]:
        """Tokens that open a causal text."""
        return self._tokenizer.start

    def texts(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Pieces]:
        """Return each text (or text pair) with special tokens, cut to ``max_tokens``."""
        kind = "texts" if pairs is None else "pairs"
        return self._recalled(
            kind, [texts] if pairs is None else [texts, pairs], lambda: self._tokenizer.texts(texts, pairs)
        )

    def words(self, sentences: Sequence[Sequence[str]]) -> list[Pieces]:
        """Return each pre-split sentence with special tokens, cut to ``max_tokens``."""
        return self._recalled("words", sentences, lambda: self._tokenizer.words(sentences))

    def windows(self, texts: Sequence[str], pairs: Sequence[str], *, overlap: int) -> list[Windows]:
        """Return each pair as strided windows. They are made anew: to keep every piece's place takes more than the text."""
        return self._tokenizer.windows(texts, pairs, overlap=overlap)

    def plain(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return each text's token ids without special tokens and without cutting."""
        found = self._recalled(
            "plain", [texts], lambda: [Pieces(ids, None, 0) for ids in self._tokenizer.plain(texts)]
        )
        return [pieces.tokens for pieces in found]

    def room(self, *, is_pair: bool) -> int:
        """Return how many tokens of a text, or of both texts of a pair, a row holds beside its special tokens."""
        return self._tokenizer.room(is_pair=is_pair)

    def frame(self, first: Sequence[int], second: Sequence[int] | None = None) -> Pieces:
        """Return one text's (or pair's) token ids with special tokens around them."""
        return self._tokenizer.frame(first, second)

    def continued(self, texts: Sequence[str], *, behind: str = "\n") -> list[tuple[int, ...]]:
        """Return the ids of each text as it goes on behind another, which ends with ``behind``."""
        found = self._recalled(
            f"behind {behind!r}",
            [texts],
            lambda: [Pieces(ids, None, 0) for ids in self._tokenizer.continued(texts, behind=behind)],
        )
        return [pieces.tokens for pieces in found]

    @property
    def template(self) -> str | None:
        """The tokenizer's own chat template, None without one."""
        return self._tokenizer.template

    @property
    def specials(self) -> Mapping[str, int]:
        """Ids of the tokens that no text is merged with."""
        return self._tokenizer.specials

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        template: str,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        is_open: bool = False,
        end: str = "",
    ) -> Rendered:
        """Return a conversation as ``template`` writes it."""
        return self._tokenizer.render(messages, template, tools=tools, is_open=is_open, end=end)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ``tokens`` without special tokens."""
        return self._tokenizer.decode(tokens)

    def _recalled(
        self, kind: str, texts: Sequence[Sequence[str]], encode: Callable[[], list[Pieces]]
    ) -> list[Pieces]:
        if sum(len(text) for group in texts for text in group) < self._worth:
            return encode()
        key = self._key(kind, texts)
        columns = self._store.load(key)
        if columns is not None:
            return _pieces(columns)
        made = encode()
        self._store.save(key, _columns(made))
        return made

    def _key(self, kind: str, texts: Sequence[Sequence[str]]) -> str:
        """Return a digest of the tokenizer, of how it is asked, and of every text."""
        about = f"{ENCODING} {kind} {self.max_tokens} {len(texts)} {self._tokenizer.digest}"
        digest = hashlib.blake2b(about.encode(), digest_size=20)
        digest.update(array("q", map(len, texts)).tobytes())
        digest.update(array("q", map(len, chain.from_iterable(texts))).tobytes())
        digest.update("".join(chain.from_iterable(texts)).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def remembering(tokenizer: Tokenizer) -> Tokenizer:
    """Return ``tokenizer`` with a store of this machine behind it (``weft.core.caches``).

    One without a digest of all that it does is returned as it is, and so is any where ``WEFT_CACHE_LIMIT`` is 0.
    """
    limit = min(_LIMIT_BYTES, limit_bytes())
    if not isinstance(tokenizer, HFTokenizer) or not limit:
        return tokenizer
    return RememberingTokenizer(tokenizer, TokenStore(cache_home() / "tokens", limit))


def _columns(pieces: Sequence[Pieces]) -> dict[str, Sequence[Sequence[int]]]:
    """Return pieces as columns; those that no piece has are left out."""
    columns: dict[str, Sequence[Sequence[int]]] = {
        "tokens": [one.tokens for one in pieces],
        "num_cut": [(one.num_cut,) for one in pieces],
    }
    if any(one.segments is not None for one in pieces):
        columns["segments"] = [one.segments or () for one in pieces]
    if any(one.first is not None for one in pieces):
        columns["first"] = [one.first or () for one in pieces]
    return columns


def _pieces(columns: Mapping[str, Sequence[tuple[int, ...]]]) -> list[Pieces]:
    tokens, cut = columns["tokens"], columns["num_cut"]
    nothing: Sequence[None] = (None,) * len(tokens)
    segments, first = columns.get("segments", nothing), columns.get("first", nothing)
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}  # most rows of a length have equal segments
    return [
        Pieces(ids, None if parts is None else shared.setdefault(parts, parts), num_cut[0], places)
        for ids, parts, num_cut, places in zip(tokens, segments, cut, first, strict=True)
    ]
