"""Labels in a column each: found, named in a recipe, read and refused; and the same as labels in one cell."""

from __future__ import annotations

import json
from typing import Any

import pytest

from weft.core.example import Dropped, Purpose, Row
from weft.errors import DataError
from weft.task.indicators import find_columns, indicators, is_several, labels_of
from weft.task.registry import FAMILIES

JIGSAW = [
    {"id": "a", "comment_text": "a good film", "toxic": 0, "insult": 0, "threat": 0},
    {"id": "b", "comment_text": "sad old man", "toxic": 1, "insult": 1, "threat": 0},
    {"id": "c", "comment_text": "很坏的人", "toxic": 1, "insult": 0, "threat": 0},
]
IN_ONE_CELL = [
    {"comment_text": "a good film", "label": []},
    {"comment_text": "sad old man", "label": ["toxic", "insult"]},
    {"comment_text": "很坏的人", "label": "toxic"},
]
NAMES = ("toxic", "insult", "threat")


def rows(*values: dict[str, Any]) -> list[Row]:
    return [Row(value, f"j.csv:{number}") for number, value in enumerate(values, start=2)]


@pytest.mark.parametrize(
    ("yes", "no"), [(1, 0), ("1", "0"), (1.0, 0.0), (True, False), ("True", "False"), ("true", "")]
)
def test_columns_of_yes_and_no_are_found_however_they_are_written(yes: Any, no: Any):
    values = [
        {**row, **{name: yes if row[name] else no for name in NAMES[:2]}, "threat": no or yes}
        for row in JIGSAW
    ]
    assert indicators(rows(*values), taken=["comment_text"]) == NAMES


def test_other_columns_are_none():
    values = {"idx": 2, "score": 0.5, "empty": None, "a|b": 1, "word": "yes", "unclear": False, "taken": 1}
    flags = rows({**values, "x": 1, "y": 0}, {**values, "x": -1, "y": 1})
    assert indicators(flags, taken=["taken"]) == ("x", "y"), "numbers go before true and false"
    assert indicators(rows(values), taken=["taken"]) == ("unclear",)


def test_labels_of_a_row():
    column = "toxic|insult|threat"
    assert [labels_of(row, column) for row in rows(*JIGSAW)] == [(), ("toxic", "insult"), ("toxic",)]
    assert labels_of(Row(dict.fromkeys(NAMES, -1), "f:1"), column) is None, "nobody judged it"
    assert labels_of(Row({"comment_text": "x"}, "f:1"), column) is None
    assert labels_of(Row({"toxic": "1", "insult": ""}, "f:1"), column) == ("toxic",)
    with pytest.raises(DataError, match=r"^f:1: column insult must be 0 or 1, but is '0\.7'"):
        labels_of(Row({"toxic": 1, "insult": 0.7}, "f:1"), column)


def test_columns_are_found_or_named():
    found = find_columns(rows(*JIGSAW), {}, multi_label=True, what="t")
    assert found == {"text": "comment_text", "pair": None, "label": "toxic|insult|threat"}
    given = find_columns(rows(*JIGSAW), {"label": "threat | toxic"}, multi_label=True, what="t")
    assert given["label"] == "threat|toxic"
    whole = rows({"text": "x", "label": "y", "a": 1, "b": 0})
    assert find_columns(whole, {}, multi_label=True, what="t")["label"] == "label", (
        "one column of labels comes first"
    )
    assert is_several("a|b", ["a", "b"])
    assert not is_several("a|b", ["a|b"])


def test_what_a_text_is_made_of_is_no_label():
    values = [{**row, "verified": number % 2} for number, row in enumerate(JIGSAW)]
    template = "{verified}: {comment_text}"
    found = find_columns(rows(*values), {"text": template}, multi_label=True, what="t")
    assert found == {"text": template, "pair": None, "label": "toxic|insult|threat"}
    named_twice = find_columns(rows(*values), {"label": "toxic|insult|toxic"}, multi_label=True, what="t")
    assert named_twice["label"] == "toxic|insult"


@pytest.mark.parametrize(
    ("given", "multi_label", "says"),
    [
        ({}, False, "must have one column for label, but toxic, insult, threat are a label each, 0 or 1. Set multi_label"),
        ({"label": "toxic|insult"}, False, "must have one column for label, but toxic, insult are a label each"),
        ({"label": "toxic|insul"}, True, "the columns for label must exist, but insul does not. Did you mean 'insult'?"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(given: dict[str, str], multi_label: bool, says: str):
    with pytest.raises(DataError) as caught:
        find_columns(rows(*JIGSAW), given, multi_label=multi_label, what="tasks.t")
    assert says in str(caught.value)
    with pytest.raises(DataError, match="must have a column for label"):
        find_columns(rows({"text": "x", "flag": 1}), {}, multi_label=True, what="t")


def test_the_task_is_the_one_on_labels_in_one_cell(kit: Any):
    options = {"multi_label": True, "pooling": "mean"}
    task = kit.fit("classification", JIGSAW, **options)
    other = kit.fit("classification", IN_ONE_CELL, labels=list(NAMES), **options)
    assert task.labels == NAMES, "a label that no training row has is one too"
    again = FAMILIES["classification"].from_config("t", json.loads(json.dumps(task.config())))
    assert again == task
    for purpose in Purpose:
        found = again.encode(kit.rows(JIGSAW), kit.words, purpose)
        expected = other.encode(kit.rows(IN_ONE_CELL), kit.words, purpose)
        assert [(one.tokens, one.target, one.gold) for one in found] == [
            (one.tokens, one.target, one.gold) for one in expected
        ]
    bare = kit.rows([{"comment_text": "a film"}])
    assert task.encode(bare, kit.words, Purpose.ANSWER)[0].gold is None
    assert task.encode(bare, kit.words, Purpose.LEARN) == [Dropped("rows.jsonl:1", "no label")]
