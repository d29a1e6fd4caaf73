"""Names that become folders, files or JSON keys."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from weft.errors import NameInvalidError

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_RESERVED = {"con", "prn", "aux", "nul", "base"} | {f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10)}
_RULE = "must be 1-64 letters, digits, '_' or '-', start with a letter or digit and not be reserved"


def check_name(name: str) -> str:
    """Return ``name`` unchanged if it is safe as a folder name on every system.

    Raises:
        NameInvalidError: anything else (paths, dots, blanks, over 64 characters, reserved names such as ``base``).
    """
    if not _PLAIN.fullmatch(name) or name.lower() in _RESERVED:
        raise NameInvalidError(f"{name!r}: a name {_RULE}, but this one is not. Choose a plain name.")
    return name


def _validate(name: str) -> str:
    try:
        return check_name(name)
    except NameInvalidError:
        raise PydanticCustomError("name", _RULE) from None  # type: ignore[arg-type]  # wants a literal


Name = Annotated[
    str, AfterValidator(_validate), WithJsonSchema({"type": "string", "pattern": f"^{_PLAIN.pattern}$"})
]
