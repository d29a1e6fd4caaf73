"""Columns by role: the conventions of the field, and what the recipe says instead."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.example import Row
from weft.data import columns as known
from weft.data.columns import (
    INPUT,
    INSTRUCTION,
    LABEL,
    MESSAGES,
    OUTPUT,
    PAIR,
    SCORE,
    SYSTEM,
    TAGS,
    TEXT,
    TOKENS,
    Role,
    resolve,
)
from weft.errors import DataError

ALIASES = {name: value for name, value in vars(known).items() if name.isupper() and isinstance(value, tuple)}

SINGLE = (Role("text", TEXT), Role("label", LABEL))
PAIRED = (Role("text", TEXT), Role("pair", PAIR, required=False), Role("label", LABEL))
SCORED = (Role("text", TEXT), Role("pair", PAIR, required=False), Role("score", SCORE))
TAGGED = (Role("tokens", TOKENS), Role("tags", TAGS))
INSTRUCTED = (Role("instruction", INSTRUCTION), Role("input", INPUT, required=False), Role("output", OUTPUT))
CHAT = (Role("messages", MESSAGES), Role("system", SYSTEM, required=False))


def rows_with(*columns: str) -> list[Row]:
    return [Row(dict.fromkeys(columns, "x"), "x:1")]


def found(roles: tuple[Role, ...], *columns: str) -> tuple[str | None, ...]:
    return tuple(resolve(rows_with(*columns), roles, {}, what="x").values())


@pytest.mark.parametrize(
    ("roles", "columns", "expected"),
    [
        (SINGLE, ("text", "label", "domain"), ("text", "label")),
        (SINGLE, ("label", "sentence", "idx"), ("sentence", "label")),
        (SINGLE, ("id", "Review", "Sentiment"), ("Review", "Sentiment")),
        (SINGLE, ("utterance", "intent"), ("utterance", "intent")),
        (SINGLE, ("question", "category"), ("question", "category")),
        (SINGLE, ("text", "labels", "domain"), ("text", "labels")),
        (SINGLE, ("文本", "标签"), ("文本", "标签")),
        (SINGLE, ("编号", "评论", "情感"), ("评论", "情感")),
        (PAIRED, ("text", "label"), ("text", None, "label")),
        (PAIRED, ("text1", "text2", "label", "genre"), ("text1", "text2", "label")),
        (PAIRED, ("premise", "hypothesis", "label"), ("premise", "hypothesis", "label")),
        (PAIRED, ("question1", "question2", "label"), ("question1", "question2", "label")),
        (PAIRED, ("Sentence A", "sentence-b", "label"), ("Sentence A", "sentence-b", "label")),
        (PAIRED, ("句子1", "句子2", "标签"), ("句子1", "句子2", "标签")),
        (SCORED, ("sentence1", "sentence2", "label", "idx"), ("sentence1", "sentence2", "label")),
        (SCORED, ("text1", "text2", "score", "label"), ("text1", "text2", "score")),
        (SCORED, ("句子1", "句子2", "分数"), ("句子1", "句子2", "分数")),
        (SCORED, ("review", "stars"), ("review", None, "stars")),
        (TAGGED, ("tokens", "tags", "label"), ("tokens", "tags")),
        (TAGGED, ("id", "tokens", "pos_tags", "chunk_tags", "ner_tags"), ("tokens", "ner_tags")),
        (TAGGED, ("words", "labels"), ("words", "labels")),
        (TAGGED, ("词", "标注"), ("词", "标注")),
        (INSTRUCTED, ("instruction", "input", "output"), ("instruction", "input", "output")),
        (INSTRUCTED, ("input", "output"), ("input", None, "output")),
        (INSTRUCTED, ("prompt", "completion", "tests"), ("prompt", None, "completion")),
        (INSTRUCTED, ("query", "response"), ("query", None, "response")),
        (INSTRUCTED, ("source", "target"), ("source", None, "target")),
        (INSTRUCTED, ("question", "answer"), ("question", None, "answer")),
        (INSTRUCTED, ("指令", "输入", "输出"), ("指令", "输入", "输出")),
        (CHAT, ("messages", "tools"), ("messages", None)),
        (CHAT, ("system", "conversations"), ("conversations", "system")),
        (CHAT, ("对话", "系统"), ("对话", "系统")),
    ],
)
def test_conventions(roles: tuple[Role, ...], columns: tuple[str, ...], expected: tuple[str | None, ...]):
    assert found(roles, *columns) == expected


@given(st.data())
def test_no_two_roles_share_a_column(data: st.DataObject):
    names = data.draw(st.lists(st.sampled_from(sorted(ALIASES)), min_size=2, max_size=5, unique=True))
    required = data.draw(st.booleans())
    roles = [Role(name, ALIASES[name], required=required) for name in names]
    every = sorted({alias for name in names for alias in ALIASES[name]})
    columns = data.draw(st.lists(st.sampled_from(every), unique=True))
    try:
        chosen = resolve(rows_with(*columns), roles, {}, what="x")
    except DataError:
        assert required
        return
    taken = [column for column in chosen.values() if column is not None]
    assert len(taken) == len(set(taken))
    assert list(chosen) == names
    assert all(column is None or column in ALIASES[name] for name, column in chosen.items())


def test_the_exact_name_comes_before_another_case():
    assert found(SINGLE, "Text", "TEXT", "text", "Label", "LABEL") == ("text", "Label")
    # `label` is not there; of names that differ in case only, an exact later alias wins over a folded earlier one
    assert found(SINGLE, "text", "Label", "intent") == ("text", "intent")


def test_a_required_role_chooses_before_an_optional_one():
    roles = (Role("hint", ("input",), required=False), Role("prompt", ("prompt", "input")))
    assert found(roles, "input") == (None, "input")
    assert found(roles, "input", "prompt") == ("input", "prompt")


def test_any_row_may_have_the_column():
    rows = [Row({"text": "a"}, "x:1"), Row({"text": "b", "label": "pos"}, "x:2")]
    assert resolve(rows, SINGLE, {}, what="x") == {"text": "text", "label": "label"}


def test_the_recipe_wins():
    rows = rows_with("text", "title", "label")
    assert resolve(rows, SINGLE, {"text": "title"}, what="x") == {"text": "title", "label": "label"}


def test_a_column_that_the_recipe_names_is_taken():
    rows = rows_with("text", "title", "label")
    chosen = resolve(rows, PAIRED, {"pair": "text"}, what="x")
    assert chosen == {"text": "title", "pair": "text", "label": "label"}
    with pytest.raises(DataError, match="must have a column for label, but the columns are text, label"):
        resolve(rows_with("text", "label"), SINGLE, {"text": "label"}, what="x")


@pytest.mark.parametrize(
    ("given_columns", "says"),
    [
        ({"text": "txt"}, "task: the column for text must exist, but txt does not. Did you mean 'text'?"),
        ({"txt": "text"}, "task: columns must name a role, but names txt. Did you mean 'text'?"),
        ({"text": "label", "label": "label"}, "both name label"),
        ({"text": "TEXT"}, "must exist"),
    ],
)
def test_what_the_recipe_says_must_be_so(given_columns: dict[str, str], says: str):
    with pytest.raises(DataError) as caught:
        resolve(rows_with("text", "label"), SINGLE, given_columns, what="task")
    assert says in str(caught.value)


def test_a_missing_role_lists_what_is_there():
    with pytest.raises(DataError) as caught:
        resolve(rows_with("a", "b"), SINGLE, {}, what="reviews.csv")
    assert str(caught.value).startswith(
        "reviews.csv: must have a column for text, but the columns are a, b. "
    )
    assert "columns: {text: <column>}" in str(caught.value)
    with pytest.raises(DataError, match="but the columns are none"):
        resolve([Row({}, "x:1")], SINGLE, {}, what="x")


@pytest.mark.parametrize("name", sorted(ALIASES))
def test_no_alias_is_written_twice(name: str):
    folded = [alias.casefold() for alias in ALIASES[name]]
    assert len(set(folded)) == len(folded)
    assert any(not alias.isascii() for alias in folded)


def test_what_is_first_for_one_role_is_first_for_no_other():
    assert len(ALIASES) >= 17
    others = ALIASES.keys() - {"PLAIN"}  # a text as a whole: asked for only where a row has no other role
    for one, other in combinations(sorted(others), 2):
        assert ALIASES[one][0] != ALIASES[other][0]
