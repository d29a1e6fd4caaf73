"""An encoded row is a value; its bytes and its key follow from tokens and segments alone."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.example import Dropped, Encoded, by_row

TOKENS = st.lists(st.integers(0, 2**31), max_size=12).map(tuple)


def _row(tokens, segments=None, where="f:1"):
    return Encoded(tokens, segments, target=None, gold="a", where=where)


@given(TOKENS)
def test_bytes_are_the_tokens_as_int64(tokens):
    row = _row(tokens, tuple(token % 2 for token in tokens))
    assert np.frombuffer(row.token_bytes, np.int64).tolist() == list(tokens)
    assert np.frombuffer(row.segment_bytes, np.int64).tolist() == [token % 2 for token in tokens]
    assert _row(tokens).segment_bytes == b""


@given(TOKENS, TOKENS)
def test_keys_are_equal_where_the_trunk_cannot_tell_rows_apart(one, other):
    assert (_row(one).key == _row(other, where="g:2").key) is (one == other)
    assert 0 <= _row(one).key < 2**64


def test_what_is_a_token_and_what_a_segment_is_part_of_the_key():
    keys = {_row((1, 2), (0, 0)).key, _row((1, 2), (0, 1)).key, _row((1, 2)).key, _row((1, 2, 0, 0)).key}
    assert len(keys) == 4


def test_a_changed_row_has_a_key_of_its_own_and_nothing_can_be_changed_in_place():
    row = _row((1, 2))
    longer = replace(row, tokens=(1, 2, 3))
    assert longer.key == _row((1, 2, 3)).key != row.key
    with pytest.raises(FrozenInstanceError):
        row.key = 3
    assert row == _row((1, 2))
    assert hash(row) == hash(_row((1, 2)))
    assert "bytes" not in repr(row)


def test_results_are_told_apart_by_row_and_each_example_has_a_name_of_its_own():
    blocks = [replace(_row((number,), where="f:1"), part=number) for number in range(3)]
    results = [*blocks, Dropped("f:2", "no text"), _row((7,), where="f:3"), _row((7,), where="f:3")]
    assert by_row(results) == [blocks, [results[3]], [results[4]], [results[5]]]
    assert by_row([]) == []
    assert [block.name for block in blocks] == ["f:1", "f:1#1", "f:1#2"]
    assert {block.where for block in blocks} == {"f:1"}
