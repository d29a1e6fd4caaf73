"""Rows of multiple choice as data sets write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from weft.core.example import Row
from weft.errors import DataError
from weft.task.choices import Choices, Naming, asked, choices_of, find_columns, naming_of, place_of

COPA = {"premise": "p", "question": "cause", "choice1": "one", "choice2": "two", "label": 1}
COPA_HUB = {**COPA, "label": "choice2"}  # a class whose name is the column
XCOPA = {"premise": "p", "question": "effect", "choices": ["one", "two"], "label": 1}
SWAG = {
    "sent1": "p",
    "sent2": "q",
    **{f"ending{n}": t for n, t in enumerate(("x", "one", "two", "y"))},
    "label": 2,
}
HELLASWAG = {"ctx": "p", "endings": ["x", "two"], "label": "1"}
RACE = {"article": "p", "question": "q", "options": ["x", "two", "y", "z"], "answer": "B"}
MMLU = {"question": "q", "choices": ["x", "y", "two"], "answer": 2}
ARC = {"question": "q", "choices": {"text": ["x", "two"], "label": ["1", "2"]}, "answerKey": "2"}
CSQA = {"question": "q", "choices": {"label": ["A", "B"], "text": ["x", "two"]}, "answerKey": "B"}
OPENBOOK = {
    "question_stem": "q",
    "choices": [{"text": "x", "label": "A"}, {"text": "two", "label": "B"}],
    "answerKey": "B",
}
CEVAL = {"question": "q", "A": "x", "B": "y", "C": "z", "D": "two", "answer": "D"}
PIQA = {"goal": "q", "sol1": "x", "sol2": "two", "label": 1}
SIQA = {"context": "p", "question": "q", "answerA": "x", "answerB": "y", "answerC": "two", "label": "3"}
WINOGRANDE = {"sentence": "p", "option1": "x", "option2": "two", "answer": "2"}
COSMOS = {
    "context": "p",
    "question": "q",
    **{f"answer{n}": t for n, t in enumerate(("x", "y", "z", "two"))},
    "label": "3",
}
MEDMCQA = {"question": "q", "opa": "x", "opb": "y", "opc": "two", "opd": "z", "cop": 2}
C3 = {"context": ["男：p", "女：p"], "question": "q", "choice": ["x", "two", "y"], "answer": "two"}
RECLOR = {"context": "p", "question": "q", "answers": ["x", "two"], "label": 1}
CHINESE = {"题目": "q", "选项A": "x", "选项B": "two", "答案": "B"}
CHINESE_LIST = {"文章": "p", "问题": "q", "选项": ["x", "two"], "正确答案": "two"}
BY_LETTER = {"question": "q", "options": {"A": "x", "B": "two"}, "answer": "B"}
IN_CSV = {"question": "q", "choices": "x | two", "answer": "b"}
JSON_IN_CSV = {"question": "q", "choices": json.dumps(["x", "two"]), "answer": "(B)"}
CHID = {"idx": 3, "candidates": ["x", "two"], "content": "p", "answer": "two"}  # as weft.data.cloze makes it
FORMATS = {name: value for name, value in globals().items() if name.isupper() and isinstance(value, dict)}


def _row(values: dict[str, Any]) -> Row:
    return Row(values, "x.jsonl:1")


def _found(*values: dict[str, Any], **given: str) -> dict[str, str | None]:
    return find_columns([_row(one) for one in values], given, what="tasks.t")


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_recognised(name: str):
    values = FORMATS[name]
    columns = _found(values)
    choices = choices_of(_row(values), columns)
    assert isinstance(choices, Choices)
    label = values[str(columns["label"])]
    # one row may leave open whether places count from 0 or from 1; data sets have many
    high = {"SIQA": "3", "WINOGRANDE": "2"}.get(name, label)
    naming = naming_of([(label, choices), (high, choices)])
    assert naming is not None
    place = place_of(label, choices, naming)
    assert place is not None
    assert choices.texts[place] == "two"
    texts = [values[column] for role in ("text", "question") if (column := columns[role]) is not None]
    assert {text if isinstance(text, str) else text[0][-1] for text in texts} <= {"p", "q", "cause", "effect"}


def test_there_are_many_formats():
    assert len(FORMATS) >= 20


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(0, 2), (1, 2)], Naming.INDEX),
        ([("1", 2), ("1", 2)], Naming.INDEX),
        ([("1", 2), ("2", 2)], Naming.NUMBER),
        ([(1, 4), (4, 4), (4, 5)], Naming.NUMBER),
        ([("A", 2), ("b", 2)], Naming.LETTER),
        ([("t0", 2), ("t1", 2), ("A", 2)], Naming.TEXT),
        ([(None, 2), ("", 3), (-1, 2)], None),
        ([("K", 2)], None),
    ],
)
def test_all_rows_say_how_a_choice_is_named(rows, expected):
    read = [(label, Choices(tuple(f"t{n}" for n in range(count)), ())) for label, count in rows]
    assert naming_of(read) is expected


def test_labels_of_its_own_come_before_places():
    choices = Choices(("x", "y", "z"), ("1", "2", "3"))
    assert naming_of([("2", choices)]) is Naming.OWN
    assert place_of("2", choices, Naming.OWN) == 1
    assert place_of(1.0, choices, Naming.INDEX) == 1
    assert place_of("3", choices, Naming.INDEX) is None
    assert place_of("0", choices, Naming.NUMBER) is None
    assert place_of("D", choices, Naming.LETTER) is None
    assert place_of("²", choices, Naming.INDEX) is None
    assert place_of(float("nan"), choices, Naming.TEXT) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"A": "x", "B": "y", "C": "", "D": None}, ("x", "y")),
        ({"A": "x", "B": 3, "C": 4.0}, ("x", "3", "4")),
        ({"A": "x", "B": "", "C": "z"}, "empty choice"),
        ({"A": "x", "B": None}, "fewer than two choices"),
        ({}, "fewer than two choices"),
    ],
)
def test_a_row_may_have_fewer_choices_than_columns(values, expected):
    columns = _found({"question": "q", "A": "x", "B": "y", "C": "z", "D": "w", "answer": "A"})
    found = choices_of(_row(values), columns)
    assert (found.texts if isinstance(found, Choices) else found) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (["a", "b"], ("a", "b")),
        ("a|b|c", ("a", "b", "c")),
        ("[a] | {b}", ("[a]", "{b}")),
        ("[1, 2]", ("1", "2")),
        (("a",), "fewer than two choices"),
        (None, "fewer than two choices"),
        ([f"t{n}" for n in range(27)], "more than 26 choices"),
    ],
)
def test_choices_in_one_cell(cell, expected):
    columns = _found({"question": "q", "choices": ["a", "b"], "label": 0})
    found = choices_of(_row({"choices": cell}), columns)
    assert (found.texts if isinstance(found, Choices) else found) == expected


def test_columns_that_the_recipe_names_count():
    row = {"q": "x", "choices": ["a", "b"], "first": "c", "second": "d", "gold": 0}
    one = _found(row, question="q")
    assert one["choices"] == "choices"
    several = _found(row, question="q", choice1="first", choice2="second")
    assert (several["choices"], several["choice1"], several["choice2"]) == (None, "first", "second")
    assert choices_of(_row(row), several) == Choices(("c", "d"), ("first", "second"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"question": "q", "label": 0}, "must have a column of choices"),
        ({"question": "q", "choice1": "x", "label": 0}, "must have a column of choices"),
        ({"choices": ["a", "b"], "label": 0}, "must have a column for text or question"),
        ({"question": "q", "choices": ["a", "b"]}, "must have a column for label"),
    ],
)
def test_what_is_missing_is_said(values, message):
    with pytest.raises(DataError, match=message):
        _found(values)


def test_the_bare_questions_of_copa_are_asked_in_words():
    assert asked("The man fell.", "cause") == "What was the cause?"
    assert asked("The man fell.", "Effect") == "What happened as a result?"
    assert asked("那人打开水龙头。", "effect") == "结果发生了什么？"
    assert asked("那人打开水龙头。", "谁？") == "谁？"
    assert asked("A causes B.", "What is the cause?") == "What is the cause?"
