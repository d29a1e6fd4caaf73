"""Parquet and Arrow files, with and without the notes of the ``datasets`` library."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.data.arrow import digest, read_arrow, read_parquet, read_table, table_digest
from weft.errors import DataError

ROWS = [
    {"text": "a", "n": 1, "tags": ["O"]},
    {"text": "好", "n": None, "tags": []},
    {"text": None, "n": 3, "tags": None},
]


def noted(rows: list[dict[str, Any]], features: object) -> pa.Table:
    note = json.dumps({"info": {"features": features}})
    return pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": note})


def as_stream(path: Path, table: pa.Table) -> Path:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def as_file(path: Path, table: pa.Table) -> Path:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def as_parquet(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path)
    return path


WAYS = pytest.mark.parametrize(
    ("write", "read"), [(as_stream, read_arrow), (as_file, read_arrow), (as_parquet, read_parquet)]
)


@WAYS
def test_rows_come_back_numbered(tmp_path: Path, write: Any, read: Any):
    path = write(tmp_path / "x", pa.Table.from_pylist(ROWS))
    assert list(read(path, name="x")) == [(row, place) for place, row in enumerate(ROWS, start=1)]
    assert digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@WAYS
def test_rows_are_numbered_over_batches(tmp_path: Path, write: Any, read: Any):
    path = write(tmp_path / "x", pa.table({"n": list(range(10_000))}))
    assert list(read(path, name="x")) == [({"n": place}, place + 1) for place in range(10_000)]


@WAYS
def test_class_numbers_become_names(tmp_path: Path, write: Any, read: Any):
    label = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    features = {
        "label": label,
        "new": {"feature": label, "_type": "List"},
        "old": {"feature": label, "length": -1, "_type": "Sequence"},
        "older": [label],
        "text": {"dtype": "string", "_type": "Value"},
    }
    rows = [
        {"label": 1, "new": [0, 1], "old": [1], "older": [1, 0], "text": "a"},
        {"label": -1, "new": [-1], "old": None, "older": [], "text": "b"},
        {"label": None, "new": None, "old": [0], "older": [1], "text": "c"},
    ]
    found = [values for values, _ in read(write(tmp_path / "x", noted(rows, features)), name="x")]
    assert found == [
        {"label": "pos", "new": ["neg", "pos"], "old": ["pos"], "older": ["pos", "neg"], "text": "a"},
        {"label": None, "new": [None], "old": None, "older": [], "text": "b"},
        {"label": None, "new": None, "old": ["neg"], "older": ["pos"], "text": "c"},
    ]


def test_a_class_without_a_name_is_refused(tmp_path: Path):
    table = noted([{"label": 2}], {"label": {"names": ["a", "b"], "_type": "ClassLabel"}})
    with pytest.raises(DataError, match=r"x: column label: a label must be below 2, .* but is 2"):
        list(read_parquet(as_parquet(tmp_path / "x", table), name="x"))


@pytest.mark.parametrize(
    "features", [None, [], "x", {"label": None}, {"label": {"_type": "ClassLabel"}}, {"label": []}]
)
def test_odd_notes_change_nothing(tmp_path: Path, features: object):
    path = as_parquet(tmp_path / "x", noted([{"label": 1}], features))
    assert list(read_parquet(path, name="x")) == [({"label": 1}, 1)]


@pytest.mark.parametrize("note", [b"", b"not json", b"\xff", b"[" * 100_000, b"{}", b'{"info": 3}'])
def test_unreadable_notes_change_nothing(tmp_path: Path, note: bytes):
    table = pa.Table.from_pylist([{"label": 1}]).replace_schema_metadata({b"huggingface": note})
    assert list(read_arrow(as_stream(tmp_path / "x", table), name="x")) == [({"label": 1}, 1)]


def test_json_columns_are_decoded():
    table = pa.table({"extra": ['{"a": [1]}', None]})
    found = list(read_table(table, {"extra": {"_type": "Json"}}, name="x"))
    assert found == [({"extra": {"a": [1]}}, 1), ({"extra": None}, 2)]


def test_nan_is_missing(tmp_path: Path):
    path = as_parquet(tmp_path / "x", pa.table({"score": pa.array([1.5, float("nan"), None])}))
    assert [values["score"] for values, _ in read_parquet(path, name="x")] == [1.5, None, None]


def test_categories_of_pandas_are_strings(tmp_path: Path):
    path = as_parquet(tmp_path / "x", pa.table({"label": pa.array(["a", "b", "a"]).dictionary_encode()}))
    assert [values["label"] for values, _ in read_parquet(path, name="x")] == ["a", "b", "a"]


@WAYS
@pytest.mark.parametrize("keep", [0, 5, 40, -9])
def test_a_file_that_is_cut_off(tmp_path: Path, write: Any, read: Any, keep: int):
    path = write(tmp_path / "x", pa.Table.from_pylist(ROWS * 100))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"^x: must be a whole (Parquet|Arrow) file"):
        list(read(path, name="x"))


def test_two_columns_of_one_name(tmp_path: Path):
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pytest.raises(DataError, match="column names must differ, but are text, text"):
        list(read_arrow(as_stream(tmp_path / "x", table), name="x"))


def test_strings_that_are_not_utf8(tmp_path: Path):
    wrong = pa.array(["电影".encode("gbk")], pa.binary()).view(pa.string())
    with pytest.raises(DataError, match="in the column text one is not"):
        list(read_arrow(as_stream(tmp_path / "x", pa.table({"text": wrong})), name="x"))


def test_digest_of_a_table_is_that_of_its_content():
    table = pa.Table.from_pylist(ROWS)
    cut = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert table_digest(table) == table_digest(cut)
    assert table_digest(table) != table_digest(table.slice(1))
    assert table_digest(table) != table_digest(table.rename_columns(["texts", "n", "tags"]))
