"""Which encoding a file is in, and files that are no text."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data.encoding import _CHUNK_BYTES, inspect
from weft.errors import DataError

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}
CHINESE = "这部电影很好看，我很喜欢。\n服务态度太差了！\n"


def written(folder: Path, content: bytes, name: str = "x.txt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("codec", "encoding"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("gb18030", "gb18030"),
        ("gbk", "gb18030"),
    ],
)
def test_each_encoding_is_found_and_read(tmp_path: Path, codec: str, encoding: str):
    content = CHINESE.encode(codec)
    file = inspect(written(tmp_path, content), name="x.txt")
    assert (file.encoding, file.digest) == (encoding, hashlib.sha256(content).hexdigest())
    with file.open() as stream:
        assert stream.read() == CHINESE


def test_big_endian_utf16_with_a_mark(tmp_path: Path):
    file = inspect(written(tmp_path, b"\xfe\xff" + CHINESE.encode("utf-16-be")), name="x")
    with file.open() as stream:
        assert stream.read() == CHINESE


def test_a_mark_in_gb18030_is_no_text(tmp_path: Path):
    file = inspect(written(tmp_path, ("\ufeff" + CHINESE).encode("gb18030")), name="x")
    assert file.encoding == "gb18030"
    with file.open() as stream:
        assert stream.read() == CHINESE


def test_signs_beyond_gbk_are_gb18030(tmp_path: Path):
    text = "龦𠮷😀 生僻字"
    file = inspect(written(tmp_path, text.encode("gb18030")), name="x")
    with file.open() as stream:
        assert stream.read() == text


@settings(max_examples=20)
@given(shift=st.integers(-4, 4), sign=st.sampled_from("é好😀"))
def test_signs_across_a_chunk_are_whole(tmp_path_factory: pytest.TempPathFactory, shift: int, sign: str):
    text = "a" * (_CHUNK_BYTES - 2 + shift) + sign * 3
    file = inspect(written(tmp_path_factory.mktemp("chunk"), text.encode()), name="x")
    assert file.encoding == "utf-8"


def test_undecodable_says_which_byte_and_line(tmp_path: Path):
    content = b"first line\nsecond \xff line\n"
    with pytest.raises(DataError, match=r"x\.txt: .*byte 18 \(line 2\) is not UTF-8 and byte 18 \(line 2\)"):
        inspect(written(tmp_path, content), name="x.txt")


def test_the_byte_is_counted_over_chunks(tmp_path: Path):
    content = b"a\n" * (_CHUNK_BYTES // 2) + b"b\nc\xff"
    with pytest.raises(DataError, match=rf"byte {_CHUNK_BYTES + 3} \(line {_CHUNK_BYTES // 2 + 2}\)"):
        inspect(written(tmp_path, content), name="x")


def test_latin_1_is_not_taken_for_chinese(tmp_path: Path):
    with pytest.raises(DataError, match="Save it as UTF-8"):
        inspect(written(tmp_path, "un café, s'il vous plaît\n".encode("latin-1")), name="x")


def test_damaged_utf8_is_not_taken_for_chinese(tmp_path: Path):
    """The bytes of curly quotation marks are valid GB18030: one bad byte must not turn all of them into Han."""
    damaged = "it’s fine\n".encode() * 20 + b"so\xb0\xa1far\n"
    damaged.decode("gb18030")  # it would pass
    with pytest.raises(DataError, match=r"UTF-8 to its end as it begins, but byte 242 \(line 21\)"):
        inspect(written(tmp_path, damaged), name="x")


def test_a_utf8_mark_is_a_promise(tmp_path: Path):
    with pytest.raises(DataError, match="byte 3 "):
        inspect(written(tmp_path, b"\xef\xbb\xbf" + CHINESE.encode("gbk")), name="x")


def test_utf16_that_ends_in_the_middle_of_a_sign(tmp_path: Path):
    with pytest.raises(DataError, match="UTF-16 as its mark says"):
        inspect(written(tmp_path, "abc".encode("utf-16") + b"x"), name="x")


@pytest.mark.parametrize("codec", ["utf-8", "utf-16"])
def test_nul_is_no_text(tmp_path: Path, codec: str):
    with pytest.raises(DataError, match="x:3: must be text, but holds a NUL"):
        inspect(written(tmp_path, "a\nb\nc\0d\n".encode(codec)), name="x")


def test_utf32_is_refused_by_name(tmp_path: Path):
    with pytest.raises(DataError, match="UTF-32"):
        inspect(written(tmp_path, "abc".encode("utf-32")), name="x")


@pytest.mark.parametrize("content", [b"", gzip.compress(b"", mtime=0)])
def test_empty(tmp_path: Path, content: bytes):
    with pytest.raises(DataError, match="must hold rows, but is empty"):
        inspect(written(tmp_path, content), name="x")


@pytest.mark.parametrize("codec", ["utf-8", "gb18030"])
@pytest.mark.parametrize("packer", PACKERS)
def test_what_is_packed_is_found_by_content_and_digested_unpacked(tmp_path: Path, packer: str, codec: str):
    content = CHINESE.encode(codec)
    plain = inspect(written(tmp_path, content, "plain"), name="x")
    packed = inspect(written(tmp_path, PACKERS[packer](content), "packed"), name="x")
    assert (packed.digest, packed.encoding) == (plain.digest, codec)
    with packed.open() as stream:
        assert stream.read() == CHINESE


@pytest.mark.parametrize("cut", [4, 15, -4])
@pytest.mark.parametrize("packer", PACKERS)
def test_what_is_packed_and_cut_off(tmp_path: Path, packer: str, cut: int):
    content = PACKERS[packer](CHINESE.encode() * 50)[: cut + (2 if packer == "xz" and cut == 4 else 0)]
    with pytest.raises(DataError, match="x: must be readable"):
        inspect(written(tmp_path, content), name="x")


@pytest.mark.parametrize("packer", PACKERS)
def test_what_is_packed_and_damaged(tmp_path: Path, packer: str):
    content = bytearray(PACKERS[packer](CHINESE.encode() * 50))
    content[12] ^= 0xFF
    with pytest.raises(DataError, match="x:"):
        inspect(written(tmp_path, bytes(content)), name="x")
