"""Freed memory is kept for the next step instead of being handed back to the system and faulted in again."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

from weft.native.library import available

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of mallopt(3)
_LARGEST_KEPT = 32 << 20  # the most that glibc takes
_MOST_KEPT = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep blocks of up to 32 MiB when they are freed; return whether it does.

    A training step frees and allocates the same activations again and again. By default glibc maps blocks of more than
    128 KiB to some MiB anew each time, and the system clears every page of them at the first touch. For the whole
    process and for good; elsewhere than with glibc, and where compiled kernels are switched off, nothing is done.
    """
    if not sys.platform.startswith("linux") or not available():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(mallopt(_TRIM_THRESHOLD, _MOST_KEPT))


def give_back() -> None:
    """Hand free memory back to the system, between phases of a run that need blocks of other sizes."""
    if keep_freed_memory():
        ctypes.CDLL(None).malloc_trim(0)
