"""How text is generated, as a value: the same to a decoder, an encoder-decoder and a task."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from weft.core.seeds import fold

_BYTES = 4  # of a character in UTF-8 at most, each of which may be a token
_SLACK_TOKENS = 8  # that stand for no text: special ones, blanks that a decoder leaves out


@dataclass(frozen=True, slots=True)
class Stops:
    """Strings that end an answer; they and what follows are no part of it.

    Attributes:
        strings: at least one, none empty.
        decode: reads tokens as text.
    """

    strings: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]

    def __post_init__(self) -> None:
        if not self.strings or not all(self.strings):
            raise ValueError(
                f"stop strings: must be one at least, and none empty, but are {list(self.strings)}."
            )

    def cut(self, text: str) -> str:
        """Return ``text`` up to the first of the strings in it.

        Example:
            >>> Stops(("###", "。"), str).cut("是的。###")
            '是的'
        """
        places = [place for string in self.strings if (place := text.find(string)) >= 0]
        return text[: min(places)] if places else text

    def settled(self, text: str) -> str:
        """Return the part of ``text`` that stays whatever follows: without what may be the start of a string.

        Example:
            >>> Stops(("<end>",), str).settled("well <e")
            'well '
        """
        cut = self.cut(text)
        starts = (
            size for string in self.strings for size in range(1, len(string)) if cut.endswith(string[:size])
        )
        return cut[: len(cut) - max(starts, default=0)]

    def ends(self, answer: Sequence[int]) -> bool:
        """Return whether one of the strings is in ``answer``, which had none before its last token."""
        reach = _BYTES * max(map(len, self.strings)) + _SLACK_TOKENS
        # The end alone is read first, so that an answer of N tokens is not read N times. Cut within a character or a
        # word it may read otherwise there, so what is found in it is looked for in the whole.
        is_near = self._is_in(self.decode(answer[-reach:]))
        return is_near and (len(answer) <= reach or self._is_in(self.decode(answer)))

    def _is_in(self, text: str) -> bool:
        return any(string in text for string in self.strings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How answers are decoded: the likeliest token each time, unless ``beams`` or ``temperature`` say otherwise.

    Attributes:
        max_new_tokens: of each answer.
        stop_tokens: each of which ends an answer; at least one.
        beams: hypotheses that are followed side by side; 1 follows the likeliest token alone.
        length_penalty: a finished hypothesis is scored by its log-likelihood divided by its length to this power.
        temperature: 0 decodes; above, tokens are drawn from the softmax of logits divided by it.
        top_k: draw from so many likeliest tokens only; 0 for all.
        top_p: draw from the fewest likeliest tokens with this much probability (arXiv:1904.09751); 1 for all.
        repetition_penalty: logits of tokens that the row has are divided by it, multiplied below zero
            (arXiv:1909.05858); 1 for none.
        no_repeat_ngram: no run of so many tokens comes twice; 0 for no limit.
        stops: strings that end an answer.
        seed: of the draws.
        first: token that every answer of an encoder-decoder begins with, its language; no part of it. None for none.
    """

    max_new_tokens: int
    stop_tokens: tuple[int, ...]
    beams: int = 1
    length_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    stops: Stops | None = None
    seed: int = 0
    first: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.beams < 1 or not self.stop_tokens:
            raise ValueError(
                f"decoding: needs a token, a beam and a stop token at least, but has {self.max_new_tokens}, "
                f"{self.beams} and {list(self.stop_tokens)}."
            )
        if self.beams > 1 and self.is_drawn:
            raise ValueError(
                f"decoding: beams must follow the likeliest tokens, but temperature is {self.temperature}. "
                f"Set beams: 1 to draw, temperature: 0 to search."
            )

    @property
    def is_drawn(self) -> bool:
        """Whether tokens are drawn by chance."""
        return self.temperature > 0

    def row_seed(self, prompt: Sequence[int]) -> int:
        """Return the seed of one prompt's draws: its answer does not depend on its neighbours nor on its place."""
        return fold(self.seed, "draw", hashlib.sha256(array("q", prompt).tobytes()).hexdigest())

    def answer(self, tokens: Sequence[int]) -> list[int]:
        """Return generated ``tokens`` up to the first stop token, without ``first``."""
        if self.first is not None and tokens[:1] == [self.first]:
            tokens = tokens[1:]
        ends = [place for place, token in enumerate(tokens) if token in self.stop_tokens]
        return list(tokens[: ends[0]] if ends else tokens)
