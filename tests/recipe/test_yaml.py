from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import RecipeError
from weft.recipe.yaml import MAX_BYTES, MAX_DEPTH, decode, parse


def message(text: str) -> str:
    with pytest.raises(RecipeError) as info:
        parse(text, "r.yaml")
    assert len(info.value.problems) == 1
    return info.value.problems[0]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("12", 12),
        ("-3", -3),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0o17", 15),
        ("~", None),
        ("null", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", "true"),
        ("False", "False"),
        ("2001-01-01", "2001-01-01"),
        ("12:30:00", "12:30:00"),
        ("'1e-4'", "1e-4"),
        ("'null'", "null"),
        ("3 epochs", "3 epochs"),
        ("data.csv[:500]", "data.csv[:500]"),
    ],
)
def test_scalars(written: str, value: object):
    document = parse(f"key: {written}\n", "r.yaml")
    found = document.data["key"]
    assert found == value
    assert type(found) is type(value)
    assert document.mark(("key",)).text == written.strip("'")


def test_infinity_and_nan_are_text_so_that_no_field_takes_them_for_a_number():
    values = parse("[.inf, -.inf, .nan]", "r.yaml").data
    assert not any(isinstance(value, float) and not math.isfinite(value) for value in values)


def test_a_number_too_long_for_an_integer_is_a_float():
    assert parse("9" * 200, "r.yaml").data == float("9" * 200)


def test_keys_are_text_as_written():
    assert parse("{1: a, true: b, null: c, 1e3: d}", "r.yaml").data == {
        "1": "a",
        "true": "b",
        "null": "c",
        "1e3": "d",
    }


def test_marks_are_lines_of_keys_and_of_list_elements():
    text = "a: 1\nb:\n  c:\n    - x\n    - y\n\n# comment\nd: {e: 2,\n  f: 3}\n"
    marks = parse(text, "r.yaml").marks
    lines = {path: mark.order for path, mark in marks.items() if path}
    assert lines == {
        ("a",): 1,
        ("b",): 2,
        ("b", "c"): 3,
        ("b", "c", 0): 4,
        ("b", "c", 1): 5,
        ("d",): 8,
        ("d", "e"): 8,
        ("d", "f"): 9,
    }
    assert marks["b", "c", 1].where == "r.yaml:5"


def test_duplicate_keys_name_both_lines_and_the_rest_is_still_read():
    document = parse("a: 1\nb: 2\na: 3\nc: {d: 1,\n d: 2}\n", "r.yaml")
    assert [str(problem) for problem in document.problems] == [
        "r.yaml:3: a: must be given once, but is given on lines 1 and 3. Remove one.",
        "r.yaml:5: c.d: must be given once, but is given on lines 4 and 5. Remove one.",
    ]
    assert document.data == {"a": 1, "b": 2, "c": {"d": 1}}


def test_merge_keys_and_keys_that_are_lists_are_problems():
    document = parse("a: &a {x: 1}\nb: {<<: *a, y: 2}\n[1, 2]: c\n", "r.yaml")
    assert [problem.mark.order for problem in document.problems] == [2, 3]
    assert "merge keys" in str(document.problems[0])
    assert document.data == {"a": {"x": 1}, "b": {"y": 2}}


def test_aliases_repeat_values():
    assert parse("a: &a [1, {b: c}]\nd: *a\n", "r.yaml").data["d"] == [1, {"b": "c"}]


def test_byte_order_mark_and_windows_line_ends():
    document = parse("\ufeffa: 1\r\nb: 2\r\n", "r.yaml")
    assert document.data == {"a": 1, "b": 2}
    assert document.mark(("b",)).order == 2


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_an_empty_text_is_an_empty_mapping_or_nothing(text: str):
    assert not parse(text, "r.yaml").data


@pytest.mark.parametrize(
    ("text", "start", "hint"),
    [
        ("a:\n\t- b", "r.yaml:2: must be YAML, but found character", "Indent with blanks, not tabs."),
        ("a: {train: d.csv[:5]}", "r.yaml:1: must be YAML, but expected ','", "'data.csv[:500]'"),
        ("a: b: c", "r.yaml:1: must be YAML, but mapping values", "Put quotes"),
        ("a: 1\n b: 2\nc: [", "r.yaml:2: must be YAML", "Put quotes"),
        ("a: [1, 2\n", "r.yaml:", "brackets"),
        ("a: \x00", "r.yaml: must be YAML", "quotes"),
        ("{a} {b}", "r.yaml:1: must be YAML, but expected '<document start>', but found '{'.", "Put quotes"),
        ("a: *unknown\n", "r.yaml:1: must be YAML, but found undefined alias", "Check"),
        ("a: 1\n---\nb: 2\n", "r.yaml:2: must hold one document", "one file for each"),
        ("%YAML 1.1\n---\na: no\n", "r.yaml:2: must be YAML 1.2", "Remove that line"),
        (
            "a: 1\nb: !!python/object/apply:os.system [ls]\n",
            "r.yaml:2: must hold plain values",
            "Remove the tag",
        ),
        ("a: !local 3\n", "r.yaml:1: must hold plain values", "Remove the tag"),
    ],
)
def test_what_is_refused_says_where_and_what_to_do(text: str, start: str, hint: str):
    found = message(text)
    assert found.startswith(start)
    assert hint in found


def test_depth_is_capped_before_anything_recurses():
    assert "must nest at most" in message("[" * 50_000)
    assert parse("[" * MAX_DEPTH + "]" * MAX_DEPTH, "r.yaml").data is not None


def test_size_is_capped():
    assert "bytes" in message("a: " + "x" * MAX_BYTES)


def test_aliases_cannot_make_a_small_text_large():
    lines = ["a0: &a0 [" + ", ".join(["lol"] * 9) + "]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, 10)]
    assert "must not repeat so much by aliases" in message("\n".join(lines))


def test_an_alias_of_itself_ends():
    assert "must not repeat so much by aliases" in message("a: &a [1, *a]\n")


def problem_of(read: Callable[[], object]) -> str | None:
    try:
        read()
    except RecipeError as error:
        return error.problems[0]
    return None


@given(st.text())
def test_any_text_is_read_or_refused_but_never_crashes(text: str):
    problem = problem_of(lambda: parse(text, "r.yaml"))
    assert problem is None or problem.startswith("r.yaml")


@given(st.binary(max_size=40))
def test_any_bytes_are_text_or_refused(raw: bytes):
    problem = problem_of(lambda: decode(raw, "r.yaml"))
    assert (problem is None and decode(raw, "r.yaml").encode() == raw.removeprefix(b"\xef\xbb\xbf")) or (
        problem is not None and "Save it as UTF-8" in problem
    )


def test_other_encodings_are_named():
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        with pytest.raises(RecipeError, match="UTF-16 or UTF-32"):
            decode("model: minilm".encode(encoding), "r.yaml")
    with pytest.raises(RecipeError, match=r"^r.yaml:2: must be UTF-8 text, but byte 0xd6 is not"):
        decode("a: 1\nb: 中文\n".encode("gb18030"), "r.yaml")
    assert decode("\ufeffa: 中文".encode(), "r.yaml") == "a: 中文"
