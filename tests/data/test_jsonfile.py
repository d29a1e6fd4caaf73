"""JSON Lines and JSON documents, whatever their ending, and what is wrong in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from weft.data.encoding import inspect
from weft.data.jsonfile import read
from weft.data.table import Record
from weft.errors import DataError

ROWS = [
    {"text": "a\u2028b", "label": 1},
    {"text": "好", "label": None},
    {"text": "c", "extra": [1, {"x": 2}]},
]


def records(folder: Path, text: str | bytes, *, is_lines: bool = True) -> list[Record]:
    path = folder / "x.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(read(inspect(path, name="x.json"), is_lines=is_lines))


@pytest.mark.parametrize("is_lines", [True, False])
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), [1, 2, 3]),
        ("\r\n".join(json.dumps(row) for row in ROWS) + "\r\n", [1, 2, 3]),
        ("\n\n" + "\n \n".join(json.dumps(row) for row in ROWS), [3, 5, 7]),
        (json.dumps(ROWS), [1, "1.2", "1.3"]),
        (json.dumps(ROWS[:2])[:-1] + ",\n" + json.dumps(ROWS[2]) + "]", [1, "1.2", 2]),
        ("[\n" + ",\n".join(json.dumps(row) for row in ROWS) + "\n]\n", [2, 3, 4]),
        ("\n" + json.dumps(ROWS, indent=1), [3, 7, 11]),
    ],
)
def test_lines_and_lists_under_both_endings(
    tmp_path: Path, text: str, lines: list[int | str], is_lines: bool
):
    found = records(tmp_path, text, is_lines=is_lines)
    assert [values for values, _ in found] == ROWS
    assert [line for _, line in found] == lines


@pytest.mark.parametrize("indent", [None, 2])
def test_rows_under_data(tmp_path: Path, indent: int | None):
    text = json.dumps({"version": "1.1", "data": ROWS}, indent=indent)
    assert records(tmp_path, text, is_lines=False) == [
        (row, place) for place, row in enumerate(ROWS, start=1)
    ]


def test_one_line_is_a_row_in_json_lines_and_a_document_in_json(tmp_path: Path):
    line = json.dumps({"data": ROWS})
    assert records(tmp_path, line) == [({"data": ROWS}, 1)]
    assert len(records(tmp_path, line, is_lines=False)) == 3
    assert records(tmp_path, '{"text": "a"}', is_lines=False) == [({"text": "a"}, 1)]


@pytest.mark.parametrize("text", ["[]", "[ ]\n", "\n \n", '{"data": []}'])
def test_no_rows(tmp_path: Path, text: str):
    assert records(tmp_path, text, is_lines=False) == []


def test_nan_is_missing_and_a_number_may_be_infinite(tmp_path: Path):
    ((values, _),) = records(tmp_path, '{"a": NaN, "b": -Infinity, "c": [NaN], "d": 1e400}')
    assert values == {"a": None, "b": float("-inf"), "c": [None], "d": float("inf")}


def test_a_truncated_line_is_named(tmp_path: Path):
    text = '{"text": "a"}\n\n{"text": "b"}\n{"text": "c'
    with pytest.raises(
        DataError, match=r"x\.json:4: must be whole, valid JSON, but unterminated string .*column 10"
    ):
        records(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('[{"a": 1},\n {"a": 2}', 2, "the end of the file"),
        ('[{"a": 1},\n {"a": 2}\n {"a": 3}]', 3, "'{'"),
        ('[{"a": 1},\n {"a": }]', 2, "expecting value"),
        ('[{"a": 1},\n {"a": 2},\n', 3, "expecting value"),
        ('[{"a": 1}]\n{"a": 2}', 2, "nothing must follow"),
        ('{\n "data": [\n {"a": }]}', 3, "expecting value"),
        ('{"a": 1}\n[1]', 2, "is a list"),
        ('[{"a": 1},\n"b"]', 2, "is a string"),
        ('{"a": 1}\n1', 2, "is a number"),
        ('{"a": 1}\ntrue', 2, "is true or false"),
        ('{"a": 1}\nnull', 2, "is null"),
        ('{"a": 1}\n{"a": 1} {"a": 2}', 2, "extra data"),
        ("{'a': 1}\n{'a': 2}", 1, "property name"),
        ("text\n", 1, "expecting value"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, line: int, says: str):
    with pytest.raises(DataError, match=rf"x\.json:{line}: .*{says}"):
        records(tmp_path, text, is_lines=False)


def test_a_wrong_element_under_data_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"element 2 of data: .* is a string"):
        records(tmp_path, '{"data": [{"a": 1}, "b"]}', is_lines=False)


@pytest.mark.parametrize("is_lines", [True, False])
def test_half_a_surrogate_pair_is_no_text_and_a_whole_one_is(tmp_path: Path, is_lines: bool):
    assert records(tmp_path, '{"a": "\\ud83d\\ude00"}', is_lines=is_lines) == [({"a": "😀"}, 1)]
    for wrong in ('"a": "\\ud83d"', '"a": ["x", {"b": "\\uDE00"}]', '"\\ud800": 1'):
        with pytest.raises(DataError, match=r"1: .* half of a surrogate pair \(\\ud"):
            records(tmp_path, f"{{{wrong}}}", is_lines=is_lines)


def test_unusual_signs_are_kept(tmp_path: Path):
    text = "\u202eabc\u200b \ufeff\u0085\u2029 =cmd|' /C calc'!A0 <script>"
    assert records(tmp_path, json.dumps({"text": text}, ensure_ascii=False) + "\n{}")[0][0] == {"text": text}


@pytest.mark.parametrize("is_lines", [True, False])
@pytest.mark.parametrize("text", ['{"a": ' + "[" * 200_000, "[" * 200_000, '{"a": ' + "9" * 5000 + "}\n{}"])
def test_bombs_are_refused(tmp_path: Path, text: str, is_lines: bool):
    with pytest.raises(DataError, match=r"x\.json:1"):
        records(tmp_path, text, is_lines=is_lines)


def test_a_long_row_is_read(tmp_path: Path):
    row = {"text": "好 film " * 1_200_000}
    content = json.dumps(row, ensure_ascii=False)
    assert len(content.encode()) > 10_000_000
    assert records(tmp_path, content + "\n{}\n") == [(row, 1), ({}, 2)]
