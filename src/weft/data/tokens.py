"""Token ids kept on disk as Arrow: who reads the same texts again need not tokenize them again.

A file's name is a digest of everything that its content follows from, so it can never be out of date. It begins with a
digest of the rest; what does not fit, or is no Arrow, counts as not there. Files appear whole (written aside, then
renamed), and those that nobody has asked for longest make room for new ones. A cache never raises for a full or broken
disk, it only keeps less.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

SUFFIX = ".arrow"
_DIGEST_BYTES = 32
_MOST_VALUES = 2**31 - 1  # of a column: Arrow's lists have 32-bit offsets

Rows = list[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class TokenStore:
    """Columns of lists of integers by key.

    Attributes:
        folder: of the files; made when the first is written.
        limit_bytes: most bytes of all files together.
    """

    folder: Path
    limit_bytes: int

    def load(self, key: str) -> dict[str, Rows] | None:
        """Return the columns under ``key``, None where there are none that are whole."""
        path = self._path(key)
        try:
            content = path.read_bytes()
            os.utime(path)  # wanted again, so it is not the next to go
        except OSError:
            return None
        body = memoryview(content)[_DIGEST_BYTES:]
        if _digest(body) != content[:_DIGEST_BYTES]:
            return None
        try:
            table: Any = pa.ipc.open_stream(body).read_all()
        except (pa.ArrowException, OSError):
            return None
        return {name: _rows(table.column(name)) for name in table.column_names}

    def save(self, key: str, columns: dict[str, Sequence[Sequence[int]]]) -> None:
        """Keep ``columns``, all equally long, under ``key`` if there is room and the disk allows."""
        if any(sum(map(len, rows)) > _MOST_VALUES for rows in columns.values()):
            return
        table: Any = pa.Table.from_arrays([_column(rows) for rows in columns.values()], names=list(columns))
        sink: Any = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        body = memoryview(sink.getvalue())
        if len(body) + _DIGEST_BYTES > self.limit_bytes:
            return
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(len(body) + _DIGEST_BYTES)
            _publish(self._path(key), (_digest(body), body))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _make_room(self, wanted_bytes: int) -> None:
        """Remove files, longest unwanted first, until ``wanted_bytes`` more fit; also what killed writers left."""
        found = [(status.st_mtime, status.st_size, path) for path, status in _files(self.folder)]
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total + wanted_bytes <= self.limit_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def _files(folder: Path) -> Iterable[tuple[Path, os.stat_result]]:
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            yield path, path.lstat()


def _publish(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    aside = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with aside.open("xb") as stream:
            stream.writelines(parts)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _digest(body: memoryview) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()


def _column(rows: Sequence[Sequence[int]]) -> Any:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    values = np.fromiter(chain.from_iterable(rows), np.int32, int(offsets[-1]))
    return pa.ListArray.from_arrays(_int32(offsets), _int32(values))


def _int32(values: NDArray[np.int32]) -> Any:
    # Not ``pa.array``, which imports pandas to ask whether it was given a series.
    return pa.Array.from_buffers(pa.int32(), len(values), [None, pa.py_buffer(values)])


def _rows(column: Any) -> Rows:
    """Return the lists of a column as tuples; equal numbers share one object, which is what most of the memory was."""
    lists: Any = column.chunk(0)  # one is all that was written
    offsets = np.frombuffer(lists.buffers()[1], np.int32, len(lists) + 1).tolist()
    values = np.frombuffer(lists.buffers()[3], np.int32, offsets[-1])
    distinct, places = np.unique(values, return_inverse=True)
    shared = np.array(distinct.tolist(), dtype=object)
    flat = tuple(shared[places].tolist())
    return [flat[start:end] for start, end in pairwise(offsets)]
