"""Translators between many languages: which token says what is read, and which one what is to be written.

Their tokenizers put the language of a text before it (mBART-50, NLLB, M2M100). A row that names its languages
(``translation: {en: ..., zh: ...}``) says both where its codes are the tokenizer's, or the start of one alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from weft.errors import ModelError
from weft.task.base import Tokenizer
from weft.task.sequence import Columns

_SOURCE, _TARGET = "source_language", "target_language"
_ROLES = {_SOURCE: "instruction", _TARGET: "output"}
_MOST = 6  # codes that an error names
_ALIKE = 0.3  # zh and zho_Hans are 0.4


@dataclass(frozen=True, slots=True)
class Languages:
    """What a task reads and writes, as codes of the tokenizer; None for what a recipe leaves open.

    Attributes:
        source: of what is read.
        target: of what is written.
    """

    source: str | None = None
    target: str | None = None

    def found(self, name: str, tokenizer: Tokenizer, columns: Columns) -> Languages | None:
        """Return both codes, those left open taken from a translation's own; None for a model that needs none.

        Args:
            name: of the task.
            tokenizer: of the model.
            columns: of the rows.

        Raises:
            ModelError: a code that the tokenizer does not have, or that cannot be found out; codes for a model without
                any, or for one whose texts have them behind.
        """
        known = {} if tokenizer.reply_start is None else tokenizer.languages
        given = {_SOURCE: self.source, _TARGET: self.target}
        if not known:
            for key, code in given.items():
                if code is not None:
                    raise ModelError(
                        f"tasks.{name}.{key}: must be left out where no token says the language of a text, but is {code!r}. "
                        f"Leave it out, or choose a translator between many languages (mBART-50, NLLB)."
                    )
            return None
        if tokenizer.texts([""])[0].tokens[0] not in known.values():
            raise ModelError(
                f"tasks.{name}: the model's tokenizer must put the language before a text, but puts it behind (mBART-25, "
                f"NLLB with legacy_behaviour). Choose mBART-50, or set legacy_behaviour to false in tokenizer_config.json."
            )
        codes = (_code(f"tasks.{name}.{key}", code, known, columns, key) for key, code in given.items())
        return Languages(*codes)

    def ids(self, tokenizer: Tokenizer) -> tuple[int, int]:
        """Return the tokens of both, which ``found`` returned."""
        return tokenizer.languages[str(self.source)], tokenizer.languages[str(self.target)]


ANY = Languages()
"""Nothing said: found out from the rows, or not needed."""


def _code(place: str, given: str | None, known: Mapping[str, int], columns: Columns, key: str) -> str:
    if given is not None and given not in known:
        raise ModelError(
            f"{place}: must be one of the model's {len(known)} languages, but is {given!r}. {_near(given, known)}"
        )
    said = columns[_ROLES[key]] if columns.get("translation") is not None else None
    derived = None if said is None else _alike(said, known)
    if given is None and derived is None:
        said_too = "" if said is None else f" (the rows say {said!r})"
        raise ModelError(
            f"{place}: must be one of the model's {len(known)} languages, but is not given{said_too}. "
            f"{_near(said or 'en', known)}"
        )
    return str(given or derived)


def _alike(code: str, known: Mapping[str, int]) -> str | None:
    """Return ``code`` if it is known, else the only one known that begins with it."""
    code = code.replace("-", "_")
    begun = [one for one in known if one.split("_")[0].lower() == code.lower()]
    return code if code in known else begun[0] if len(begun) == 1 else None


def _near(code: str, known: Mapping[str, int]) -> str:
    begun = [one for one in sorted(known) if one[:2].lower() == code[:2].lower()]
    near = dict.fromkeys([*begun, *get_close_matches(code, known, n=_MOST, cutoff=_ALIKE), *sorted(known)])
    return f"Nearest: {', '.join(list(near)[:_MOST])}."
