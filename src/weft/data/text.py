"""When two texts count as the same."""

from __future__ import annotations

import unicodedata


def normalise(text: str) -> str:
    r"""Return ``text`` without differences of case, of Unicode form and of white space.

    This is NFKC_Casefold (Unicode 15, section 3.13, D147, without dropping ignorable signs) with white space
    collapsed to single blanks; applying it twice changes nothing.

    Example:
        >>> normalise("  Ｗｅｆｔ\tSTRASSE ") == normalise("weft straße")
        True
    """
    if text.isascii():
        return " ".join(text.casefold().split())
    # Folding can undo a normal form and the reverse: D147 therefore does both twice.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", text).casefold())
    return " ".join(unicodedata.normalize("NFKC", folded.casefold()).split())
