"""Text files: which encoding they are in, and that they are text at all.

UTF-8 (with or without a byte order mark), UTF-16 with one, and GB18030 (GBK and GB2312 are parts of it). Nothing is
replaced or guessed by statistics: a file is read in the first of these that decodes it whole, or not at all.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import io
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from weft.errors import DataError

_CHUNK_BYTES = 1 << 20
_GZIP, _BZIP2, _XZ, _ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
_BOM = "\ufeff"
_LEAD_BYTES = bytes(range(0xC0, 0x100))
# So many signs that are valid UTF-8 do not occur by chance at the start of GB18030 text (about one pair in ten is
# valid): a wrong byte after them is damage, and reading the rest as GB18030 would turn every quotation mark into Han.
_PROOF_OF_UTF8 = 8


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text file that has been read once from end to end.

    Attributes:
        path: where it lies.
        name: for messages.
        encoding: utf-8, utf-8-sig (with byte order mark), utf-16 or gb18030.
        digest: SHA-256 of its bytes, unpacked.
    """

    path: Path
    name: str
    encoding: str
    digest: str

    def open(self, *, newline: str | None = None) -> TextIO:
        """Return the file opened as text; ``newline`` as in ``io.open``."""
        stream = self._opened(newline)
        if self.encoding == "gb18030" and stream.read(1) != _BOM:
            stream.close()
            return self._opened(newline)  # not every packed stream can be wound back
        return stream

    def _opened(self, newline: str | None) -> TextIO:
        return io.TextIOWrapper(open_bytes(self.path), encoding=self.encoding, newline=newline)

    def where(self, line: int) -> str:
        """Return ``name:line``."""
        return f"{self.name}:{line}"


def open_bytes(path: Path) -> BinaryIO:
    """Return the file opened for reading, unpacked if it is gzip, bzip2, xz or zstd whatever it is called."""
    with path.open("rb") as stream:
        head = stream.read(len(_XZ))
    if head.startswith(_GZIP):
        return cast(BinaryIO, gzip.open(path, "rb"))
    if head.startswith(_BZIP2):
        return cast(BinaryIO, bz2.open(path, "rb"))
    if head.startswith(_XZ):
        return cast(BinaryIO, lzma.open(path, "rb"))
    if head.startswith(_ZSTD):
        import pyarrow as pa

        return pa.input_stream(str(path), compression="zstd")
    return path.open("rb")


def inspect(path: Path, *, name: str) -> TextFile:
    """Return the text file at ``path`` with its encoding and digest.

    Raises:
        DataError: empty, unreadable, packed and cut off, holding NUL, or in none of the encodings.
    """
    try:
        return _inspect(path, name)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{name}: must be readable, but is not: {error}.") from error


def _inspect(path: Path, name: str) -> TextFile:
    with open_bytes(path) as stream:
        head = stream.read(4)
    if not head:
        raise DataError(f"{name}: must hold rows, but is empty.")
    if head in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        raise DataError(f"{name}: must be UTF-8, UTF-16 or GB18030, but is UTF-32. Save it as UTF-8.")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        scan = _scan(path, "utf-16", name)
        if scan.bad_byte is not None:
            raise DataError(f"{name}: must be UTF-16 as its mark says, but byte {scan.bad_byte} is not.")
        return TextFile(path, name, "utf-16", scan.digest)
    utf8 = _scan(path, "utf-8", name)
    if utf8.bad_byte is None:
        has_mark = head.startswith(codecs.BOM_UTF8)
        return TextFile(path, name, "utf-8-sig" if has_mark else "utf-8", utf8.digest)
    if utf8.num_wide >= _PROOF_OF_UTF8 or head.startswith(codecs.BOM_UTF8):
        raise DataError(
            f"{name}: must be UTF-8 to its end as it begins, but byte {utf8.bad_byte} (line {utf8.bad_line}) is not. "
            "The file is damaged there."
        )
    gb = _scan(path, "gb18030", name)
    if gb.bad_byte is None:
        return TextFile(path, name, "gb18030", gb.digest)
    raise DataError(
        f"{name}: must be UTF-8, UTF-16 with a byte order mark or GB18030, but byte {utf8.bad_byte} (line "
        f"{utf8.bad_line}) is not UTF-8 and byte {gb.bad_byte} (line {gb.bad_line}) is not GB18030. Save it as UTF-8."
    )


@dataclass(frozen=True, slots=True)
class _Scan:
    """Outcome of decoding a file: where it failed, and after how many signs of several bytes (UTF-8 only)."""

    digest: str
    bad_byte: int | None = None
    bad_line: int = 0
    num_wide: int = 0


def _scan(path: Path, encoding: str, name: str) -> _Scan:
    decoder = codecs.getincrementaldecoder(encoding)()
    digest = hashlib.sha256()
    offset, line, num_wide = 0, 1, 0
    for chunk in _chunks(path):
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            good = error.object[: error.start]
            wide = len(good) - len(good.translate(None, _LEAD_BYTES))
            bad_line = line + good.count(b"\n")
            return _Scan("", offset - pending + error.start, bad_line, num_wide + wide)
        if "\0" in text:
            nul_line = line + text[: text.index("\0")].count("\n")
            raise DataError(f"{name}:{nul_line}: must be text, but holds a NUL character. Is it a text file?")
        digest.update(chunk)
        offset += len(chunk)
        line += text.count("\n")
        num_wide += 0 if text.isascii() else len(chunk) - len(chunk.translate(None, _LEAD_BYTES))
    return _Scan(digest.hexdigest())


def _chunks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of the file, and an empty chunk at its end."""
    with open_bytes(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk
    yield b""
