"""Cross entropy over a vocabulary, in pieces: the logits of all tokens never exist together, not even in bf16.

The loss of some rows follows from their states and labels alone, and so does its gradient. So each piece is taken
forwards and backwards at once, and what is kept until the backward pass is the gradient itself: D numbers a token
instead of V. Nothing is approximated.

Legend: M tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from weft.core.loss import Loss
from weft.core.outputs import Projection
from weft.native.cross_entropy import IGNORED, cross_entropy

CHUNK_VALUES = 1 << 22  # logits of a piece: 8 MiB in bf16
FEWEST_ROWS = 64  # of a full piece; with fewer, reading the weight takes longer than the products


def token_cross_entropy(
    outputs: Projection, labels_M: Tensor, *, weights_M: Tensor | None = None, rows: int | None = None
) -> Loss:
    """Return the summed negative log-likelihood of ``labels_M`` in nats; the weight is M, whatever the tokens count.

    Products are in the dtype of the output embedding, log-softmax and sums in fp32. Gradients of the output
    embedding's parameters are summed over the pieces in fp32.

    Args:
        outputs: states and output embedding; M may be 0.
        labels_M: tokens, int64.
        weights_M: what each token's loss is multiplied by, fp32; None for 1.
        rows: tokens of a piece; None for as many as ``chunk_rows`` says.

    Example:
        >>> import torch
        >>> output = torch.nn.Linear(3, 4, bias=False)
        >>> loss = token_cross_entropy(Projection(torch.zeros(2, 3), output), torch.tensor([0, 3]))
        >>> loss.weight, round(loss.total.item() / loss.weight, 4)
        (2.0, 1.3863)
    """
    states_MD, output = outputs.states_MD, outputs.output
    parameters = [parameter for parameter in output.parameters() if parameter.requires_grad]
    size = rows or chunk_rows(_vocabulary(output))
    if torch.is_grad_enabled() and (states_MD.requires_grad or parameters):
        total: Tensor = _Pieces.apply(output, (labels_M, weights_M), size, states_MD, *parameters)  # pyright: ignore[reportAssignmentType]
    else:
        total = _sum(states_MD)
        for states_RD, labels_R, weights_R in _pieces(states_MD, labels_M, weights_M, size):
            total += cross_entropy(output(states_RD), labels_R, weights_R)
    return Loss(total, weight=float(labels_M.shape[0]))


def chunk_rows(vocabulary: int) -> int:
    """Return the tokens of a piece for a vocabulary of this size, a multiple of 64.

    Example:
        >>> chunk_rows(32_000), chunk_rows(151_936), chunk_rows(512)
        (128, 64, 8192)
    """
    return max(FEWEST_ROWS, CHUNK_VALUES // vocabulary // FEWEST_ROWS * FEWEST_ROWS)


class _Pieces(torch.autograd.Function):
    """The loss of all pieces, with the gradients of everything that is trained taken along the way."""

    @staticmethod
    def forward(
        ctx: Any,
        output: nn.Module,
        wanted: tuple[Tensor, Tensor | None],
        rows: int,
        states_MD: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        wants_states = ctx.needs_input_grad[3]
        total = _sum(states_MD)
        grad_MD = torch.empty_like(states_MD) if wants_states else None
        sums = [torch.zeros_like(parameter, dtype=_wide(parameter)) for parameter in parameters]
        done = 0
        for states_RD, labels_R, weights_R in _pieces(states_MD, *wanted, rows):
            leaf_RD = states_RD.detach().requires_grad_(wants_states)
            leaves = [leaf_RD, *parameters] if wants_states else parameters
            with torch.enable_grad():
                loss = cross_entropy(output(leaf_RD), labels_R, weights_R)
            grads = torch.autograd.grad(loss, leaves, allow_unused=True)
            total += loss.detach()
            if grad_MD is not None:
                kept = grad_MD[done : done + rows]
                kept.copy_(grads[0][: len(kept)])
            _add(sums, grads[int(wants_states) :])
            done += rows
        ctx.save_for_backward(grad_MD, *sums)
        return total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_total: Tensor
    ) -> tuple[Tensor | None, ...]:
        scaled = [None if grad is None else grad * grad_total.to(grad.dtype) for grad in ctx.saved_tensors]
        return (None, None, None, *scaled)


def _pieces(
    states_MD: Tensor, labels_M: Tensor, weights_M: Tensor | None, rows: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield ``rows`` tokens at a time, the rest filled up with tokens that count nothing to an eighth of a piece.

    The number of tokens changes with every step, and each new shape of a product makes oneDNN build and keep a
    primitive of its own.
    """
    weights = repeat(None) if weights_M is None else weights_M.split(rows)
    for states_RD, labels_R, weights_R in zip(
        states_MD.split(rows), labels_M.split(rows), weights, strict=False
    ):
        extra = -len(labels_R) % max(1, rows // 8)
        if extra:
            padded_R = None if weights_R is None else F.pad(weights_R, (0, extra))
            yield F.pad(states_RD, (0, 0, 0, extra)), F.pad(labels_R, (0, extra), value=IGNORED), padded_R
        elif len(labels_R):
            yield states_RD, labels_R, weights_R


def _add(sums: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    for total, grad in zip(sums, grads, strict=True):
        if grad is not None:
            total += grad


def _sum(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=_wide(like), device=like.device)


def _wide(tensor: Tensor) -> torch.dtype:
    """Return the dtype that sums of ``tensor`` are kept in: fp32, or its own where that is wider."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _vocabulary(output: nn.Module) -> int:
    """Return V of an output embedding: the larger side of its weight, whichever way round it is stored."""
    return max((max(parameter.shape) for parameter in output.parameters()), default=1)
