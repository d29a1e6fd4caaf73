"""How text is generated: what ends an answer, whose seed a row draws with, and what does not go together."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.decoding import Decoding, Stops

PLAIN = Decoding(max_new_tokens=8, stop_tokens=(2,))


def by_byte(tokens) -> str:
    """Read tokens as the bytes of UTF-8, as a vocabulary with byte fallback does; those above 255 stand for nothing."""
    return bytes(token for token in tokens if token < 256).decode("utf-8", errors="replace")


def test_text_is_cut_at_the_first_of_several_strings():
    stops = Stops(("###", "\n\n", "。"), by_byte)
    assert stops.cut("one\n\ntwo###") == "one"
    assert stops.cut("好的。再见###") == "好的"
    assert stops.cut("no end") == "no end"
    assert stops.cut("###") == ""


@given(
    st.text(st.sampled_from("ab好。#\n"), max_size=40),
    st.sampled_from([("。",), ("##",), ("b\n", "好")]),
    st.integers(0, 5),
)
def test_an_answer_ends_with_the_token_that_completes_a_string(text, strings, silent):
    stops = Stops(strings, by_byte)
    tokens = [byte for character in text for byte in (*[300] * silent, *character.encode())]
    ended = next((n for n in range(1, len(tokens) + 1) if stops.ends(tokens[:n])), None)
    first = next(
        (n for n in range(1, len(tokens) + 1) if any(string in by_byte(tokens[:n]) for string in strings)),
        None,
    )
    # Of the tokens that stand for nothing only some are allowed for: with more of them an end may be seen later.
    assert ended == first if silent == 0 else (ended is None or (first is not None and ended >= first))


def test_only_the_end_of_a_long_answer_is_read_while_it_has_no_stop():
    read = []

    def noted(tokens):
        read.append(len(tokens))
        return by_byte(tokens)

    stops = Stops(("END",), noted)
    assert not stops.ends([97] * 1000)
    assert max(read) <= 20
    assert stops.ends([97] * 1000 + list(b"END"))
    assert read[-1] == 1003


def test_an_answer_ends_at_its_first_stop_token():
    how = replace(PLAIN, stop_tokens=(2, 5))
    assert how.answer([7, 8, 5, 2, 9]) == [7, 8]
    assert how.answer((7, 8)) == [7, 8]
    assert how.answer([2]) == []


def test_a_row_draws_by_its_own_seed():
    drawn = replace(PLAIN, temperature=1.0, seed=3)
    assert drawn.is_drawn
    assert not PLAIN.is_drawn
    assert drawn.row_seed([1, 2]) == drawn.row_seed((1, 2)) != drawn.row_seed([1, 2, 3])
    assert drawn.row_seed([1, 2]) != replace(drawn, seed=4).row_seed([1, 2])
    assert 0 <= drawn.row_seed([1]) < 2**63


@pytest.mark.parametrize(
    "change", [{"max_new_tokens": 0}, {"beams": 0}, {"stop_tokens": ()}, {"beams": 2, "temperature": 0.5}]
)
def test_what_cannot_be_is_refused(change):
    with pytest.raises(ValueError, match="decoding:"):
        replace(PLAIN, **change)


@pytest.mark.parametrize("strings", [(), ("a", "")])
def test_stop_strings_are_not_empty(strings):
    with pytest.raises(ValueError, match="stop strings:"):
        Stops(strings, by_byte)
