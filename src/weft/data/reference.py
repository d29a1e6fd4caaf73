r"""What a recipe writes to name rows.

``reference = location [ "@" subset ] [ ":" split ] [ "[" slice "]" | "#" count ]``

- location: a file or folder, relative to the recipe or absolute, or a hub id (``name``, ``owner/name``);
- subset: a folder inside the folder, or the configuration of a hub data set;
- split: ``train``, ``dev``, ... of a folder or hub data set; dev, validation, valid and val find each other;
- slice: ``start:stop``, each empty, a row (negative: from the end) or a percentage of the rows, rounded as the
  ``datasets`` library does. As in Python, what lies beyond the end is not an error.
- count: so many rows, spread evenly over the source.

What is in the recipe's ``data_root`` comes before what lies beside the recipe, and both before the Hub: a hub id is
also the path of a folder, so that one recipe reads its data from a folder without a connection and from the Hub with one.
What exists always wins: a file called ``a:b[:3].csv`` or ``C:\data\x.csv`` is that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from weft.errors import DataError, nearest

T = TypeVar("T")

_TAIL = re.compile(r"(?P<rest>.+)\[(?P<slice>[^\[\]]*)\]", re.DOTALL)
_SLICE = re.compile(r"\s*(?P<start>-?\d+%?)?\s*:\s*(?P<stop>-?\d+%?)?\s*", re.ASCII)
_SAMPLE = re.compile(r"(?P<rest>.+)#(?P<count>[1-9][0-9]*)", re.DOTALL)
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_HUB = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_NUM_SHOWN = 10
_FILE_SUFFIXES = frozenset(
    ".arrow .bio .bz2 .conll .csv .gz .iob .iob2 .json .jsonl .ndjson .parquet .tsv .txt .xz .zst".split()
)


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a slice: a row number, or a percentage of the rows."""

    value: int
    is_percent: bool

    @classmethod
    def parse(cls, text: str | None) -> Bound | None:
        """Return the bound that ``text`` writes, None for none."""
        return None if text is None else cls(int(text.rstrip("%")), text.endswith("%"))

    def row(self, num_rows: int) -> int:
        """Return the bound as a row number of a source of ``num_rows`` rows."""
        return round(self.value * num_rows / 100) if self.is_percent else self.value


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows from ``start`` up to, not including, ``stop``."""

    start: Bound | None
    stop: Bound | None

    @classmethod
    def parse(cls, text: str, *, of: str) -> Slice:
        """Return the slice written as ``text`` in the reference ``of``.

        Raises:
            DataError: not of the form ``start:stop``, or more than 100 percent.
        """
        match = _SLICE.fullmatch(text)
        if match is None:
            raise DataError(
                f"{of}: the slice must be [start:stop] with rows or percentages, but is [{text}]. "
                "Write for example [:500], [100:200], [-50:] or [10%:]."
            )
        bounds = Bound.parse(match["start"]), Bound.parse(match["stop"])
        for bound in bounds:
            if bound is not None and bound.is_percent and abs(bound.value) > 100:
                raise DataError(f"{of}: a percentage must be at most 100, but is {bound.value}%.")
        return cls(*bounds)

    @property
    def needs_count(self) -> bool:
        """Whether the rows must be counted before it is known which are meant."""
        return any(b is not None and (b.is_percent or b.value < 0) for b in (self.start, self.stop))

    @property
    def most(self) -> int | None:
        """How many rows of the source must be read, None for all."""
        return None if self.stop is None or self.needs_count else self.stop.value

    def rows(self, num_rows: int) -> slice:
        """Return the Python slice for a source of ``num_rows`` rows."""
        start, stop = (None if b is None else b.row(num_rows) for b in (self.start, self.stop))
        return slice(start, stop)

    def of(self, rows: Sequence[T]) -> Sequence[T]:
        """Return the rows that are meant."""
        return rows[self.rows(len(rows))]

    def __str__(self) -> str:
        ends = ("" if b is None else f"{b.value}{'%' * b.is_percent}" for b in (self.start, self.stop))
        return f"[{':'.join(ends)}]"


@dataclass(frozen=True, slots=True)
class Sample:
    """So many rows, spread evenly: of a file sorted by label, some of each label; all rows where there are fewer."""

    count: int

    @property
    def most(self) -> None:
        """All rows of the source must be read."""
        return

    def of(self, rows: Sequence[T]) -> Sequence[T]:
        """Return the rows that are meant, in their order."""
        count = min(self.count, len(rows))
        return [rows[index * len(rows) // count] for index in range(count)]

    def __str__(self) -> str:
        return f"#{self.count}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference taken apart.

    Attributes:
        location: as written, for messages.
        path: None for a hub id.
        subset: behind ``@``: one of several sets of a folder or hub id.
        split: behind ``:``.
        slice: behind both, in brackets or after ``#``: the rows that are taken; None for all.
        near: for a hub id, names here that it may be a slip of.
    """

    location: str
    path: Path | None
    subset: str | None = None
    split: str | None = None
    slice: Slice | Sample | None = None
    near: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The reference without its slice."""
        subset = "" if self.subset is None else f"@{self.subset}"
        return f"{self.location}{subset}" if self.split is None else f"{self.location}{subset}:{self.split}"


def parse(ref: str, *, root: Path, data_root: Path | None = None) -> Reference:
    """Return what ``ref`` names; relative paths are taken from ``data_root``, or else from ``root``.

    Raises:
        DataError: neither something that exists nor a hub id, a wrong slice, a split of a single file, a symbolic
            link that leads nowhere.

    Example:
        >>> parse("owner/name@small:train[:10%]", root=Path("/none")).split
        'train'
    """
    if not ref.strip():
        raise DataError(f"{ref!r}: must name a file, a folder or a hub id, but is empty.")
    roots = (root,) if data_root is None else (data_root, root)
    for folder in roots:
        if (path := _existing(ref, folder)) is not None:
            return Reference(ref, path)
    rest, part = _without_part(ref)
    for folder in roots:
        for location, subset, split in _cuts(rest):
            path = _existing(location, folder)
            if path is None:
                continue
            if path.is_file() and (subset is not None or split is not None):
                raise DataError(f"{ref}: a subset or split must be of a folder, but {location} is a file.")
            return Reference(location, path, subset, split, part)
    return _hub(ref, rest, part, root=root)


def _without_part(ref: str) -> tuple[str, Slice | Sample | None]:
    """Return ``ref`` without its slice or count, and what that says."""
    if (tail := _TAIL.fullmatch(ref)) is not None:
        return tail["rest"], Slice.parse(tail["slice"], of=ref)
    if (tail := _SAMPLE.fullmatch(ref)) is not None:
        return tail["rest"], Sample(int(tail["count"]))
    return ref, None


def _cuts(text: str) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield the ways to read ``text`` as location, subset and split: the longest location first."""
    yield text, None, None
    base, colon, split = text.rpartition(":")
    has_split = bool(colon and _NAME.fullmatch(split))
    if has_split:
        yield base, None, split
    for rest, its_split in ((text, None), (base, split))[: 1 + has_split]:
        location, at, subset = rest.rpartition("@")
        if at and _NAME.fullmatch(subset):
            yield location, subset, its_split


