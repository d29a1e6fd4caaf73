"""Where what can be made again lies on this machine, and how much room it may take."""

from __future__ import annotations

import os
from pathlib import Path

from weft.errors import RecipeError

HOME, LIMIT = "WEFT_CACHE", "WEFT_CACHE_LIMIT"
_DEFAULT_GIB = 8.0


def cache_home() -> Path:
    """Return the folder of all caches: ``$WEFT_CACHE``, or ``~/.cache/weft``."""
    named = os.environ.get(HOME)
    return Path(named) if named else Path.home() / ".cache" / "weft"


def limit_bytes() -> int:
    """Return the most bytes that a cache may take: ``$WEFT_CACHE_LIMIT`` in GiB, 8 where it is not set; 0 keeps nothing.

    Raises:
        RecipeError: the variable is not such a number.
    """
    given = os.environ.get(LIMIT, str(_DEFAULT_GIB))
    try:
        size = float(given)
    except ValueError:
        size = -1.0
    if not size >= 0:
        raise RecipeError([f"{LIMIT}: must be a number of GiB, 0 or more, but is {given!r}. Set it to 8."])
    return round(min(size, 2.0**20) * 2**30)
