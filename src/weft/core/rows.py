"""What is one for each row of a batch: means over its tokens, and back again.

Legend: B rows, N positions of a module's input, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.core.routing import Routing


def row_means(values: Tensor, routing: Routing | None) -> Tensor:
    """Return the mean over each row's own tokens, shape (B, C); sums are at least fp32.

    Args:
        values: of a module's tokens, shape (..., C).
        routing: of the batch; None where every position of a grid (B, L, C) is a token.
    """
    if routing is None:
        return values.flatten(0, -3).mean(-2) if values.dim() > 2 else values.mean(0, keepdim=True)
    flat_NC = values.flatten(0, -2).to(torch.promote_types(values.dtype, torch.float32))
    rows_N = routing.rows_N(values.shape[:-1], values.device)
    count = len(routing.rows) + 1  # what belongs to no row comes last
    sums_BC = flat_NC.new_zeros(count, flat_NC.shape[1]).index_add(0, rows_N, flat_NC)
    tokens_B1 = flat_NC.new_zeros(count, 1).index_add(0, rows_N, flat_NC.new_ones(len(rows_N), 1))
    return (sums_BC / tokens_B1.clamp(min=1))[:-1].to(values.dtype)


def at_tokens(values_BC: Tensor, leading: Sequence[int], routing: Routing | None) -> Tensor:
    """Return each row's values at its positions, shape (*leading, C), zero where there is padding.

    Args:
        values_BC: one for each row.
        leading: dimensions of the module's input but the last.
        routing: as in ``row_means``.
    """
    if routing is None:
        return values_BC.unsqueeze(-2).expand(-1, leading[-1], -1).reshape(*leading, -1)
    rows_N = routing.rows_N(leading, values_BC.device)
    return torch.cat([values_BC, values_BC.new_zeros(1, values_BC.shape[1])])[rows_N].view(*leading, -1)
