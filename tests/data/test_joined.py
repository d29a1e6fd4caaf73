"""Texts of several columns: what a template may say, and what it is refused for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.example import Row
from weft.data.columns import Role, resolve
from weft.data.joined import check_rows, holder, is_filled, is_joined, named, pieces, value_of
from weft.errors import DataError
from weft.task.sequence import text_in

WIC = Row({"word": "bank", "sentence1": "a river bank", "sentence2": "a big bank", "label": 0}, "wic.jsonl:1")
TEXT = Role("text", ("text", "sentence1"), is_text=True)
PAIR = Role("pair", ("sentence2",), required=False, is_text=True)
LABEL = Role("label", ("label",))


def test_braces_make_a_template_unless_a_column_is_called_so():
    assert is_joined("{word}")
    assert not is_joined("word")
    assert not is_joined("{word}", ["{word}", "word"])
    given_columns = {"text": "{odd}"}
    row = Row({"{odd}": "x", "label": "y"}, "f:1")
    assert resolve([row], [TEXT, LABEL], given_columns, what="t") == {"text": "{odd}", "label": "label"}


def test_a_column_with_a_brace_in_its_name_is_no_template_where_a_row_lacks_it():
    assert is_filled("{word}: {sentence1}")
    assert not is_filled("a}b")
    assert text_in(Row({"c": "x"}, "f:2"), "a}b") == ""
    assert text_in(Row({"a}b": "x"}, "f:1"), "a}b") == "x"


def test_names_stand_once_and_in_order():
    assert named("{b} {a} {b}") == ("b", "a")
    assert named("plain") == ("plain",)
    assert [tuple(piece) for piece in pieces("{{{a}}}: {the text!r}")] == [
        ("{", False),
        ("a", True),
        ("}", False),
        (": ", False),
        ("the text!r", True),
    ]


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_words_come_back_as_they_are(text: str):
    """Whatever stands outside of the braces is kept sign for sign."""
    template = text.replace("{", "{{").replace("}", "}}") + "{a}"
    *words, last = pieces(template)
    assert "".join(piece.text for piece in words) == text
    assert not any(piece.is_name for piece in words)
    assert last == ("a", True)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{word", "a brace stands alone at character 1"),
        ("word} {word}", "a brace stands alone at character 5"),
        ("{}", "a brace stands alone at character 1"),
        ("{{word}}", "it names no column"),
        ("{wort}: {sentence1}", "the column wort in the text for text must exist, but does not. Did you mean 'word'?"),
        ("{word!r}", "the column word!r in the text for text must exist"),
        ("{word:>10}", "the column word:>10 in the text for text must exist"),
        ("{sentence1[0]}", "the column sentence1[0] in the text for text must exist"),
    ],
)  # fmt: skip
def test_what_is_no_template_is_refused_with_its_place(template: str, says: str):
    with pytest.raises(DataError) as caught:
        resolve([WIC], [TEXT, LABEL], {"text": template}, what="tasks.wic")
    assert str(caught.value).startswith("wic.jsonl:1: tasks.wic: ")
    assert says in str(caught.value)


def test_values_inside_a_column_are_named_with_a_point():
    values = {"target": {"span1_text": "床", "deep": {"er": 5}}, "a.b": "whole"}
    assert value_of(values, "target.span1_text") == "床"
    assert value_of(values, "target.deep.er") == 5
    assert value_of(values, "a.b") == "whole"
    assert value_of(values, "a.b.__class__") is None, "values are looked up, never asked for attributes"
    assert value_of(values, "target.none") is value_of(values, "none.target") is None
    assert holder("target.span1_text", values) == "target"
    assert holder("a.b", values) == "a.b"
    assert holder("b.a", values) is holder("none", values) is None


def test_what_a_template_names_no_other_role_finds():
    """Two of three columns in one text: the third is not the second text, and one column may stand in two texts."""
    both = "{word}: {sentence1} / {sentence2}"
    found = resolve([WIC], [TEXT, PAIR, LABEL], {"text": both}, what="t")
    assert found == {"text": both, "pair": None, "label": "label"}
    given_columns = {"text": "{word}: {sentence1}", "pair": "{word}: {sentence2}"}
    assert resolve([WIC], [TEXT, PAIR, LABEL], given_columns, what="t") == {**given_columns, "label": "label"}


def test_only_texts_are_made_of_several_columns():
    with pytest.raises(
        DataError, match=r"the column for label must be one column, but '\{word\}' is made of"
    ):
        resolve([WIC], [TEXT, PAIR, LABEL], {"label": "{word}"}, what="tasks.wic")


def test_other_rows_must_have_the_columns_too():
    columns = {"text": "{word}: {sentence1}", "pair": None, "label": "label"}
    check_rows(columns, [WIC, Row({}, "wic.jsonl:2")], what="tasks.wic")  # one row has them
    check_rows(columns, [], what="tasks.wic")
    check_rows({"text": "other"}, [WIC], what="tasks.wic")  # plain columns are none of its business
    with pytest.raises(DataError) as caught:
        check_rows(columns, [Row({"sentence1": "x", "text": "y"}, "dev.jsonl:1")], what="tasks.wic")
    assert str(caught.value).startswith(
        "dev.jsonl:1: tasks.wic: the column word in the text for text must exist"
    )
