"""The one tree of errors. Each is also the stdlib type a caller would expect, and keeps its data as attributes.

Grammar of a message: ``<path or object>: <what must hold>, but <what is>. <what to do | the choices>.``
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class WeftError(Exception):
    """Root of everything Weft raises on purpose. ``exit_code`` is what the command line leaves with."""

    exit_code = 1


class RecipeError(WeftError, ValueError):
    """One or more mistakes in a recipe, an override or a combination of the two; all of them at once."""

    exit_code = 2

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[RecipeError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class NameInvalidError(WeftError, ValueError):
    """A name that would become a path is not a plain name."""

    exit_code = 2


class DataError(WeftError, ValueError):
    """A data file cannot be read as what it is said to be."""

    exit_code = 5


class ModelError(WeftError, ValueError):
    """A model folder is missing, unsafe or not of a kind that Weft can drive."""

    exit_code = 6


class TemplateRefusal(ModelError):
    """A chat template does not take a conversation; another one it may take."""


class SiteError(WeftError, LookupError):
    """A selector matched nothing, or names a site that does not exist."""

    exit_code = 2


class StrategyError(WeftError, ValueError):
    """A method cannot act where a rule puts it, or an adapter does not fit the model."""

    exit_code = 2


class HandOverError(WeftError, ValueError):
    """A stage cannot take over from its parent in the way that ``carry`` says."""

    exit_code = 2


class CheckpointError(WeftError, RuntimeError):
    """No checkpoint that verifies, or one that belongs to another recipe, data or model."""

    exit_code = 3


class DivergenceError(WeftError, ArithmeticError):
    """Loss or gradient were not finite too many steps in a row."""

    exit_code = 4


class ExportError(WeftError, RuntimeError):
    """An export would not be what was trained, or the target format cannot say it."""

    exit_code = 7


class RunBusyError(WeftError, BlockingIOError):
    """Another process works in the same run folder."""

    exit_code = 8


class Interrupted(WeftError):
    """The run was asked to stop; its state is saved, ``weft resume`` goes on from there (EX_TEMPFAIL)."""

    exit_code = 75


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'? Choices: a, b, c."`` for an unknown ``name``; only choices when none is near."""
    known = sorted(choices)
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Choices: {', '.join(known)}."
