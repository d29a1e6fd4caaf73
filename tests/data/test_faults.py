"""What people's files are like: each is read as ``docs/data.md`` says, or refused with one error that names the place.

The names of the cases are the first column of that page's last table, so that neither can change without the other.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.data.sources import read
from weft.errors import DataError

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROWS = [{"text": "这部电影很好看，我很喜欢", "label": "好"}, {"text": "服务态度太差了！", "label": "坏"}]
CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
LONG = "长" * 3_500_000  # 10.5 MB in UTF-8


@dataclass(frozen=True)
class Fault:
    """Files, what is asked for, and what comes of it: rows, or the whole of one error.

    Attributes:
        files: content by name; a string that starts with ``->`` is a symbolic link.
        ref: the reference.
        rows: what is read.
        says: what the error matches, from its first letter to its last.
    """

    files: Mapping[str, bytes]
    ref: str
    rows: list[dict[str, object]] | None = None
    says: str = ""


def one(name: str, content: str | bytes, *, says: str = "", rows: object = None) -> Fault:
    """Return the case of a single file."""
    raw = content.encode() if isinstance(content, str) else content
    return Fault({name: raw}, name, rows, says)  # pyright: ignore[reportArgumentType]


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


FAULTS: dict[str, list[Fault]] = {
    "GB18030, GBK, GB2312": [
        one("x.csv", CSV.encode(codec), rows=ROWS) for codec in ("gb18030", "gbk", "gb2312")
    ],
    "UTF-8 with a byte order mark": [
        one("x.csv", CSV.encode("utf-8-sig"), rows=ROWS),
        one("x.jsonl", LINES.encode("utf-8-sig"), rows=ROWS),
    ],
    "UTF-16 with a byte order mark": [one("x.csv", CSV.encode("utf-16"), rows=ROWS)],
    "UTF-16 without a mark": [one("x.csv", CSV.encode("utf-16-le"), says=r"x\.csv:?.* (NUL|is not UTF-8).*")],
    "UTF-32": [one("x.csv", CSV.encode("utf-32"), says=r"x\.csv: must be UTF-8, UTF-16 or GB18030, but is UTF-32\..*")],
    "damaged UTF-8": [
        one("x.csv", CSV.encode() + b"\xff,\xfe\n", says=r"x\.csv: must be UTF-8 to its end .* \(line 4\) is not\..*")
    ],
    "Latin-1 and other encodings": [one("x.csv", b"text,label\ncaf\xe9 au lait,a\n", says=r"x\.csv: .*\(line 2\) is not UTF-8.*")],
    "NUL bytes": [one("x.csv", "text\na\n\0b\n", says=r"x\.csv:3: must be text, but holds a NUL character\..*")],
    "half of a surrogate pair": [
        one("x.jsonl", '{"text": "a"}\n{"text": "\\ud83d"}\n', says=r"x\.jsonl:2: must be Unicode text, but holds one half of .*")
    ],
    "CRLF line ends": [
        one("x.csv", CSV.replace("\n", "\r\n"), rows=ROWS),
        one("x.tsv", CSV.replace(",", "\t").replace("\n", "\r\n"), rows=ROWS),
        one("x.jsonl", LINES.replace("\n", "\r\n"), rows=ROWS),
        one("x.conll", "好\tO\r\n人\tB-X\r\n\r\n坏\tO\r\n", rows=[{"tokens": ["好", "人"], "tags": ["O", "B-X"]}, {"tokens": ["坏"], "tags": ["O"]}]),
    ],
    "an empty file": [one(name, "", says=rf"{name}: must hold rows, but is empty\.") for name in ("x.csv", "x.jsonl", "x.conll")],
    "a header and no rows": [one("x.csv", "text,label\n", says=r"x\.csv: must hold at least one row, but holds none \(a header alone is none\)\.")],
    "blank lines": [
        one("x.jsonl", "\n" + LINES.replace("\n", "\n\n"), rows=ROWS),
        one("x.csv", CSV + "\n\n", rows=ROWS),
        one("y.jsonl", "\n \n", says=r"y\.jsonl: must hold at least one row, but holds none.*"),
    ],
    "a line of JSON that is cut off": [one("x.jsonl", LINES[:-8], says=r"x\.jsonl:2: must be whole, valid JSON, but .*")],
    "a line that is no object": [
        one("x.jsonl", LINES + "[1]\n", says=r'x\.jsonl:3: each row must be a JSON object such as \{"text": \.\.\.\}, but is a list\.')
    ],
    "a list of JSON that is cut off": [one("x.json", json.dumps(ROWS)[:-1], says=r"x\.json:1: the list must go on with .*")],
    "a packed file that is cut off": [
        one(f"x.csv.{ending}", pack((CSV * 50).encode())[:-6], says=rf"x\.csv\.{ending}: must be readable, but is not: .*")
        for ending, pack in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", zstd))
    ],
    "a row of 10 MB": [
        one("x.jsonl", json.dumps({"text": LONG}) + "\n", rows=[{"text": LONG}]),
        one("x.csv", f"text\n{LONG}\n", rows=[{"text": LONG}]),
    ],
    "column names twice": [
        one("x.csv", "text,label,text\na,b,c\n", says=r"x\.csv:1: column names must differ, but text occurs more than once\.")
    ],
    "a record with more or fewer fields than the header": [
        one("x.csv", CSV + "太短\n", says=r"x\.csv:4: must have 2 fields as the header has, but has 1\..*"),
        one("x.tsv", "text\tlabel\na\tb\nc\td\te\n", says=r"x\.tsv:3: must have 2 fields as the header has, but has 3\..*"),
    ],
    "a quote that is not closed": [one("x.csv", CSV + '"a,b\nc,d\n', says=r"x\.csv:4: quotes must enclose a whole field .*")],
    "another delimiter": [one("x.csv", CSV.replace(",", sign), rows=ROWS) for sign in ";\t|"],
    "values of several types in a column": [
        one("x.jsonl", '{"a": 1}\n{"a": "1"}\n{"a": true}\n{"a": null}\n{"b": [1]}\n', rows=[{"a": 1}, {"a": "1"}, {"a": True}, {"a": None}, {"b": [1]}])
    ],
    "NaN and infinity": [
        one("x.jsonl", '{"a": NaN, "b": -Infinity}\n', rows=[{"a": None, "b": float("-inf")}]),
        one("x.csv", "text,score\na,NaN\n", rows=[{"text": "a", "score": "NaN"}]),
    ],
    "a number of thousands of digits": [one("x.jsonl", '{"a": ' + "9" * 5000 + "}\n", says=r"x\.jsonl:1: must be whole, valid JSON, but .*")],
    "deep nesting": [one("x.jsonl", '{"a": ' + "[" * 200_000, says=r"x\.jsonl:1: must be whole, valid JSON, but it is nested too deeply\.")],
    "an ending that does not fit": [
        one("x.csv", LINES, says=r"x\.csv:1: must be a header of columns, as the ending \.csv says, but is a JSON object\. Call the file \.jsonl\."),
        one("x.jsonl", CSV, says=r"x\.jsonl:1: must be whole, valid JSON, but .*"),
        one("x.csv", parquet(), says=r"x\.csv:?.* (NUL|is not UTF-8).*"),
        one("x.parquet", CSV, says=r"x\.parquet: must be a whole Parquet file, but: .*"),
        one("y.json", LINES, rows=ROWS),
        one("y.jsonl", json.dumps(ROWS), rows=ROWS),
        one("y.csv", gzip.compress(CSV.encode()), rows=ROWS),
    ],
    "an ending that is not known": [
        one("x.xlsx", "abc", says=r"x\.xlsx: the ending must say the format, but is '\.xlsx'\. Choices: .*"),
        one("y", json.dumps(ROWS), rows=ROWS),
        one("z", parquet(), rows=ROWS),
    ],
    "a Parquet file that is cut off": [one("x.parquet", parquet()[:-9], says=r"x\.parquet: must be a whole Parquet file, but: .*")],
    "a folder of mixed files": [
        Fault({"set/train.csv": CSV.encode(), "set/dev.jsonl": LINES.encode(), "set/README.md": b"#", "set/a.py": b"x"}, "set:dev", ROWS),
        Fault({"set/train.csv": CSV.encode(), "set/train.jsonl": LINES.encode()}, "set:train", None, r"set:train: a split must be one file or the shards of one, but is train\.csv, train\.jsonl\. Name the file\."),
        Fault({"set/notes.md": b"#"}, "set", None, r"set: must hold data files, but holds none that ends in .*"),
    ],
    "symbolic links": [
        Fault({"set/train.csv": b"->../real.csv", "real.csv": CSV.encode()}, "set:train", ROWS),
        Fault({"a.csv": b"->b.csv", "b.csv": b"->a.csv"}, "a.csv", None, r"a\.csv: must lead to a file or a folder, but is a symbolic link that leads nowhere\. Correct the link\."),
        Fault({"set/round": b"->../set"}, "set", None, r"set: must hold data files, but holds none that ends in .*"),
        Fault({"set/train.csv": b"->gone.csv"}, "set", None, r"set: train\.csv must lead to a file, but is a symbolic link that leads nowhere\. Correct the link\."),
    ],
    "no such file": [Fault({"reviews.csv": CSV.encode()}, "review.csv", None, r"review\.csv: must exist below .*, but does not\. Did you mean 'reviews\.csv'\?.*")],
}  # fmt: skip
CASES = [(name, number) for name, faults in FAULTS.items() for number in range(len(faults))]


def laid_out(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith(b"->"):
            path.symlink_to(content[2:].decode())
        else:
            path.write_bytes(content)


@pytest.mark.parametrize(("name", "number"), CASES)
def test_it_is_read_or_refused_as_the_page_says(tmp_path: Path, name: str, number: int):
    fault = FAULTS[name][number]
    laid_out(tmp_path, fault.files)
    started = time.monotonic()
    if fault.rows is not None:
        assert [dict(row.values) for row in read(fault.ref, root=tmp_path).rows] == fault.rows
    else:
        with pytest.raises(DataError) as caught:
            read(fault.ref, root=tmp_path)
        message = str(caught.value)
        assert re.fullmatch(fault.says, message), message
        assert "\n" not in message
        assert len(message) < 700
    assert time.monotonic() - started < 10


def table(page: str, number: int) -> list[str]:
    """Return the first cells of the table ``number`` of a page, without its head."""
    tables: list[list[str]] = []
    before = ""
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                tables.append([])
            tables[-1].append(line.split("|")[1].strip())
        before = line
    return tables[number][2:]


def test_the_page_has_every_case_in_both_languages():
    assert table("data.md", -1) == list(FAULTS)
    for number in range(-4, 0):
        assert len(table("data.zh.md", number)) == len(table("data.md", number))
