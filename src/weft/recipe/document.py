"""A decoded YAML text: plain values, and for each of them where it was written and how."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a value was written (``recipe.yaml:12``, ``override seed=3``), its place in the order, its own text."""

    where: str
    order: int = 0
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where, at which key path, and what is wrong with it."""

    mark: Mark
    path: Path
    text: str

    def __str__(self) -> str:
        subject = f"{self.mark.where}: {shown(self.path)}" if self.path else self.mark.where
        return f"{subject}: {self.text}"


@dataclass(frozen=True, slots=True)
class Document:
    """Plain values (mappings, lists, text, numbers, None) with their marks; problems found while reading."""

    data: Any
    marks: Mapping[Path, Mark]
    problems: tuple[Problem, ...] = field(default=())

    def mark(self, path: Path) -> Mark:
        """Return the mark of the value at ``path``, or of the nearest value around it."""
        while path not in self.marks:
            path = path[:-1]
        return self.marks[path]

    def at(self, path: Path) -> Any:
        """Return the value at ``path``; None when there is no such value."""
        value = self.data
        for part in path:
            if not _has(value, part):
                return None
            value = value[part]
        return value

    def put(self, path: Path, value: Any, marks: Mapping[Path, Mark]) -> Document:
        """Return a copy with ``value`` at ``path``; ``marks`` are those of ``value``, relative to itself.

        Mappings on the way are made where they are missing; the places on the way must not hold anything else.
        """
        kept = {at: mark for at, mark in self.marks.items() if at[: len(path)] != path}
        new = {path + at: mark for at, mark in marks.items()}
        return replace(self, data=_with(self.data, path, value), marks=kept | new)

    def problem(self, path: Path, text: str) -> Problem:
        """Return the mistake ``text`` at ``path``."""
        return Problem(self.mark(path), path, text)


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and 0 <= part < len(value)


def _with(data: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    first, *rest = path
    if isinstance(data, list):
        assert isinstance(first, int)
        return [_with(item, tuple(rest), value) if i == first else item for i, item in enumerate(data)]
    old = dict(data) if isinstance(data, Mapping) else {}
    return {**old, first: _with(old.get(first), tuple(rest), value)}


def shown(path: Sequence[str | int]) -> str:
    """Return ``path`` as an override writes it: ``stages.0.lr``."""
    return ".".join(str(part) for part in path)


def described(value: Any, text: str | None = None) -> str:
    """Return ``value`` for the end of a message: short, and as it was written when ``text`` is known."""
    match value:
        case None:
            return "empty"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list" if value else "an empty list"
        case str():
            quoted = json.dumps(value, ensure_ascii=False)[1:-1]
            return f"'{quoted}'" if len(quoted) <= 60 else f"'{quoted[:57]}...'"
        case _:
            return text or str(value)
