"""What the command line says, in English and in Chinese. One JSON file a language, the same keys in both."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

LANGUAGES = ("en", "zh")


def language() -> str:
    """Return ``en`` or ``zh``: ``WEFT_LANG`` where it is set, else the locale's."""
    wanted = (os.environ.get(name) for name in ("WEFT_LANG", "LC_ALL", "LC_MESSAGES", "LANG"))
    first = next((value for value in wanted if value), "")
    return "zh" if first.lower().startswith("zh") else "en"


@cache
def catalogue(name: str) -> Mapping[str, str]:
    """Return all messages of the language ``name`` by key."""
    return json.loads(files("weft.cli").joinpath("text", f"{name}.json").read_text(encoding="utf-8"))


def say(key: str, **values: object) -> str:
    """Return the message ``key`` in the user's language, with ``values`` in their places.

    Example:
        >>> say("error.bug_hint")  # doctest: +SKIP
        'This is a bug in Weft. Run again with --debug and report what it prints.'
    """
    return catalogue(language())[key].format(**values)
