"""Words in and out of text, English and Chinese."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.task.words import listed, text_of, words_like, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("John lives in Paris.", "John lives in Paris ."),
        ("He left the U.S.", "He left the U.S."),
        ('He said: "Dr. Smith (Acme Inc.) is in."', 'He said : " Dr. Smith ( Acme Inc. ) is in . "'),
        ("EU rejects German call", "EU rejects German call"),
        ("already split , is n't it ?", "already split , is n't it ?"),
        ("don't stop-gap 3.5%", "don't stop-gap 3.5%"),
        ("我在上海。", "我 在 上 海 。"),
        ("我用iPhone手机", "我 用 iPhone 手 机"),
        ("...", "..."),
    ],
)
def test_a_sentence_is_split_as_corpora_are(text, words):
    assert words_of(text) == tuple(words.split())


@settings(deadline=None)
@given(st.text())
def test_splitting_loses_nothing_but_blanks(text):
    assert "".join(words_of(text)) == "".join(text.split())


def test_tags_decide_whether_a_string_is_words_or_characters():
    assert words_like("a b c", 3) == ("a", "b", "c")
    assert words_like("我在上海", 4) == tuple("我在上海")
    assert words_like("我 在 上海", 3) == ("我", "在", "上海")
    assert words_like("a b", 5) == ("a", "b")
    assert words_like(["New York", 7], 2) == ("New York", "7")


def test_cells_of_list_columns():
    assert listed(np.array(["a", "b"])) == ["a", "b"]
    assert listed(("a",)) == ["a"]
    assert listed("a b") == "a b"
    assert [listed(value) for value in (None, "", "  ", 3)] == [None] * 4


def test_words_become_text_again():
    assert text_of(["New", "York"]) == "New York"
    assert text_of(list("上海市")) == "上海市"
    assert text_of(["在", "New", "York", "住"]) == "在 New York 住"
    assert text_of([]) == ""
