"""CSV, TSV and plain text: quoting, delimiters, line numbers, and what is wrong in them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data.delimited import label_field, read_csv, read_labelled, read_text, read_tsv
from weft.data.encoding import inspect
from weft.data.sources import read
from weft.data.table import Record
from weft.errors import DataError

READERS = {"csv": read_csv, "tsv": read_tsv, "txt": read_text}


def records(folder: Path, text: str, kind: str = "csv") -> list[Record]:
    path = folder / f"x.{kind}"
    path.write_bytes(text.encode())
    return list(READERS[kind](inspect(path, name=path.name)))


def values(folder: Path, text: str, kind: str = "csv") -> list[dict[str, Any]]:
    return [record for record, _ in records(folder, text, kind)]


def test_quotes_hold_commas_quotes_and_line_breaks(tmp_path: Path):
    text = 'text,label\n"a, ""b""\nc",1\n\n d ,2\r\n"",3\n'
    assert records(tmp_path, text) == [
        ({"text": 'a, "b"\nc', "label": "1"}, 2),
        ({"text": " d ", "label": "2"}, 5),
        ({"text": "", "label": "3"}, 6),
    ]


def test_values_stay_as_written(tmp_path: Path):
    text = "text,label\nNA,007\nnull,1e5\n=cmd|' /C calc'!A0,True\n"
    assert [tuple(row.values()) for row in values(tmp_path, text)] == [
        ("NA", "007"), ("null", "1e5"), ("=cmd|' /C calc'!A0", "True"),
    ]  # fmt: skip


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_the_header_says_the_delimiter(tmp_path: Path, sign: str):
    text = f'text{sign}label\n"a{sign}b"{sign}1\n'
    assert values(tmp_path, text) == [{"text": f"a{sign}b", "label": "1"}]


def test_one_column_has_no_delimiter(tmp_path: Path):
    assert values(tmp_path, 'text\na; b|c\n"d, e"\n') == [{"text": "a; b|c"}, {"text": "d, e"}]


def test_a_comma_in_the_header_decides(tmp_path: Path):
    assert values(tmp_path, '"a;b;c",d\n1;2;3,4\n') == [{"a;b;c": "1;2;3", "d": "4"}]


def test_names_are_stripped_and_an_index_gets_one(tmp_path: Path):
    assert values(tmp_path, ", text ,\n0,a,x\n") == [{"column1": "0", "text": "a", "column3": "x"}]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_lone_carriage_returns_end_lines_too(tmp_path: Path, kind: str):
    text = "text,label\ra,1\rb,2\r".replace(",", "," if kind == "csv" else "\t")
    assert [line for _, line in records(tmp_path, text, kind)] == [2, 3]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize("text", ["text,label\n", "text,label", "\n\n", "text,label\n\n,,,\n \n"])
def test_a_header_alone_has_no_rows(tmp_path: Path, text: str, kind: str):
    assert records(tmp_path, text if kind == "csv" else text.replace(",", "\t"), kind) == []


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("text,label\na,1\nb, c,2\n", 3, "must have 2 fields as the header has, but has 3"),
        ("text,label\na,1\nb\n", 3, "but has 1"),
        ("text\na, b\n", 2, "must have 1 fields as the header has, but has 2"),
        ('text,label\n"a\nb",1\nc,d,2\n', 4, "but has 3"),
        ('text,label\na,1\n"b,2\nc,3\n', 3, "unexpected end of data"),
        ('text,label\na,1\n"b" c,2\n', 3, "quotes must enclose"),
        ("text,text\na,b\n", 1, "text occurs more than once"),
        ("\n\ntext, text\na,b\n", 3, "occurs more than once"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, line: int, says: str):
    with pytest.raises(DataError, match=rf"x\.csv:{line}: .*{says}"):
        records(tmp_path, text)


def test_tsv_with_stray_quotes_is_read_line_by_line(tmp_path: Path):
    """As GLUE writes it: csv's rules would swallow everything up to the next quote."""
    text = 'sentence\tlabel\n"I said\t1\nhe said "no"\t0\n"quite ""so"""\t1\nend"\t0\n'
    rows = [('"I said', "1"), ('he said "no"', "0"), ('quite "so"', "1"), ('end"', "0")]
    assert [tuple(row.values()) for row in values(tmp_path, text, "tsv")] == rows


def test_tsv_with_line_breaks_in_quotes(tmp_path: Path):
    text = 'text\tlabel\n"a\nb\tc"\t1\nd\t2\n'
    assert records(tmp_path, text, "tsv") == [
        ({"text": "a\nb\tc", "label": "1"}, 2),
        ({"text": "d", "label": "2"}, 4),
    ]


def test_tsv_with_a_short_line(tmp_path: Path):
    with pytest.raises(DataError, match=r"x\.tsv:3: must have 2 fields as the header has, but has 1"):
        records(tmp_path, "text\tlabel\na\t1\nb\n", "tsv")


