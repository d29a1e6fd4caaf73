"""Means over the tokens of rows and back: packed, padded, rounded up, and on a grid that nobody routes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.core.layout import Layout
from weft.core.routing import NONE, Routing
from weft.core.rows import at_tokens, row_means


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), extra=st.integers(0, 5))
def test_packed_and_padded_rows_have_the_means_of_their_own_tokens(lengths: list[int], extra: int) -> None:
    rows, width = [NONE] * len(lengths), max(lengths) + extra
    flat_TC = values(sum(lengths), 3)
    pieces = flat_TC.split(lengths)
    expected_BC = torch.stack([piece.mean(0) for piece in pieces])
    packed = Routing.of((), rows, Layout.packed(lengths))
    grown = torch.cat([flat_TC, torch.full((extra, 3), 1e6)])[None]
    padded = Routing.of((), rows, Layout.padded(lengths))
    grid = torch.full((len(lengths), width, 3), 1e6)
    for row, piece in enumerate(pieces):
        grid[row, : len(piece)] = piece
    for routing, given_values in ((packed, grown), (padded, grid)):
        means_BC = row_means(given_values, routing)
        torch.testing.assert_close(means_BC, expected_BC)
        back = at_tokens(means_BC, given_values.shape[:-1], routing)
        assert back.shape == given_values.shape
        found = back[0].split([*lengths, extra])[:-1] if routing is packed else [
            row[:length] for row, length in zip(back, lengths, strict=True)
        ]  # fmt: skip
        for piece, mean_C in zip(found, expected_BC, strict=True):
            torch.testing.assert_close(piece, mean_C.expand_as(piece))
        rest = back[0, sum(lengths) :] if routing is packed else back[:, max(lengths) :]
        assert not rest.any()


def test_without_a_routing_a_grid_is_full_of_tokens() -> None:
    grid = values(2, 5, 3)
    assert torch.equal(row_means(grid, None), grid.mean(1))
    assert torch.equal(at_tokens(grid.mean(1), (2, 5), None), grid.mean(1, keepdim=True).expand(2, 5, 3))
    assert torch.equal(row_means(grid[0], None), grid[:1].mean(1))
    assert torch.equal(at_tokens(grid[:1].mean(1), (5,), None), grid[:1].mean(1).expand(5, 3))


def test_sums_of_half_precision_are_taken_in_fp32() -> None:
    ones = torch.ones(1, 4000, 1, dtype=torch.bfloat16)
    routing = Routing.of((), [NONE], Layout.packed([4000]))
    assert row_means(ones, routing).item() == 1.0  # 256 in bf16, for 257 is none of its numbers
    assert row_means(ones, routing).dtype is torch.bfloat16


def test_rows_of_positions_are_found_once() -> None:
    routing = Routing.of((), [NONE, NONE], Layout.packed([2, 1]))
    cpu = torch.device("cpu")
    assert routing.rows_N((1, 5), cpu).tolist() == [0, 0, 1, 2, 2]
    assert routing.rows_N((1, 5), cpu) is routing.rows_N((1, 5), cpu)
    assert routing.rows_N((2, 1), cpu).tolist() == [0, 1]
    assert Routing.uniform(("a",), 0).rows_N((2, 2), cpu).tolist() == [0] * 4


def test_gradients_are_those_of_means() -> None:
    flat = values(1, 6, 1).double().requires_grad_()
    routing = Routing.of((), [NONE, NONE], Layout.packed([4, 2]))
    assert torch.autograd.gradcheck(lambda one: at_tokens(row_means(one, routing), (1, 6), routing), (flat,))
