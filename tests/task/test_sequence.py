"""What counts as the text of a cell."""

from __future__ import annotations

from typing import Any

import pytest

from weft.core.example import Row
from weft.task.sequence import text_in


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("  好 ", "  好 "),
        (" \n", ""),
        (None, ""),
        (5, "5"),
        (0, "0"),
        (False, "False"),
        (["男：你好", "女：再见"], "男：你好\n女：再见"),
        (("a",), "a"),
        ([], ""),
        ([" ", ""], ""),
        ([{"role": "user"}], ""),
        ([1, 2], ""),
        ({"en": "a"}, ""),
        ({}, ""),
    ],
)
def test_the_text_of_a_cell(value: Any, text: str):
    """What Python would print of a list or an object is nobody's text."""
    row = Row({"text": value}, "f:1")
    assert text_in(row, "text") == text
    assert text_in(row, None) == text_in(row, "other") == ""


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{word}: {a}", "bank: a river"),
        ("{a}（{target.span1_text}）", "a river（床）"),
        ("关键词：{list}", "关键词：一; 二"),
        ("{number} {whole} {yes} {none}.", "0.5 3 true ."),
        ("{none} | {absent}", ""),
        ("{target}{list2}", ""),
        ("{{{word}}}", "{bank}"),
    ],
)
def test_the_text_of_several_columns(template: str, text: str):
    """Empty columns are filled with nothing; where all are empty, so is the text, whatever stands between them."""
    values = {
        "word": " bank ",
        "a": "a river",
        "target": {"span1_text": "床"},
        "list": ["一", "", "二"],
        "list2": [],
        "number": 0.5,
        "whole": 3.0,
        "yes": True,
        "none": None,
    }
    assert text_in(Row(values, "f:1"), template) == text


def test_a_text_that_is_asked_whole_is_not_made_again():
    assert text_in(Row({"{a}: {b}": "as it is"}, "question"), "{a}: {b}") == "as it is"
