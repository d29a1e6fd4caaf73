"""The grammar of references, and slices against Python's own."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.data.reference import Bound, Sample, Slice, parse
from weft.errors import DataError

ROWS = list(range(37))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.csv", "with:colon.csv", "with[1].csv", "odd[:3]", "C:drive.csv", "mail@home.csv"):
        (tmp_path / name).write_text("text\nx\n")
    (tmp_path / "set" / "small").mkdir(parents=True)
    return tmp_path


def taken_apart(ref: str, root: Path) -> tuple[str, str | None, str | None, str]:
    found = parse(ref, root=root)
    return found.location, found.subset, found.split, str(found.slice or "")


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("a.csv", ("a.csv", None, None, "")),
        ("a.csv[:500]", ("a.csv", None, None, "[:500]")),
        ("a.csv[ 100 : 200 ]", ("a.csv", None, None, "[100:200]")),
        ("a.csv[-5:]", ("a.csv", None, None, "[-5:]")),
        ("a.csv[:]", ("a.csv", None, None, "[:]")),
        ("set", ("set", None, None, "")),
        ("set:train", ("set", None, "train", "")),
        ("set:train[:10%]", ("set", None, "train", "[:10%]")),
        ("set@small:dev[10%:]", ("set", "small", "dev", "[10%:]")),
        ("set@small", ("set", "small", None, "")),
        ("a.csv#500", ("a.csv", None, None, "#500")),
        ("owner/name@de:train#20", ("owner/name", "de", "train", "#20")),
        # what exists wins, whatever signs are in it
        ("with:colon.csv", ("with:colon.csv", None, None, "")),
        ("with[1].csv", ("with[1].csv", None, None, "")),
        ("with[1].csv[1:]", ("with[1].csv", None, None, "[1:]")),
        ("odd[:3]", ("odd[:3]", None, None, "")),
        ("C:drive.csv[:1]", ("C:drive.csv", None, None, "[:1]")),
        ("mail@home.csv", ("mail@home.csv", None, None, "")),
        # the hub, where nothing of that name is here
        ("owner/name", ("owner/name", None, None, "")),
        ("owner/name:train", ("owner/name", None, "train", "")),
        ("owner/name@de:train[:2%]", ("owner/name", "de", "train", "[:2%]")),
        ("name:test", ("name", None, "test", "")),
    ],
)
def test_grammar(ref: str, expected: tuple[str, str | None, str | None, str], root: Path):
    assert taken_apart(ref, root) == expected


def test_here_or_on_the_hub(root: Path):
    assert parse("set:train", root=root).path == root / "set"
    assert parse("sets:train", root=root).path is None


def test_a_hub_id_may_be_a_slip(root: Path):
    assert parse("a.cvs", root=root).near == ("a.csv",)
    assert parse("sett:train", root=root).near == ("set",)
    assert parse("owner/name", root=root).near == ()


def test_absolute_paths_do_not_start_from_the_root(root: Path):
    assert parse(f"{root / 'a.csv'}[:3]", root=Path("/elsewhere")).path == root / "a.csv"


def test_a_folder_of_data_comes_before_the_root(root: Path, tmp_path_factory: pytest.TempPathFactory):
    other = tmp_path_factory.mktemp("data")
    (other / "a.csv").write_text("text\ny\n")
    (other / "owner" / "name").mkdir(parents=True)
    assert parse("a.csv[:1]", root=root, data_root=other).path == other / "a.csv"
    assert parse("mail@home.csv", root=root, data_root=other).path == root / "mail@home.csv"
    assert parse("owner/name@de:train", root=root, data_root=other).path == other / "owner" / "name"
    assert parse("owner/others:train", root=root, data_root=other).path is None


def test_home_is_known(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(root))
    assert parse("~/a.csv", root=Path("/elsewhere")).path == root / "a.csv"
    with pytest.raises(DataError):
        parse("~nobody-of-this-name/a.csv", root=root)


def test_name_leaves_the_slice_out(root: Path):
    assert parse("set@small:dev[:3]", root=root).name == "set@small:dev"
    assert parse("a.csv[:3]", root=root).name == "a.csv"


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("aa.csv", "Did you mean 'a.csv'"),
        ("b.csv[:5]", "must exist below"),
        ("./nothing/here.txt", "There is nothing in"),
        ("C:\\data\\x.csv", "must exist below"),
        ("../up/x", "must exist below"),
        ("/nothing/x.csv", r"x\.csv: must exist, but does not\. There is nothing in /nothing"),
        ("a.csv:train", "a.csv is a file"),
        ("a.csv[5]", r"\[start:stop\]"),
        ("a.csv[::2]", r"\[start:stop\]"),
        ("a.csv[:1.5]", r"\[start:stop\]"),
        ("a.csv[:١]", r"\[start:stop\]"),
        ("a.csv[:101%]", "at most 100, but is 101%"),
        ("a.csv#0", "must exist below"),
        ("a.csv#-3", "must exist below"),
        ("  ", "is empty"),
        ("x\0y.csv", "must exist below"),
        ("y" * 5000 + ".csv", "must exist below"),
    ],
)
def test_what_is_wrong_is_said(ref: str, says: str, root: Path):
    with pytest.raises(DataError, match=says):
        parse(ref, root=root)


@given(st.none() | st.integers(-50, 50), st.none() | st.integers(-50, 50))
def test_rows_are_sliced_as_in_python(start: int | None, stop: int | None):
    text = f"{'' if start is None else start}:{'' if stop is None else stop}"
    assert ROWS[Slice.parse(text, of="x").rows(len(ROWS))] == ROWS[start:stop]


@given(st.integers(0, 100), st.integers(0, 1000))
def test_percentages_divide_without_gap_or_overlap(percent: int, num_rows: int):
    rows = list(range(num_rows))
    head = rows[Slice.parse(f":{percent}%", of="x").rows(num_rows)]
    rest = rows[Slice.parse(f"{percent}%:", of="x").rows(num_rows)]
    assert head + rest == rows
    assert abs(len(head) - num_rows * percent / 100) <= 0.5


@pytest.mark.parametrize(
    ("bound", "num_rows", "row"),
    [("10%", 37, 4), ("-10%", 37, -4), ("50%", 5, 2), ("100%", 7, 7), ("3", 37, 3)],
)
def test_percentages_round_as_datasets_does(bound: str, num_rows: int, row: int):
    parsed = Bound.parse(bound)
    assert parsed is not None
    assert parsed.row(num_rows) == row


@given(st.integers(1, 60))
def test_a_count_takes_so_many_rows_in_order(count: int):
    rows = Sample(count).of(ROWS)
    assert len(rows) == len(set(rows)) == min(count, len(ROWS))
    assert list(rows) == sorted(rows)
    steps = [b - a for a, b in pairwise(rows)]
    assert not steps or max(steps) - min(steps) <= 1


@pytest.mark.parametrize(
    ("text", "needs"), [(":5", False), ("2:5", False), ("-5:", True), (":10%", True), (":", False)]
)
def test_only_some_slices_need_the_whole_source(text: str, needs: bool):
    assert Slice.parse(text, of="x").needs_count is needs
