"""Random bits as a pure function of (key, counter): the torch twin of ``draw`` in ``kernels/vector.h``.

All values are 32-bit words held in int64 tensors or Python ints, so that both hands give equal bits.
"""

from __future__ import annotations

from typing import TypeVar

import torch

_WORD = 0xFFFFFFFF

Words = TypeVar("Words", int, torch.Tensor)
Key = tuple[Words, Words]


def mix(word: Words) -> Words:
    """Return a well-stirred 32-bit word (C. Wellons, "Prospecting for hash functions", 2018: lowbias32)."""
    word = word ^ (word >> 16)
    word = (word * 0x7FEB352D) & _WORD
    word = word ^ (word >> 15)
    word = (word * 0x846CA68B) & _WORD
    return word ^ (word >> 16)


def extend(key: Key[Words], part: Words) -> Key[Words]:
    """Return the key of a part (a row, a head, a query) of what ``key`` stands for."""
    first = mix(key[0] ^ part)
    return first, mix((key[1] + first) & _WORD)


def key_of(seed: int) -> Key[int]:
    """Return the root key of a 64-bit seed."""
    root = (0x9E3779B9, 0x85EBCA6B)
    return extend(extend(root, seed & _WORD), (seed >> 32) & _WORD)


def draw(key: Key[torch.Tensor], counter: torch.Tensor) -> torch.Tensor:
    """Return the 32-bit word number ``counter`` of ``key``; shapes broadcast."""
    word = (counter * 0x9E3779B1 + key[0]) & _WORD
    word = word ^ (word >> 16)
    word = (word * 0x7FEB352D) & _WORD
    word = ((word ^ (word >> 15)) + key[1]) & _WORD
    word = (word * 0x846CA68B) & _WORD
    return word ^ (word >> 16)
