"""Attention over rows laid end to end in plain torch: for every device and type, and what the kernels are tested by.

Rows of like length share one padded grid. All grids are one gather away from the tokens, and back.

Shapes: T tokens of all rows, G places in all grids, H query heads, K key/value heads, D head width; B rows of one
grid, L its length.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weft.native.counter import draw, extend, key_of

_ROUND = 16


@dataclass(frozen=True, slots=True)
class Drop:
    """Dropout of attention weights: ``rate`` of them become zero, the others grow by 1 / (1 - rate).

    Which ones is a pure function of (seed, row, head, query, key): the backward pass draws them again.
    """

    rate: float = 0.0
    seed: int = 0


NO_DROP = Drop()


@dataclass(frozen=True, slots=True)
class Pattern:
    """Everything about one call but its tensors; see :func:`attention`."""

    starts: Tensor
    max_length: int
    scale: float
    window: tuple[int, int] = (-1, -1)
    drop: Drop = NO_DROP


@dataclass(frozen=True, slots=True)
class _Grid:
    """Rows that share a grid: which, where their places lie in G, and which token each place shows."""

    rows_B: Tensor
    places: slice
    tokens_BL: Tensor
    inside_BL: Tensor


def plain(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, pattern: Pattern) -> Tensor:
    """Return what :func:`weft.native.attention.attention` returns; the softmax is at least fp32."""
    grids = _grids(pattern.starts)
    if not grids:
        return q_THD.new_empty(q_THD.shape)
    device = q_THD.device
    token_G = torch.cat([grid.tokens_BL.flatten() for grid in grids])
    inside_G = torch.cat([grid.inside_BL.flatten() for grid in grids])
    place_T = torch.empty(q_THD.shape[0], dtype=torch.int64)
    place_T[token_G[inside_G]] = inside_G.nonzero()[:, 0]
    token_G, place_T = token_G.to(device), place_T.to(device)
    q_GHD, k_GKD, v_GKD = (_ToGrids.apply(x, token_G, place_T) for x in (q_THD, k_TKD, v_TKD))
    outs = [_attend(grid, (q_GHD, k_GKD, v_GKD), pattern) for grid in grids]
    return _FromGrids.apply(torch.cat(outs), place_T)


def _attend(grid: _Grid, qkv: tuple[Tensor, Tensor, Tensor], pattern: Pattern) -> Tensor:
    """Return the outputs of one grid's places, (B * L, H, D)."""
    q_BHLD, k_BKLD, v_BKLD = (x[grid.places].unflatten(0, grid.tokens_BL.shape).transpose(1, 2) for x in qkv)
    visible_BLL = _visible(grid.inside_BL, pattern.window).to(q_BHLD.device)
    weights_BHLL = _weights(q_BHLD, k_BKLD, visible_BLL, pattern, grid.rows_B)
    return (weights_BHLL @ _repeat(v_BKLD, q_BHLD.shape[1])).transpose(1, 2).flatten(0, 1)


class _ToGrids(torch.autograd.Function):
    """Tokens to places. Padding places get no gradient, so each token's comes from one place: a gather, no sum."""

    @staticmethod
    def forward(ctx: Any, x_THD: Tensor, token_G: Tensor, place_T: Tensor) -> Tensor:
        ctx.save_for_backward(place_T)
        return x_THD.index_select(0, token_G)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class _FromGrids(torch.autograd.Function):
    """Places to tokens; padding places get zero gradient."""

    @staticmethod
    def forward(ctx: Any, x_GHD: Tensor, place_T: Tensor) -> Tensor:
        ctx.save_for_backward(place_T)
        ctx.num_places = x_GHD.shape[0]
        return x_GHD.index_select(0, place_T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_GHD = grads[0].new_zeros((ctx.num_places, *grads[0].shape[1:]))
        return grad_GHD.index_copy(0, ctx.saved_tensors[0], grads[0]), None


def _grids(starts: Tensor) -> list[_Grid]:
    """Return a grid for every group of rows whose lengths round up to the same number."""
    lengths: list[int] = starts.diff().tolist()
    groups: dict[int, list[int]] = defaultdict(list)
    for row, length in enumerate(lengths):
        if length:
            groups[-(-length // _ROUND)].append(row)
    grids: list[_Grid] = []
    end = 0
    for rows in groups.values():
        rows_B = torch.tensor(rows)
        first_B = starts[rows_B].long()
        length_B = starts[rows_B + 1].long() - first_B
        at_L = torch.arange(int(length_B.max()))
        # Padding repeats the row's own last token: nothing of another row, NaN included, gets near.
        tokens_BL = first_B[:, None] + torch.minimum(at_L, length_B[:, None] - 1)
        places = slice(end, end + tokens_BL.numel())
        grids.append(_Grid(rows_B, places, tokens_BL, at_L < length_B[:, None]))
        end = places.stop
    return grids


def _visible(inside_BL: Tensor, window: tuple[int, int]) -> Tensor:
    """Return which key each query may see; a padding query sees all, for a softmax over nothing would be NaN."""
    at_L = torch.arange(inside_BL.shape[1])
    offset_LL = at_L[None, :] - at_L[:, None]
    left, right = window
    near_LL = (offset_LL >= -left if left >= 0 else offset_LL == offset_LL) & (
        offset_LL <= right if right >= 0 else offset_LL == offset_LL
    )
    return (near_LL & inside_BL[:, None, :]) | ~inside_BL[:, :, None]


def _weights(q_BHLD: Tensor, k_BKLD: Tensor, visible_BLL: Tensor, pattern: Pattern, rows_B: Tensor) -> Tensor:
    scores_BHLL = (q_BHLD * pattern.scale) @ _repeat(k_BKLD, q_BHLD.shape[1]).transpose(2, 3)
    wide = torch.promote_types(scores_BHLL.dtype, torch.float32)
    hidden_BHLL = scores_BHLL.masked_fill(~visible_BLL[:, None], float("-inf"))
    weights_BHLL = hidden_BHLL.softmax(-1, dtype=wide)
    if pattern.drop.rate > 0.0:
        weights_BHLL = weights_BHLL * _kept(weights_BHLL, rows_B, pattern)
    return weights_BHLL.to(q_BHLD.dtype)


def _kept(weights_BHLL: Tensor, rows_B: Tensor, pattern: Pattern) -> Tensor:
    """Return 0 or 1 / (1 - dropout) per weight: the same bits as ``Drop`` in ``kernels/attention.cpp``."""
    device = weights_BHLL.device
    _, heads, length, _ = weights_BHLL.shape
    at_L = torch.arange(length, device=device)
    first, second = key_of(pattern.drop.seed)
    key = (torch.tensor(first, device=device), torch.tensor(second, device=device))
    key = extend(key, rows_B.to(device)[:, None, None])
    key = extend(key, torch.arange(heads, device=device)[:, None])
    key = extend(key, at_L)
    bits_BHLL = draw((key[0][..., None], key[1][..., None]), at_L)
    keep = torch.tensor(1.0 - pattern.drop.rate, dtype=torch.float32).item()  # as the kernel holds it
    return (bits_BHLL >= min(int((1.0 - keep) * 2**32), 2**32 - 1)).to(weights_BHLL.dtype) / keep


def _repeat(x_BKLD: Tensor, heads: int) -> Tensor:
    return x_BKLD if x_BKLD.shape[1] == heads else x_BKLD.repeat_interleave(heads // x_BKLD.shape[1], dim=1)
