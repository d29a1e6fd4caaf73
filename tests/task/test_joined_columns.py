"""Texts of several columns in every family that reads a text: the same tokens as from one column that says it whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from weft.core.example import Encoded, Purpose, Row
from weft.data.joined import named
from weft.errors import DataError
from weft.evaluate.ask import from_rows
from weft.evaluate.details import question
from weft.task.registry import FAMILIES

PARTS = [("a cat", "sleeps"), ("the dog", "runs"), ("这电影", "很好"), ("john", "likes paris")]
TEMPLATE = "{who}: {does.what}"
WHOLE = [f"{who}: {what}" for who, what in PARTS]

# kind, options, role, and what each row has beside the text
CASES: dict[str, tuple[str, dict[str, Any], str, list[dict[str, Any]]]] = {
    "classification": ("classification", {"pooling": "mean"}, "text", [{"label": one} for one in "abab"]),
    "pair": (
        "classification",
        {"pooling": "mean", "columns": {"text": "first"}},
        "pair",
        [{"first": "who", "label": one} for one in "abab"],
    ),
    "regression": ("regression", {"pooling": "mean"}, "text", [{"score": one} for one in (1.5, 2, 3, 4)]),
    "ordinal": ("ordinal", {"pooling": "mean"}, "text", [{"stars": one} for one in (1, 2, 3, 1)]),
    "choice": (
        "choice",
        {"pooling": "mean"},
        "text",
        [{"choices": ["red", "one"], "label": one} for one in (0, 1, 1, 0)],
    ),
    "choice question": (
        "choice",
        {"pooling": "mean"},
        "question",
        [{"premise": "a book", "choices": ["red", "one"], "label": one} for one in (0, 1, 1, 0)],
    ),
    "qa": (
        "qa",
        {},
        "question",
        [{"context": "mary is in london", "answers": ["london"], "start": 11} for _ in range(4)],
    ),
    "instruction": ("generation", {}, "instruction", [{"output": one} for one in ("x", "y", "z", "好")]),
    "output": ("generation", {}, "output", [{"instruction": one} for one in ("x", "y", "z", "好")]),
    "plain": ("generation", {}, "text", [{} for _ in range(4)]),
}


def both(kit: Any, name: str) -> tuple[Any, list[Row], Any, list[Row]]:
    """Return the task on rows whose text is in two columns, its rows, and the same with the text whole."""
    kind, options, role, rest = CASES[name]
    columns = options.get("columns", {})
    apart = [
        {"who": who, "does": {"what": what}, **row} for (who, what), row in zip(PARTS, rest, strict=True)
    ]
    whole = [{"one text": text, **row} for text, row in zip(WHOLE, rest, strict=True)]
    tasks = [
        kit.fit(kind, rows, **{**options, "columns": {**columns, role: column}})
        for rows, column in ((apart, TEMPLATE), (whole, "one text"))
    ]
    return tasks[0], kit.rows(apart), tasks[1], kit.rows(whole)


@pytest.mark.parametrize("name", CASES)
def test_the_tokens_are_those_of_the_whole_text(kit: Any, name: str):
    task, apart, other, whole = both(kit, name)
    tokenizer = kit.story if task.kind == "generation" else kit.words
    again = FAMILIES[task.kind].from_config("t", json.loads(json.dumps(task.config())))
    for purpose in Purpose:
        found = task.encode(apart, tokenizer, purpose)
        assert all(isinstance(one, Encoded) for one in found)
        expected = other.encode(whole, tokenizer, purpose)
        assert [(one.tokens, one.gold) for one in found] == [(one.tokens, one.gold) for one in expected]
        assert [one.texts for one in again.encode(apart, tokenizer, purpose)] == [one.texts for one in found]
    assert task.config()["columns"][CASES[name][2]] == TEMPLATE


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("output", "plain")])
def test_raw_rows_of_a_file_are_asked_as_they_are(kit: Any, name: str):
    """What a bundle knows of a task is its config: rows of a file then need the columns that the text is made of."""
    fitted, apart, *_ = both(kit, name)
    task = FAMILIES[fitted.kind].from_config("t", fitted.config())
    tokenizer = kit.story if task.kind == "generation" else kit.words
    found = from_rows({"t": task}, apart, {}, what="new.jsonl")
    assert not found.left_out
    asked = task.encode([row for row in found.rows["t"] if row is not None], tokenizer, Purpose.ANSWER)
    expected = task.encode(apart, tokenizer, Purpose.ANSWER)
    assert [one.tokens for one in asked] == [one.tokens for one in expected]
    assert not any({"label", "score", "stars"} & row.values.keys() for row in found.rows["t"] if row)

    bare = [
        Row({key: value for key, value in row.values.items() if key != "does"}, row.where) for row in apart
    ]
    assert (
        "needs column does.what, but new.jsonl has"
        in from_rows({"t": task}, bare, {}, what="new.jsonl").left_out["t"]
    )
    role = CASES[name][2]
    texts = [Row({**row.values, "says": text}, row.where) for row, text in zip(bare, WHOLE, strict=True)]
    named_rows = from_rows({"t": task}, texts, {role: "says"}, what="new.jsonl").rows["t"]
    again = task.encode([row for row in named_rows if row is not None], tokenizer, Purpose.ANSWER)
    assert [one.tokens for one in again] == [one.tokens for one in expected]


def test_a_plain_question_is_the_whole_text(kit: Any):
    task, apart, *_ = both(kit, "classification")
    asked = task.encode([task.ask(WHOLE[0])], kit.words, Purpose.ANSWER)[0]
    assert asked.tokens == task.encode(apart[:1], kit.words, Purpose.ANSWER)[0].tokens


def test_reports_show_the_text_as_it_was_read(kit: Any):
    task, apart, *_ = both(kit, "classification")
    assert task.inputs == (TEMPLATE,)
    assert named(TEMPLATE) == ("who", "does.what")
    assert [question(row, task.inputs) for row in apart] == WHOLE


def test_a_row_whose_columns_are_all_empty_is_dropped(kit: Any):
    task, *_ = both(kit, "classification")
    rows = [Row({"who": "", "does": {"what": None}, "label": "a"}, "f:1"), Row({"label": "a"}, "f:2")]
    assert [one.reason for one in task.encode(rows, kit.words, Purpose.LEARN)] == ["empty text"] * 2


@pytest.mark.parametrize(
    ("kind", "role"), [("tagging", "tokens"), ("tagging", "tags"), ("qa", "context"), ("choice", "choices")]
)
def test_what_is_no_free_text_is_one_column(kit: Any, kind: str, role: str):
    """Places count characters of a context, and tags count words: neither can be put together."""
    rows = [dict(row) for row in kit.samples[kind].rows]
    column = next(iter(rows[0]))
    with pytest.raises(DataError, match=rf"the column for {role} must be one column"):
        kit.fit(kind, rows, columns={role: f"{{{column}}}!"})
