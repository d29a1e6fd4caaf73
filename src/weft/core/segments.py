"""One file of stored states: raw little-endian rows, then an index with checksums; whole, or not there at all.

    rows        tokens * width values, from byte 0 on, so that they can be memory-mapped as they are
    index       JSON header, 16 bytes of key a text, u32 length a text, u32 CRC a block of rows
    tail        magic, size of the index, BLAKE2b of the index

A file is written as ``<uuid>.part`` and renamed to ``<uuid>.states`` when it is complete and on disk, so a process that
is killed leaves nothing but a ``.part``. One rule keeps processes apart: who uses a file holds a shared ``flock`` on it
(a mapping keeps it), who removes one needs the exclusive one. The kernel lets go of the locks of the dead.

Legend: T tokens, D width, R texts (rows) of a file.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
import sys
import time
import uuid
import warnings
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.core.disk import sync

PART, WHOLE = ".part", ".states"
KEY_BYTES = 16
BLOCK_BYTES = 1 << 20  # what one checksum covers
MAGIC = b"WEFTSTA1"
_TAIL = struct.Struct("<8sQ16s")
_HEADER_SIZE = struct.Struct("<I")
_HOUR_S = 3600.0
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@dataclass(frozen=True, slots=True)
class Form:
    """What a row of states is: ``width`` values of ``dtype`` (float32, bfloat16 or float16)."""

    width: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if self.width < 1 or self.dtype not in _DTYPES:
            raise ValueError(
                f"states: must be rows of at least one float32, bfloat16 or float16, "
                f"but are {self.width} of {self.dtype}."
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of one token's state."""
        return self.width * self.dtype.itemsize

    @property
    def header(self) -> dict[str, Any]:
        """What an index says of its rows; rows of any other header are not read."""
        return {"width": self.width, "dtype": _DTYPES[self.dtype], "order": sys.byteorder}


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A whole file, mapped. Rows are trusted only after ``holds`` has said so.

    Attributes:
        path: the file.
        states_TD: its rows, mapped read-only.
        keys: R keys of 16 bytes, one after another.
        lengths_R: tokens of each text, int64; texts lie end to end.
        checksums: CRC-32 of each block of rows.
        verified: which blocks were compared with their checksum.
    """

    path: Path
    states_TD: Tensor
    keys: bytes
    lengths_R: NDArray[np.int64]
    checksums: NDArray[np.uint32]
    verified: NDArray[np.bool_]

    def holds(self, offset_R: NDArray[np.int64], length_R: NDArray[np.int64]) -> bool:
        """Return whether the rows of these texts are what was written, reading each block at most once in its life."""
        if not offset_R.size:
            return True
        row_bytes = self.states_TD.shape[1] * self.states_TD.element_size()
        steps = np.zeros(len(self.verified) + 1, np.int64)
        np.add.at(steps, offset_R * row_bytes // BLOCK_BYTES, 1)
        np.add.at(steps, ((offset_R + length_R) * row_bytes - 1) // BLOCK_BYTES + 1, -1)
        rows = _bytes_of(self.states_TD)
        for block in np.flatnonzero((steps.cumsum()[:-1] > 0) & ~self.verified).tolist():
            if _checksum(rows, block) != self.checksums[block]:
                return False
            self.verified[block] = True
        return True


def open_segment(path: Path, form: Form) -> Segment | None:
    """Map a whole file and lock it against removal; None when it is gone, being removed, or not of this form.

    Its time is set to now (at most once an hour): what was used last is removed last.

    Raises:
        ValueError: the file is not what its tail says (cut off, changed); rows are checked later, by ``holds``.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if not _lock(handle, fcntl.LOCK_SH):
            return None
        size, touched = os.fstat(handle).st_size, os.fstat(handle).st_mtime
        header, keys, lengths_R, checksums = _read_index(handle, size, path)
        if {name: header.get(name) for name in form.header} != form.header:
            return None
        tokens = int(lengths_R.sum())
        if tokens * form.row_bytes != header["bytes"] or not lengths_R.size:
            raise ValueError(f"{path}: must hold {tokens} rows, but holds {header['bytes']} bytes.")
        if time.time() - touched > _HOUR_S:
            with suppress(OSError):  # somebody else's file, or a disk that is read-only
                os.utime(handle)
        states_TD = _mapped(handle, header["bytes"], form)
    except OSError:
        return None
    finally:
        os.close(handle)
    return Segment(path, states_TD, keys, lengths_R, checksums, np.zeros(len(checksums), np.bool_))


