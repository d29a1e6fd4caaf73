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
