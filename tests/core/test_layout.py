"""Padded and packed layouts address the same tokens in the same flat order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.core.features import Features, Pooling
from weft.core.layout import Layout

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def states(lengths: list[int], extra: int) -> tuple[Features, Features]:
    """Return the same random states padded (with rubbish in the padding) and packed."""
    generator = torch.Generator().manual_seed(len(lengths))
    flat_TD = torch.randn(sum(lengths), 3, generator=generator)
    width = max(lengths) + extra
    grid_BLD = torch.full((len(lengths), width, 3), 1e6)
    start = 0
    for row, length in enumerate(lengths):
        grid_BLD[row, :length] = flat_TD[start : start + length]
        start += length
    return Features(grid_BLD, Layout.padded(lengths, width)), Features(flat_TD, Layout.packed(lengths))


@given(LENGTHS, st.integers(0, 3))
def test_padded_and_packed_features_agree(lengths: list[int], extra: int) -> None:
    padded, packed = states(lengths, extra)
    assert torch.equal(padded.flat_TD(), packed.flat_TD())
    assert torch.equal(padded.first_BD(), packed.first_BD())
    assert torch.equal(padded.last_BD(), packed.last_BD())
    assert torch.allclose(padded.mean_BD(), packed.mean_BD(), atol=1e-5)


@given(LENGTHS)
def test_row_and_position_follow_from_lengths(lengths: list[int]) -> None:
    layout = Layout.packed(lengths)
    rows = [row for row, length in enumerate(lengths) for _ in range(length)]
    positions = [position for length in lengths for position in range(length)]
    assert layout.row_T().tolist() == rows
    assert layout.position_T().tolist() == positions
    assert layout.num_tokens == sum(lengths)
    assert layout.mask_BL().sum().item() == sum(lengths)


def test_mean_has_the_closed_form() -> None:
    hidden_BLD = torch.tensor([[[1.0], [3.0], [99.0]], [[5.0], [99.0], [99.0]]])
    features = Features(hidden_BLD, Layout.padded([2, 1], 3))
    assert features.mean_BD().tolist() == [[2.0], [5.0]]
    assert features.pooled_BD(Pooling.CLS).tolist() == [[1.0], [5.0]]
    assert features.pooled_BD(Pooling.LAST).tolist() == [[3.0], [5.0]]


def test_pooler_is_used_or_refused() -> None:
    hidden_BLD = torch.ones(1, 1, 2)
    with pytest.raises(ValueError, match="needs a trunk with a pooler"):
        Features(hidden_BLD, Layout.padded([1])).pooled_BD(Pooling.POOLER)
    doubled = Features(hidden_BLD, Layout.padded([1]), pooler=lambda first_BD: 2 * first_BD)
    assert doubled.pooled_BD(Pooling.POOLER).tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("lengths", [[], [0], [2, 0]])
def test_a_row_without_tokens_is_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Layout.packed(lengths)


def test_a_width_below_the_longest_row_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold the longest row of 3"):
        Layout.padded([1, 3], 2)


def test_moving_keeps_the_layout() -> None:
    layout = Layout.padded([2, 1])
    moved = layout.to(torch.device("cpu"))
    assert moved.width == 2
    assert torch.equal(moved.starts_B, layout.starts_B)