def _existing(location: str, root: Path) -> Path | None:
    try:
        path = Path(location).expanduser() if location.startswith("~") else root / location
        exists, is_link = path.exists(), path.is_symlink()
    except (
        OSError,
        ValueError,
        RuntimeError,
    ):  # too long for the file system, NUL, a user that does not exist
        return None
    if location and is_link and not exists:
        raise DataError(
            f"{location}: must lead to a file or a folder, but is a symbolic link that leads nowhere. Correct the link."
        )
    return path if location and exists else None


def _hub(ref: str, rest: str, part: Slice | Sample | None, *, root: Path) -> Reference:
    for location, subset, split in reversed(list(_cuts(rest))):
        looks_like_file = Path(location).suffix.lower() in _FILE_SUFFIXES
        if _HUB.fullmatch(location) and not looks_like_file:
            near = get_close_matches(Path(location).name, _beside(location, root))
            return Reference(location, None, subset, split, part, tuple(near))
    below = "" if Path(rest).is_absolute() or rest.startswith("~") else f" below {root}"
    raise DataError(f"{ref}: must exist{below}, but does not. {_neighbours(rest, root)}".rstrip())


def _neighbours(location: str, root: Path) -> str:
    """Return the nearest names in the folder where ``location`` should be."""
    names = _beside(location, root)
    if not names:
        return f"There is nothing in {(root / location).parent}."
    wanted = Path(location).name
    return nearest(wanted, get_close_matches(wanted, names, n=_NUM_SHOWN) or names[:_NUM_SHOWN])


def _beside(location: str, root: Path) -> list[str]:
    try:
        return sorted(
            path.name for path in (root / location).parent.iterdir() if not path.name.startswith(".")
        )
    except (OSError, ValueError):
        return []
