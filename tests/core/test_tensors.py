"""Numbers become the tensors that ``torch.tensor`` would make of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.core.tensors import float32, int64


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_integers_keep_all_their_bits(values):
    made = int64(values)
    assert made.dtype == torch.int64
    assert made.tolist() == values


@pytest.mark.parametrize("values", [[], [0.1, -2.5, 1e-30], [(1.0, 0.0), (0.0, 1.0)]])
def test_floats_are_rounded_as_torch_rounds(values):
    assert torch.equal(float32(values), torch.tensor(values, dtype=torch.float32))


def test_what_is_made_can_be_written_to():
    made = int64([1, 2])
    made += 1
    assert made.tolist() == [2, 3]
