"""Any reference to rows: every format says the same, slices are Python's, and every failure names its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data.sources import Table, read
from weft.errors import DataError

ROWS = [{"text": f"第 {index} row, “quoted”", "label": "pos" if index % 2 else "neg"} for index in range(10)]

Rows = list[dict[str, Any]]


def as_jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_json(rows: Rows) -> bytes:
    return json.dumps(rows, indent=1).encode()


def as_delimited(rows: Rows, delimiter: str) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def as_csv(rows: Rows) -> bytes:
    return as_delimited(rows, ",")


def as_tsv(rows: Rows) -> bytes:
    return as_delimited(rows, "\t")


def as_parquet(rows: Rows) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def as_arrow(rows: Rows) -> bytes:
    buffer, table = io.BytesIO(), pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    "jsonl": as_jsonl,
    "ndjson": as_jsonl,
    "json": as_json,
    "csv": as_csv,
    "tsv": as_tsv,
    "parquet": as_parquet,
    "arrow": as_arrow,
}


def put(root: Path, name: str, content: bytes | str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(table: Table) -> list[dict[str, Any]]:
    return [dict(row.values) for row in table.rows]


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str):
    put(tmp_path, f"x.{kind}", WRITERS[kind](ROWS))
    table = read(f"x.{kind}", root=tmp_path)
    assert values(table) == ROWS
    assert (table.name, table.num_read, table.columns) == (f"x.{kind}", 10, ("text", "label"))
    assert values(read(f"x.{kind}[2:-3]", root=tmp_path)) == ROWS[2:-3]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_packed_text_is_read_and_has_the_digest_of_the_plain_one(tmp_path: Path, kind: str):
    content = WRITERS[kind](ROWS)
    put(tmp_path, f"x.{kind}", content)
    put(tmp_path, f"x.{kind}.gz", gzip.compress(content))
    plain, packed = read(f"x.{kind}", root=tmp_path), read(f"x.{kind}.gz", root=tmp_path)
    assert values(packed) == ROWS
    assert packed.digest == plain.digest


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
SOME_ROWS = st.lists(st.fixed_dictionaries({"text": TEXT, "标签": TEXT}), min_size=1, max_size=5)


@settings(max_examples=40)
@given(SOME_ROWS, st.sampled_from(sorted(set(WRITERS) - {"tsv"})))  # tsv: see test_delimited
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: Rows, kind: str):
    root = tmp_path_factory.mktemp("round")
    put(root, f"x.{kind}", WRITERS[kind](rows))
    assert values(read(f"x.{kind}", root=root)) == rows


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.lists(st.dictionaries(TEXT, ANY, max_size=4), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_any_json_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, is_ascii: bool, is_list: bool
):
    root = tmp_path_factory.mktemp("json")
    text = json.dumps(rows, ensure_ascii=is_ascii)
    if not is_list:
        text = "\n".join(json.dumps(row, ensure_ascii=is_ascii) for row in rows)
    put(root, "x.jsonl", text)
    assert values(read("x.jsonl", root=root)) == rows


@settings(max_examples=40)
@given(
    st.none() | st.integers(-15, 15),
    st.none() | st.integers(-15, 15),
    st.sampled_from(["jsonl", "csv", "parquet"]),
)
def test_slices_are_those_of_python(
    tmp_path_factory: pytest.TempPathFactory, start: int | None, stop: int | None, kind: str
):
    root = tmp_path_factory.mktemp("slice")
    put(root, f"x.{kind}", WRITERS[kind](ROWS))
    ref = f"x.{kind}[{'' if start is None else start}:{'' if stop is None else stop}]"
    expected = ROWS[start:stop]
    if expected:
        assert values(read(ref, root=root)) == expected
    else:
        with pytest.raises(DataError, match=r"at least one row in the slice \["):
            read(ref, root=root)


def test_percentages(tmp_path: Path):
    put(tmp_path, "x.jsonl", as_jsonl(ROWS))
    assert values(read("x.jsonl[:20%]", root=tmp_path)) == ROWS[:2]
    assert values(read("x.jsonl[20%:]", root=tmp_path)) == ROWS[2:]
    assert values(read("x.jsonl[-30%:]", root=tmp_path)) == ROWS[-3:]


def test_a_slice_reads_no_further_than_it_must(tmp_path: Path):
    put(tmp_path, "x.jsonl", as_jsonl(ROWS) + b"this is not JSON\n")
    table = read("x.jsonl[3:5]", root=tmp_path)
    assert values(table) == ROWS[3:5]
    assert table.num_read == 5
    with pytest.raises(DataError, match=r"x\.jsonl:11"):
        read("x.jsonl[-5:]", root=tmp_path)


def test_the_digest_is_that_of_bytes_and_slice(tmp_path: Path):
    put(tmp_path, "a.csv", as_csv(ROWS))
    put(tmp_path, "b.csv", as_csv(ROWS))
    put(tmp_path, "c.csv", as_csv(ROWS[:-1]))
    refs = ["a.csv", "c.csv", "a.csv[:5]", "a.csv[:6]", "a.csv[:50%]"]
    assert len({read(ref, root=tmp_path).digest for ref in refs}) == len(refs)
    assert read("a.csv", root=tmp_path).digest == read("b.csv", root=tmp_path).digest


@pytest.mark.parametrize(
    ("codec", "says"), [("utf-8-sig", "utf-8-sig"), ("gb18030", "gb18030"), ("utf-16", "utf-16")]
)
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_encodings(tmp_path: Path, codec: str, says: str, kind: str):
    rows = [{"文本": "这部电影很好看", "标签": "正面"}, {"文本": "服务太差", "标签": "负面"}]
    put(tmp_path, f"x.{kind}", WRITERS[kind](rows).decode().encode(codec))
    table = read(f"x.{kind}", root=tmp_path)
    if kind == "json":  # json.dumps without ensure_ascii=False is ASCII: only the mark shows
        says = "utf-8" if codec == "gb18030" else says
    assert (values(table), table.encoding) == (rows, says)


def test_conll_by_ending_and_by_content(tmp_path: Path):
    text = "EU B-ORG\nrejects O\n\nPeter B-PER\n"
    for name in ("x.conll", "x.bio", "x.iob2", "x.txt", "x.tsv", "x.conll.gz"):
        put(tmp_path, name, gzip.compress(text.encode()) if name.endswith("gz") else text)
        table = read(name, root=tmp_path)
        assert values(table)[0] == {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}
        assert [row.where for row in table.rows] == [f"{name}:1", f"{name}:4"]


def test_plain_text(tmp_path: Path):
    put(tmp_path, "x.txt", "one\n\ntwo\n")
    assert values(read("x.txt", root=tmp_path)) == [{"text": "one"}, {"text": "two"}]


def test_places_are_files_and_lines(tmp_path: Path):
    put(tmp_path, "sub/x.csv", 'text\n"a\nb"\nc\n')
    assert [row.where for row in read("sub/x.csv", root=tmp_path).rows] == ["sub/x.csv:2", "sub/x.csv:4"]


def test_columns_are_those_of_all_rows_in_order(tmp_path: Path):
    put(tmp_path, "x.jsonl", '{"b": 1}\n{"a": 1, "b": 2}\n{}\n{"c": 0}\n')
    assert read("x.jsonl", root=tmp_path).columns == ("b", "a", "c")


def test_a_folder_of_files_and_of_shards(tmp_path: Path):
    put(tmp_path, "set/train-00000-of-00002.csv", as_csv(ROWS[:6]))
    put(tmp_path, "set/train-00001-of-00002.csv", as_csv(ROWS[6:]).decode().encode("utf-8-sig"))
    put(tmp_path, "set/dev.jsonl", as_jsonl(ROWS[:1]))
    table = read("set:train[4:8]", root=tmp_path)
    assert values(table) == ROWS[4:8]
    assert (table.name, table.encoding) == ("set:train", "utf-8, utf-8-sig")
    assert [row.where.rsplit("/")[-1] for row in table.rows[1:3]] == [
        "train-00000-of-00002.csv:7",
        "train-00001-of-00002.csv:2",
    ]
    assert values(read("set:validation", root=tmp_path)) == ROWS[:1]


def test_what_datasets_saves(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=["neg", "pos"]),
        tags=datasets.Sequence(datasets.ClassLabel(names=["O", "B-X"])),
    )
    rows = {"text": ["a", "b", "c"], "label": [0, 1, 1], "tags": [[0], [0, 1], []]}
    whole = datasets.Dataset.from_dict(rows, features=features)
    datasets.disable_progress_bars()
    whole.select([2, 0]).save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=whole, test=whole.select([1])).save_to_disk(str(tmp_path / "two"))
    whole.to_parquet(str(tmp_path / "three.parquet"))
    expected = [
        {"text": "a", "label": "neg", "tags": ["O"]},
        {"text": "b", "label": "pos", "tags": ["O", "B-X"]},
        {"text": "c", "label": "pos", "tags": []},
    ]
    assert values(read("one", root=tmp_path)) == [expected[2], expected[0]]
    assert values(read("two:train", root=tmp_path)) == expected
    assert values(read("two:test", root=tmp_path)) == [expected[1]]
    assert values(read("three.parquet", root=tmp_path)) == expected


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_a_file_without_ending_may_say_itself_what_it_is(tmp_path: Path, kind: str):
    put(tmp_path, "data", WRITERS[kind](ROWS))
    assert values(read("data", root=tmp_path)) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", "", "x.csv: must hold rows, but is empty"),
        ("x.csv", "text,label\n", r"must hold at least one row, but holds none \(a header alone is none\)"),
        ("x.jsonl", "\n\n", "must hold at least one row"),
        ("x.jsonl", '{"text": "a"}\n{"text": "b', r"x\.jsonl:2: .*unterminated string"),
        ("x.csv", "text\na\0b\n", r"x\.csv:2: .*NUL"),
        ("x.csv", b"text\ncaf\xe9 au lait\n", "byte 8 .line 2. is not UTF-8"),
        ("x.jsonl", '{"text": "a"}\n["b"]\n', r"x\.jsonl:2: .*is a list"),
        ("x.parquet", "text,label\na,1\n", "must be a whole Parquet file"),
        ("x.arrow", "", "must be a whole Arrow file"),
        ("x.csv.gz", gzip.compress(b"text\nabcdef\n", mtime=0)[:-8], "must be readable"),
        ("x.xlsx", "abc", r"the ending must say the format, but is '\.xlsx'"),
        ("x", "abc", "the ending must say the format"),
        ("x", "", "the ending must say the format"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, content: str | bytes, says: str):
    put(tmp_path, name, content)
    with pytest.raises(DataError, match=says):
        read(name, root=tmp_path)


def test_a_slip_in_a_name_is_pointed_at(tmp_path: Path):
    put(tmp_path, "reviews.csv", as_csv(ROWS))
    with pytest.raises(DataError, match=r"Did you mean 'reviews\.csv'"):
        read("review.csv", root=tmp_path)
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set.* Or was one of these meant: reviews\.csv\?"):
        read("reviews.cvs", root=tmp_path)
    with pytest.raises(
        DataError, match=r"no file or folder here.* into <folder>/owner/name .*data_root: <folder>\.$"
    ):
        read("owner/name:train", root=tmp_path)


def test_links_that_lead_nowhere_or_round_in_a_circle(tmp_path: Path):
    (tmp_path / "round").mkdir()
    (tmp_path / "round" / "again").symlink_to("..")
    with pytest.raises(DataError, match=r"^round: must hold data files, but holds none"):
        read("round", root=tmp_path)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").symlink_to("gone.csv")
    (tmp_path / "a.csv").symlink_to("b.csv")
    (tmp_path / "b.csv").symlink_to("a.csv")
    with pytest.raises(DataError, match=r"^a\.csv: must lead to a file .* leads nowhere"):
        read("a.csv[:3]", root=tmp_path)
    with pytest.raises(DataError, match=r"^set:train: train\.csv must lead to a file, .* leads nowhere"):
        read("set:train", root=tmp_path)
    put(tmp_path, "round/train.csv", as_csv(ROWS))
    assert values(read("round/again/round:train", root=tmp_path)) == ROWS


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_json_under_another_ending_is_said(tmp_path: Path, name: str):
    put(tmp_path, name, '\n{"text": "a", "label": "b"}\n')
    with pytest.raises(DataError, match=rf"^{name}:1: .* is a JSON object\. Call the file \.jsonl\.$"):
        read(name, root=tmp_path)
    put(tmp_path, name, '{"text"}\tlabel\na\tb\n'.replace("\t", "," if name == "x.csv" else "\t"))
    assert read(name, root=tmp_path).columns == ('{"text"}', "label")


def test_the_data_root_comes_first_and_then_the_recipes_folder(tmp_path: Path):
    put(tmp_path, "job/both.csv", "text\nbeside\n")
    put(tmp_path, "job/own.csv", "text\nown\n")
    put(tmp_path, "sets/both.csv", "text\nfirst\n")
    put(tmp_path, "sets/owner/name/small/train-00000-of-00001-0123456789abcdef.csv", "text\n1\n2\n")
    found = {
        ref: values(read(ref, root=tmp_path / "job", data_root=tmp_path / "sets"))
        for ref in ("both.csv", "own.csv", "owner/name@small:train[1:]")
    }
    assert found == {
        "both.csv": [{"text": "first"}],
        "own.csv": [{"text": "own"}],
        "owner/name@small:train[1:]": [{"text": "2"}],
    }


def test_a_count_is_spread_evenly(tmp_path: Path):
    put(tmp_path, "x.csv", "text\n" + "".join(f"{number}\n" for number in range(10)))
    table = read("x.csv#4", root=tmp_path)
    assert [row["text"] for row in values(table)] == ["0", "2", "5", "7"]
    assert (table.name, table.num_read) == ("x.csv", 10)
    assert len(read("x.csv#500", root=tmp_path).rows) == 10
    assert table.digest != read("x.csv#5", root=tmp_path).digest != read("x.csv", root=tmp_path).digest
    put(tmp_path, "x.csv#4", '[{"text": "what exists wins"}]')
    assert len(read("x.csv#4", root=tmp_path).rows) == 1


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(DataError, match="must be a file or a folder"):
        read("x.csv", root=tmp_path)


@pytest.mark.parametrize("name", ["x.txt", "x.tsv"])
def test_a_text_and_a_label_need_no_header(tmp_path: Path, name: str):
    lines = [f"{topic}第{number}条\t{topic}" for number in range(8) for topic in ("体育", "财经")]
    put(tmp_path, name, "\n".join(lines) + "\n")
    found = values(read(name, root=tmp_path))
    assert found[:2] == [{"text": "体育第0条", "label": "体育"}, {"text": "财经第0条", "label": "财经"}]
    assert len(found) == 16
    put(tmp_path, name, "\n".join(["text\tlabel", *lines]) + "\n")
    headed = values(read(name, root=tmp_path))
    assert len(headed) == (16 if name == "x.tsv" else 17)
    assert (headed == found) is (name == "x.tsv")
