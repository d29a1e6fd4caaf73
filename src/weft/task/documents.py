"""Long documents: a text beyond the trunk's limit becomes windows, which have one answer together.

The windows of a document are of equal length, with the first at its start, the last at its end and the others spread
evenly: a mean over them must not count a short rest as much as a whole window.

Legend: E examples, S most windows of a document, R rows addressed, C outputs a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field
from torch import Tensor

from weft.recipe.spec import Spec
from weft.task.base import Pieces, Tokenizer
from weft.task.several import is_text, spread

_SHARE = 8  # of a window is what it has in common with the one before, at least


class WindowPooling(StrEnum):
    """How the outputs of a document's windows become those of the document."""

    MEAN = "mean"  # as of the mean of the windows' vectors, for the last layer is linear
    MAX = "max"  # each output where it is highest


class Windows(Spec):
    """How a text that is too long for the trunk is read whole."""

    pooling: WindowPooling = WindowPooling.MEAN
    """How the outputs of the windows become one answer: mean, or max of each output."""
    stride: int | None = Field(default=None, ge=0)
    """Tokens, at least, that neighbouring windows share, up to half a window; default: an eighth of a window."""
    most: int = Field(default=16, ge=1)
    """Windows of a text; of a longer one so many are read that are spread evenly from its start to its end."""


def _from_pooling(value: Any) -> Any:
    return {"pooling": value} if isinstance(value, str) else value


AnyWindows = Annotated[
    Windows, BeforeValidator(_from_pooling, json_schema_input_type=Windows | WindowPooling)
]
"""``windows: mean`` is short for ``windows: {pooling: mean}``."""


class Reading(NamedTuple):
    """One text or pair as rows for the trunk, and how many of its tokens are in none of them."""

    pieces: Sequence[Pieces]
    num_cut: int


def read(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: Tokenizer, windows: Windows | None
) -> list[Reading]:
    """Return each text (or text pair) as its windows: one where it fits, and the same one as without ``windows``."""
    whole = [Reading((piece,), piece.num_cut) for piece in tokenizer.texts(texts, pairs)]
    if windows is None:
        return whole
    long = [index for index, reading in enumerate(whole) if reading.num_cut]
    firsts = tokenizer.plain([texts[index] for index in long])
    if pairs is None:
        cut = [_windows_of(first, tokenizer, windows) for first in firsts]
    else:
        seconds = tokenizer.plain([pairs[index] for index in long])
        cut = [_windows_of_pair(*both, tokenizer, windows) for both in zip(firsts, seconds, strict=True)]
    for index, reading in zip(long, cut, strict=True):
        whole[index] = reading
    return whole


def starts(length: int, window: int, windows: Windows) -> list[int]:
    """Return where the windows of a text start, ascending.

    Args:
        length: of the text, in tokens.
        window: tokens of one window, at least 1.
        windows: how much they share, and how many there are at most.

    Example:
        >>> starts(10, 4, Windows(stride=1)), starts(10, 4, Windows(stride=1, most=2)), starts(4, 4, Windows())
        ([0, 3, 6], [0, 6], [0])
    """
    if length <= window:
        return [0]
    shared = min(window // _SHARE if windows.stride is None else windows.stride, window // 2)
    num = min(math.ceil((length - shared) / (window - shared)), windows.most)
    return [index * (length - window) // max(1, num - 1) for index in range(num)]


def pool(outputs_RC: Tensor, places_ES: Tensor, how: WindowPooling) -> Tensor:
    """Return the outputs of whole documents, shape (E, C), from those of their windows."""
    match how:
        case WindowPooling.MEAN:
            return spread(outputs_RC, places_ES, fill=0.0).sum(1) / is_text(places_ES).sum(1, keepdim=True)
        case WindowPooling.MAX:
            return spread(outputs_RC, places_ES, fill=-math.inf).amax(1)


def pooling_of(windows: Windows | None) -> WindowPooling:
    """Return how windows become one; without any there is nothing to choose."""
    return WindowPooling.MEAN if windows is None else windows.pooling


def from_config(config: Mapping[str, Any]) -> Windows | None:
    """Return what ``to_config`` wrote among a task's values; None where a task knew of no windows."""
    found = config.get("windows")
    return None if found is None else Windows.model_validate(found)


def to_config(windows: Windows | None) -> dict[str, Any] | None:
    """Return ``windows`` as JSON values."""
    return None if windows is None else windows.model_dump(mode="json")


def _windows_of(text: tuple[int, ...], tokenizer: Tokenizer, windows: Windows) -> Reading:
    window = tokenizer.room(is_pair=False)
    at = starts(len(text), window, windows)
    pieces = [tokenizer.frame(text[start : start + window]) for start in at]
    return Reading(pieces, _num_cut(len(text), at, window))


def _windows_of_pair(
    first: tuple[int, ...], second: tuple[int, ...], tokenizer: Tokenizer, windows: Windows
) -> Reading:
    """Return windows over the longer text, each beside the other, which has at most half of the room."""
    room = tokenizer.room(is_pair=True)
    shorter, longer = (first, second) if len(first) <= len(second) else (second, first)
    beside = shorter[: room // 2]
    window = room - len(beside)
    at = starts(len(longer), window, windows)
    parts = [longer[start : start + window] for start in at]
    pieces = [tokenizer.frame(*((beside, part) if shorter is first else (part, beside))) for part in parts]
    return Reading(pieces, len(shorter) - len(beside) + _num_cut(len(longer), at, window))


def _num_cut(length: int, at: Sequence[int], window: int) -> int:
    """Return how many tokens are in no window."""
    covered = sum(min(window, later - start) for start, later in pairwise(at))
    return length - covered - min(window, length - at[-1])