class Draft:
    """A file in the making: rows go to disk as they come and can be read at once; ``publish`` makes it whole.

    Its size on disk is what it may grow to without asking again (the rest is a hole, so it costs nothing); whoever adds
    up sizes therefore counts what was promised.
    """

    def __init__(self, directory: Path, form: Form) -> None:
        self._form = form
        self._handle, self.path = _new_part(directory)
        self._keys: list[bytes] = []
        self._lengths: list[int] = []
        self.used_bytes = 0
        self.capacity_bytes = 0
        self.states_TD = torch.empty(0, form.width, dtype=form.dtype)

    @property
    def index_bytes(self) -> int:
        """Bytes that the index of the rows so far will need, and a little more."""
        blocks = self.used_bytes // BLOCK_BYTES + 1
        return (KEY_BYTES + 4) * len(self._keys) + 4 * blocks + 512

    def grow(self, capacity_bytes: int) -> None:
        """Let the file hold ``capacity_bytes`` and map it anew; earlier mappings stay valid.

        Raises:
            OSError: the file system does not allow it.
        """
        os.ftruncate(self._handle, capacity_bytes)
        self.states_TD = _mapped(
            self._handle, capacity_bytes // self._form.row_bytes * self._form.row_bytes, self._form
        )
        self.capacity_bytes = capacity_bytes

    def append(self, keys: Sequence[bytes], states_TD: Tensor, lengths: Sequence[int]) -> int:
        """Write rows that fit the capacity and return the first one's number.

        Raises:
            OSError: disk full or gone; the draft is as it was before.
        """
        first = self.used_bytes // self._form.row_bytes
        rows = _bytes_of(states_TD)
        _write_all(self._handle, rows, at=self.used_bytes)
        self.used_bytes += len(rows)
        self._keys += keys
        self._lengths += lengths
        return first

    def publish(self) -> Path:
        """Write the index, wait for the disk, and give the file its final name; return it.

        Raises:
            OSError: disk full or gone.
        """
        os.ftruncate(self._handle, self.used_bytes)
        _write_all(self._handle, memoryview(self._index()), at=self.used_bytes)
        os.fsync(self._handle)
        whole = self.path.with_suffix(WHOLE)
        self.path.rename(whole)
        self.path = whole
        sync(whole.parent)
        os.close(self._handle)
        return whole

    def discard(self) -> None:
        """Remove the file; what is mapped of it stays readable."""
        with suppress(OSError):
            self.path.unlink()
        os.close(self._handle)

    def _index(self) -> bytes:
        header = {**self._form.header, "texts": len(self._keys), "bytes": self.used_bytes}
        rows = _bytes_of(self.states_TD)[: self.used_bytes]
        checksums = [_checksum(rows, block) for block in range(-(-self.used_bytes // BLOCK_BYTES))]
        text = json.dumps(header).encode()
        parts = (
            _HEADER_SIZE.pack(len(text)),
            text,
            b"".join(self._keys),
            np.array(self._lengths, "<u4").tobytes(),
            np.array(checksums, "<u4").tobytes(),
        )
        index = b"".join(parts)
        return index + _TAIL.pack(MAGIC, len(index), blake2b(index, digest_size=16).digest())


def make_room(root: Path, *, wanted_bytes: int, limit_bytes: int) -> int:
    """Remove files below ``root`` that nobody uses, longest unused first, until ``wanted_bytes`` more fit.

    Returns:
        Bytes that may be added; fewer than wanted, even less than 0, where too much is in use.
    """
    found: list[tuple[float, int, Path]] = []
    for path in (path for path in root.glob("*/*") if path.suffix in (PART, WHOLE)):
        with suppress(FileNotFoundError):
            status = path.lstat()
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total + wanted_bytes <= limit_bytes:
            break
        if remove_unused(path):
            total -= size
            with suppress(OSError):  # not empty
                path.parent.rmdir()
    return limit_bytes - total


def remove_unused(path: Path) -> bool:
    """Remove a file unless some process uses it; return whether it is gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        if not _lock(handle, fcntl.LOCK_EX):
            return False
        path.unlink(missing_ok=True)
    except OSError:  # no locks on this file system, or not ours
        return False
    finally:
        os.close(handle)
    return True


def tidy(directory: Path) -> None:
    """Remove what writers left that are gone."""
    for path in directory.glob(f"*{PART}"):
        remove_unused(path)


@contextmanager
def alone(root: Path) -> Generator[None]:
    """Keep other processes from counting and making room below ``root`` within the block.

    Raises:
        OSError: the folder cannot be written to, or its file system has no locks.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _new_part(directory: Path) -> tuple[int, Path]:
    while True:
        path = directory / f"{uuid.uuid4().hex}{PART}"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_SH)
        if os.fstat(handle).st_nlink:
            return handle, path
        os.close(handle)  # another process tidied it away before it was locked


def _lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_index(
    handle: int, size: int, path: Path
) -> tuple[dict[str, Any], bytes, NDArray[np.int64], NDArray[np.uint32]]:
    """Return header, keys, lengths and checksums.

    Raises:
        ValueError: the end of the file is not a tail, or not the tail of this index.
    """
    tail = os.pread(handle, _TAIL.size, max(0, size - _TAIL.size))
    magic, index_bytes, digest = _TAIL.unpack(tail) if len(tail) == _TAIL.size else (b"", 0, b"")
    rows_bytes = size - _TAIL.size - index_bytes
    index = os.pread(handle, index_bytes, rows_bytes) if magic == MAGIC and rows_bytes > 0 else b""
    if not index or blake2b(index, digest_size=16).digest() != digest:
        raise ValueError(f"{path}: must end with the index of its rows, but does not.")
    (header_size,) = _HEADER_SIZE.unpack_from(index)
    at = _HEADER_SIZE.size + header_size
    header: dict[str, Any] = json.loads(index[_HEADER_SIZE.size : at])
    texts, blocks = int(header["texts"]), -(-rows_bytes // BLOCK_BYTES)
    if header["bytes"] != rows_bytes or len(index) != at + (KEY_BYTES + 4) * texts + 4 * blocks:
        raise ValueError(f"{path}: must have {header['bytes']} bytes of rows, but has {rows_bytes}.")
    keys = index[at : at + KEY_BYTES * texts]
    lengths_R = np.frombuffer(index, "<u4", texts, at + len(keys)).astype(np.int64)
    checksums = np.frombuffer(index, "<u4", blocks, at + len(keys) + 4 * texts)
    return header, keys, lengths_R, checksums


def _mapped(handle: int, size: int, form: Form) -> Tensor:
    """Return rows of the file as one tensor (T, D) that cannot be written; it keeps the file's lock and storage."""
    mapping = mmap.mmap(handle, size, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*not writable.*"
        )  # nobody writes: only copies are handed out
        return torch.frombuffer(mapping, dtype=form.dtype).view(-1, form.width)


def _bytes_of(states_TD: Tensor) -> memoryview:
    return states_TD.contiguous().view(torch.uint8).numpy().data.cast("B")


def _checksum(rows: memoryview, block: int) -> int:
    return zlib.crc32(rows[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES])


def _write_all(handle: int, content: memoryview, *, at: int) -> None:
    while content:
        written = os.pwrite(handle, content, at)
        content, at = content[written:], at + written
