"""Two texts are the same, or they are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.data.text import normalise


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Good film", "good  film\n"),
        ("ｇｏｏｄ　ｆｉｌｍ", "good film"),
        ("Straße", "STRASSE"),
        ("e\u0301te\u0301", "été"),
        ("ﬁne", "fine"),
        ("①", "1"),
        ("电影，好看", "电影,好看"),
        ("a\u00a0b", "a b"),
    ],
)
def test_equal_texts_are_equal(text: str, same: str):
    assert normalise(text) == normalise(same)


@pytest.mark.parametrize(
    ("text", "other"), [("good film", "good films"), ("a b", "ab"), ("好", "坏"), ("é", "e")]
)
def test_different_texts_stay_different(text: str, other: str):
    assert normalise(text) != normalise(other)


@given(st.text())
def test_twice_changes_nothing_more(text: str):
    once = normalise(text)
    assert normalise(once) == once
    assert once == once.strip()


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_the_short_way_for_ascii_is_the_long_way(text: str):
    sign = "é"
    assert normalise(f"{text} {sign}") == f"{normalise(text)} {sign}".strip()