def test_a_long_field_is_read(tmp_path: Path):
    long = "好 film, " * 1_000_001
    assert len(long.encode()) > 10_000_000
    assert records(tmp_path, f'text,label\n"{long}",1\nb,2\n')[0][0]["text"] == long
    assert records(tmp_path, f"text\tlabel\n{long}\t1\nb\t2\n", "tsv")[0][0]["text"] == long


def test_text_has_one_row_a_line(tmp_path: Path):
    text = "first \r\n\n \t\n  second\u2028still, second\nthird"
    assert records(tmp_path, text, "txt") == [
        ({"text": "first "}, 1),
        ({"text": "  second\u2028still, second"}, 4),
        ({"text": "third"}, 5),
    ]


FIELD = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
NAMES = st.lists(
    st.text("abcdé好 ,;\t\"'", min_size=1).map(str.strip).filter(bool), min_size=2, max_size=4, unique=True
)


@settings(max_examples=40)
@given(st.data())
def test_what_csv_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    names = data.draw(NAMES)
    rows = data.draw(
        st.lists(st.lists(FIELD, min_size=len(names), max_size=len(names)), min_size=1, max_size=5)
    )
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([names, *rows])
    found = values(tmp_path_factory.mktemp("csv"), buffer.getvalue())
    assert found == [dict(zip(names, row, strict=True)) for row in rows]


# A field with both a tab and a line break in quotes can look like two lines with stray quotes: not for TSV.
TSV_FIELD = FIELD.filter(lambda text: not ("\t" in text and ("\n" in text or "\r" in text)))


@settings(max_examples=40)
@given(st.lists(st.tuples(TSV_FIELD, TSV_FIELD), min_size=1, max_size=5))
def test_what_csv_writes_with_tabs_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, dialect="excel-tab").writerows([("text", "label"), *rows])
    found = values(tmp_path_factory.mktemp("tsv"), buffer.getvalue(), "tsv")
    assert [tuple(row.values()) for row in found] == rows


# ------------------------------------------------------------------------------- a text and a label, no header
NEWS = [f"{topic}新闻第{number}条\t{topic}" for number in range(8) for topic in ("体育", "财经")]


def headerless(folder: Path, *lines: str, end: str = "\n") -> int | None:
    path = folder / "x.txt"
    path.write_bytes((end.join(lines) + end).encode())
    return label_field(inspect(path, name=path.name))


def test_a_label_is_told_by_its_few_values_on_either_side(tmp_path: Path):
    assert headerless(tmp_path, *NEWS) == 1
    assert headerless(tmp_path, *("\t".join(reversed(line.split("\t"))) for line in NEWS)) == 0
    assert headerless(tmp_path, *NEWS, end="\r\n") == 1
    assert headerless(tmp_path, *(f"text {number}\tone" for number in range(4))) == 1, "sorted by label"


def test_blank_lines_at_the_end_are_no_part_of_it(tmp_path: Path):
    assert headerless(tmp_path, *NEWS, "", " ", "") == 1


@pytest.mark.parametrize("name", ["x.txt", "x.tsv"])
@pytest.mark.parametrize("content", [b"\xef\xbb\xbf", b"\xff\xfe", b"\n\n"])
def test_a_file_of_nothing_but_a_mark_or_blank_lines_has_no_rows(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"^{name}: must hold at least one row"):
        read(name, root=tmp_path)


@pytest.mark.parametrize(
    "lines",
    [
        ["text\tlabel", *NEWS],  # a header: its name is no label
        ["sentence\t体育新闻", *NEWS],
        [*NEWS[:4], "one field", *NEWS],
        [*NEWS[:4], "three\tfields\there", *NEWS],
        [*NEWS[:4], "", *NEWS],  # sentences of tagged words have blank lines between
        [*NEWS[:4], "\t体育", *NEWS],
        NEWS[:3],  # too few to tell
        [f"hello {number}\t你好{number}" for number in range(20)],  # two languages
        [f"{number % 3}\t{number % 2}" for number in range(20)],  # no text
        [f"text {number}\t{'a long answer ' * 4}" for number in range(20)],  # no label
        [f"text {number}\t{number // 2}" for number in range(20)],  # too many labels
    ],
)
def test_what_could_be_something_else_is_read_as_before(tmp_path: Path, lines: list[str]):
    assert headerless(tmp_path, *lines) is None


def test_labelled_lines(tmp_path: Path):
    path = tmp_path / "x.txt"
    path.write_text('a good film\t pos\n\n"dull"\tneg\n', encoding="utf-8")
    assert list(read_labelled(inspect(path, name="x.txt"), label=1)) == [
        ({"text": "a good film", "label": "pos"}, 1),
        ({"text": '"dull"', "label": "neg"}, 3),
    ]
    path.write_text("a\tpos\nb\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"^x\.txt:2: must have a text and a label with a tab .* but has 1 fields"
    ):
        list(read_labelled(inspect(path, name="x.txt"), label=1))
