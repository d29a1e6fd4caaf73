"""Examples of several texts: from one output a text to one line of outputs an example.

Legend: E examples, S most texts of an example, R rows addressed (texts of all examples, in order), C outputs a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weft.core.example import Encoded

_NONE = -1


def places(encoded: Sequence[Encoded]) -> Tensor:
    """Return where each example's texts lie among the rows of all, int64, shape (E, S); -1 beyond its last text.

    Example:
        >>> from weft.core.example import Text
        >>> one, two = Encoded((1,), None, 0, 0, "a:1"), Encoded((2,), None, 0, 0, "a:2", more=(Text((3,), None),))
        >>> places([one, two]).tolist()
        [[0, -1], [1, 2]]
    """
    counts = [1 + len(example.more) for example in encoded]
    table_ES = np.full((len(counts), max(counts)), _NONE, dtype=np.int64)
    start = 0
    for line, count in zip(table_ES, counts, strict=True):
        line[:count] = np.arange(start, start + count)
        start += count
    return torch.from_numpy(table_ES)


def apart(example: Encoded, targets: Sequence[Any]) -> list[Encoded]:
    """Return each text of ``example`` as an example of its own.

    Args:
        example: of one text or several.
        targets: of each text.
    """
    return [
        replace(example, tokens=text.tokens, segments=text.segments, target=target, more=())
        for text, target in zip(example.texts, targets, strict=True)
    ]


def is_text(places_ES: Tensor) -> Tensor:
    """Return True where an example has a text, shape (E, S)."""
    return places_ES != _NONE


def spread(outputs_RC: Tensor, places_ES: Tensor, *, fill: float) -> Tensor:
    """Return the outputs by example, shape (E, S, C), ``fill`` where an example has no text."""
    found_NC = outputs_RC.index_select(0, places_ES.clamp(min=0).flatten())
    found_ESC = found_NC.unflatten(0, tuple(places_ES.shape))
    return found_ESC.masked_fill(~is_text(places_ES)[:, :, None], fill)
