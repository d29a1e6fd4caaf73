from __future__ import annotations

import pytest

from weft.recipe.document import Document, Mark, described, shown
from weft.recipe.yaml import parse


def test_at_and_mark():
    document = parse("a:\n  - {b: 1}\n  - 2\n", "r.yaml")
    assert document.at(("a", 0, "b")) == 1
    assert document.at(("a", 1)) == 2
    assert document.at(()) == document.data
    for path in (("a", 2), ("a", -1), ("a", "b"), ("b",), ("a", 1, 0), ("a", 0, "c")):
        assert document.at(path) is None
    assert document.mark(("a", 0, "c", "d")).order == 2


def test_put_replaces_a_value_with_its_marks_and_leaves_the_old_document():
    old = parse("a: {b: {c: 1}}\nd: 2\n", "r.yaml")
    new = old.put(("a", "b"), {"e": 3}, {(): Mark("o", 9), ("e",): Mark("o", 9, "3")})
    assert old.data == {"a": {"b": {"c": 1}}, "d": 2}
    assert new.data == {"a": {"b": {"e": 3}}, "d": 2}
    assert ("a", "b", "c") not in new.marks
    assert new.mark(("a", "b", "e")) == Mark("o", 9, "3")
    assert new.mark(("d",)).where == "r.yaml:2"


def test_put_makes_mappings_on_the_way_and_sets_list_elements():
    document = Document({"a": [1, 2]}, {(): Mark("r")})
    assert document.put(("x", "y"), 3, {(): Mark("o")}).data == {"a": [1, 2], "x": {"y": 3}}
    assert document.put(("a", 1), 3, {(): Mark("o")}).data == {"a": [1, 3]}


def test_a_problem_of_the_whole_text_has_no_path():
    document = Document(3, {(): Mark("r.yaml:1")})
    assert str(document.problem((), "must be more.")) == "r.yaml:1: must be more."
    assert str(document.problem(("a", 0), "must be more.")) == "r.yaml:1: a.0: must be more."


@pytest.mark.parametrize(
    ("value", "text", "words"),
    [
        (None, None, "empty"),
        ({"a": 1}, None, "a mapping"),
        ([1], None, "a list"),
        ([], None, "an empty list"),
        ("a\n'b'", None, r"'a\n'b''"),
        ("x" * 100, None, "'" + "x" * 57 + "...'"),
        (0.0001, "1e-4", "1e-4"),
        (3, None, "3"),
        ("电影", None, "'电影'"),
    ],
)
def test_described(value: object, text: str | None, words: str):
    assert described(value, text) == words


def test_shown():
    assert shown(("stages", 0, "lr")) == "stages.0.lr"
