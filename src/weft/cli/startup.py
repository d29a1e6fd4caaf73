"""How often Python looks for cyclic garbage while a command starts.

Importing makes a million objects that all stay. At the usual pace the collector walks them over and over, which takes
a quarter of the start; nothing can be freed there. Training goes on at the usual pace: a cycle may hold tensors.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

_SELDOM = (100_000, 50, 50)
_USUAL = (700, 10, 10)  # what CPython starts with


@contextmanager
def starting() -> Generator[None]:
    """Collect seldom within the block, or until ``started``."""
    before = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def started() -> None:
    """Collect at the usual pace from here on."""
    gc.set_threshold(*_USUAL)
