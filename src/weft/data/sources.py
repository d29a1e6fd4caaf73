"""From a reference in a recipe to rows. ``weft.data.reference`` has the grammar; each format has its own file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from weft.core.example import Row
from weft.data import arrow, cloze, conll, delimited, folder, hub, jsonfile
from weft.data.encoding import TextFile, inspect, open_bytes
from weft.data.reference import Reference, Sample, Slice, parse
from weft.data.table import Record, Table
from weft.errors import DataError

__all__ = ["Table", "read"]


@dataclass(frozen=True, slots=True)
class _Part:
    """One file, or one split of the Hub; ``records`` is read once, and only as far as needed."""

    name: str
    encoding: str
    digest: str
    records: Iterator[Record]


def read(ref: str, *, root: Path, data_root: Path | None = None) -> Table:
    """Return the rows that ``ref`` names.

    Args:
        ref: a file, folder or hub id, with an optional subset, split and slice (``weft.data.reference``).
        root: what relative paths start from.
        data_root: a folder where they are looked for first.

    Raises:
        DataError: nothing of that name, a file that is not what it seems to be, or no row in it.

    Example:
        >>> read("reviews.csv[:500]", root=Path("data")).columns  # doctest: +SKIP
        ('text', 'label')
    """
    reference = parse(ref, root=root, data_root=data_root)
    parts = _parts(reference)
    rows, num_read = _take(_rows(parts), reference.slice)
    if not rows:
        where = "" if reference.slice is None else f" in the slice {reference.slice}"
        raise DataError(
            f"{reference.name}: must hold at least one row{where}, but holds none{_hint(num_read)}."
        )
    key = "\n".join([*(part.digest for part in parts), str(reference.slice or "")])
    return Table(
        rows=rows,
        name=reference.name,
        digest=hashlib.sha256(key.encode()).hexdigest(),
        encoding=", ".join(sorted({part.encoding for part in parts})),
        num_read=num_read,
    )


def _hint(num_read: int) -> str:
    return f" of its {num_read} rows" if num_read else " (a header alone is none)"


def _parts(reference: Reference) -> list[_Part]:
    path, name = reference.path, reference.name
    if path is None:
        return [_hub_part(reference)]
    if path.is_dir():
        found = folder.files(path, subset=reference.subset, split=reference.split, name=name)
        return [_part(file, f"{reference.location}/{file.relative_to(path).as_posix()}") for file in found]
    if not path.is_file():
        raise DataError(f"{name}: must be a file or a folder, but is a device, a pipe or a socket.")
    return [_part(path, reference.location)]


def _hub_part(reference: Reference) -> _Part:
    name = reference.name
    try:
        split = hub.load(reference.location, subset=reference.subset, split=reference.split, name=name)
    except DataError as error:
        if not reference.near:
            raise
        raise DataError(f"{error} Or was one of these meant: {', '.join(reference.near)}?") from error
    return _Part(name, "arrow", split.digest, split.records)


def _rows(parts: list[_Part]) -> Iterator[Row]:
    for part in parts:
        for values, line in cloze.flattened(part.records):
            yield Row(values, f"{part.name}:{line}")


def _take(rows: Iterator[Row], part: Slice | Sample | None) -> tuple[tuple[Row, ...], int]:
    """Return the rows of the slice, and how many were read for them; stops reading where the slice does."""
    read_rows = tuple(islice(rows, None if part is None else part.most))
    return (read_rows if part is None else tuple(part.of(read_rows))), len(read_rows)


def _part(path: Path, name: str) -> _Part:
    match folder.suffix(path):
        case ".parquet":
            return _Part(name, "parquet", arrow.digest(path), arrow.read_parquet(path, name=name))
        case ".arrow":
            return _Part(name, "arrow", arrow.digest(path), arrow.read_arrow(path, name=name))
        case ending if ending in folder.DATA_SUFFIXES:
            file = inspect(path, name=name)
            return _Part(name, file.encoding, file.digest, _text_records(file, ending))
        case ending:
            return _unnamed_part(path, name, ending)


def _text_records(file: TextFile, ending: str) -> Iterator[Record]:
    if ending in (".csv", ".tsv") and jsonfile.looks_like_lines(file):
        raise DataError(
            f"{file.where(1)}: must be a header of columns, as the ending {ending} says, but is a JSON object. "
            "Call the file .jsonl."
        )
    match ending:
        case ".jsonl" | ".ndjson" | ".json":
            return jsonfile.read(file, is_lines=ending != ".json")
        case ".csv":
            return delimited.read_csv(file)
        case ".tsv" | ".txt" if not conll.looks_like(file):
            label = delimited.label_field(file)
            if label is not None:
                return delimited.read_labelled(file, label=label)
            return delimited.read_tsv(file) if ending == ".tsv" else delimited.read_text(file)
        case _:
            return conll.read(file)


def _unnamed_part(path: Path, name: str, ending: str) -> _Part:
    """Return a file whose name says nothing, if its first bytes say what it is."""
    with open_bytes(path) as stream:
        head = stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PAR1"):
        return _Part(name, "parquet", arrow.digest(path), arrow.read_parquet(path, name=name))
    if head.startswith(b"ARROW1"):
        return _Part(name, "arrow", arrow.digest(path), arrow.read_arrow(path, name=name))
    if head.startswith((b"{", b"[")):
        file = inspect(path, name=name)
        return _Part(name, file.encoding, file.digest, jsonfile.read(file, is_lines=False))
    endings = " ".join(sorted(folder.DATA_SUFFIXES))
    raise DataError(
        f"{name}: the ending must say the format, but is {ending or 'missing'!r}. Choices: {endings}."
    )
