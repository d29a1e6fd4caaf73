"""Text that is told while it is generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from weft.core.decoding import Decoding

Listener = Callable[[str], None]
"""Is told the next piece of a text."""

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a decoder makes of the first bytes of a character
_MOST_BYTES = 4  # of a character


def whole(tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> str:
    """Return the text of ``tokens``, without a last character of which some tokens are missing.

    Some decoders (byte fallback) read nothing of a run of bytes that ends within a character: it is left out before.

    Example:
        >>> whole(list("好好".encode())[:5], lambda ids: bytes(ids).decode(errors="replace"))
        '好'
    """
    text = decode(tokens)
    if not text.endswith(UNFINISHED):
        return text
    shorter = (decode(tokens[:-torn]) for torn in range(1, min(_MOST_BYTES, len(tokens) + 1)))
    return next((one for one in shorter if not one.endswith(UNFINISHED)), text)


class Speech:
    """Hears tokens and tells their text: whole characters, nothing that may belong to a stop string, no outer blanks.

    Args:
        decode: reads tokens as text.
        how: they are decoded; knows what ends an answer.
        listener: is told each piece.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], how: Decoding, listener: Listener) -> None:
        self._decode = decode
        self._how = how
        self._listener = listener
        self._tokens: list[int] = []
        self._told = ""

    def __call__(self, token: int) -> None:
        """Hear one token."""
        if token in self._how.stop_tokens:
            return
        self._tokens.append(token)
        text = self._decode(self._tokens)
        stops = self._how.stops
        self._tell((text if stops is None else stops.settled(text)).rstrip(UNFINISHED).strip())

    def finish(self, text: str) -> None:
        """Tell what is left of the whole ``text``."""
        self._tell(text)

    def _tell(self, text: str) -> None:
        if text != self._told and text.startswith(self._told):
            self._listener(text[len(self._told) :])
            self._told = text
