"""A linear module plus low-rank updates as one differentiable function that makes no second full-size tensor.

Legend: T tokens, I input width, O output width, R rank (of several updates side by side: their sum), S tokens of a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from weft.core import linear
from weft.core.routing import Routing
from weft.native import low_rank as native
from weft.strategy.low_rank_runs import WHOLE, input_gradient, with_runs

_ONE_BLOCK = 10**12
Gate = float | Tensor
"""What the narrow side is multiplied with: a scale, or one for each token and rank (S, R)."""


@dataclass(frozen=True, slots=True)
class Part:
    """Which ranks act on which tokens, and how strongly; None stands for all."""

    gate: Gate
    tokens: slice | None = None
    ranks: slice | None = None


def low_rank(
    module: nn.Module, inputs: Tensor, A_RI: Tensor, B_OR: Tensor, *, parts: Sequence[Part]
) -> Tensor:
    """Return ``module(inputs) + B (gate * A inputs)``, shape (..., O), for a plain linear ``module``.

    Values and gradients are those of the formula; all tensors must have one dtype (``is_uniform``).

    Args:
        module: a plain linear module (``linear.is_plain``); its weight and bias may be trained too.
        inputs: shape (..., I).
        A_RI: down projections.
        B_OR: up projections.
        parts: what is added, one after the other; tokens are positions of the flattened leading dimensions.

    Source: arXiv:2106.09685, section 4.1; the order of products is that of the narrow side first.
    """
    update = _thin(A_RI, B_OR, parts)
    if update is not None:
        return with_runs(module, inputs, (update,), WHOLE)
    if not torch.is_grad_enabled():
        outputs, _ = _forward(module, inputs, A_RI, B_OR, parts)
        return outputs
    weight, bias = linear.values(module)
    return cast(Any, _LowRank.apply)(module, parts, inputs, weight, bias, A_RI, B_OR)


def is_uniform(*tensors: Tensor) -> bool:
    """Return whether ``tensors`` have one dtype and autocast is off: then ``low_rank`` may work in place."""
    first, *others = tensors
    dtype = first.dtype
    for tensor in others:
        if tensor.dtype is not dtype:
            return False
    return not torch.is_autocast_enabled(first.device.type)


def routed_parts(
    routing: Routing,
    inputs: Tensor,
    shape: Sequence[tuple[int, float]],
    *,
    num_shared: int,
    lanes: Sequence[tuple[str, ...]],
) -> tuple[Part, ...]:
    """Return what acts where in a batch whose rows have adapters of their own.

    Args:
        routing: of the batch.
        inputs: of the site, shape (..., I).
        shape: rank and scale of the adapters whose factors lie side by side.
        num_shared: how many of them, the first, act on every row.
        lanes: the names of the others, of each lane at most one for a row (``Routing.lanes``).
    """
    ends = [0, *accumulate(rank for rank, _ in shape)]
    scales_R = inputs.new_tensor([scale for rank, scale in shape for _ in range(rank)])
    starts = zip(ends, shape[:num_shared], strict=False)
    parts = [Part(scale, ranks=slice(start, start + rank)) for start, (rank, scale) in starts]
    leading, before = inputs.shape[:-1], num_shared
    owner_R = torch.tensor(
        [at for at, (rank, _) in enumerate(shape) for _ in range(rank)], device=inputs.device
    )
    for lane in lanes:
        index_N = routing.index_N(leading, lane, inputs.device)
        for block in routing.blocks(leading, lane, overhead=_overhead(inputs)):
            tokens = slice(block.start, block.stop)
            ranks = slice(ends[before + block.first], ends[before + block.last])
            gate_SR = (index_N[tokens, None] == owner_R[ranks] - before) * scales_R[ranks]
            is_all = ranks == slice(0, ends[-1])
            parts.append(Part(gate_SR, tokens, None if is_all else ranks))
        before += len(lane)
    return tuple(parts)


def _overhead(inputs: Tensor) -> int:
    """Return what one block more costs, in products of a token with one adapter of rank 8.

    One core, 1536 tokens, 384 x 384, microseconds dense / blocks of 512 / 256 / 128 / 64 / one a segment:
    bf16 (a pair of thin products costs 40 however small): 4 adapters 229 / 220 / 300 / 507 / 916 / 225,
    16: 725 / 466 / 399 / 517 / 937 / 628, 64: 3071 / 1542 / 1096 / 1054 / 1455 / 2214, 128: 5834 / 3174 / 1721 / 1179 /
    1260 / 2421. fp32: 4: 854 / 469 / 445 / 564 / 506 / 415, 16: 3324 / 1718 / 927 / 610 / 713 / 566, 64: 12658 / 6450 /
    3328 / 1727 / 1037 / 778. With these figures the cheapest cut is the one chosen, or within a tenth of it. On other
    devices launching a product costs more than these products do: one block.
    """
    if inputs.device.type != "cpu":
        return _ONE_BLOCK
    return 200 if inputs.dtype is torch.float32 else 1000


def _thin(A_RI: Tensor, B_OR: Tensor, parts: Sequence[Part]) -> native.Thin | None:
    """Return the one update that acts on all tokens alike if that is all there is and the kernels can read it."""
    if len(parts) != 1:
        return None
    part = parts[0]
    if part.tokens is not None or part.ranks is not None or isinstance(part.gate, Tensor):
        return None
    return native.thin(A_RI, B_OR, part.gate)


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        module: nn.Module,
        parts: Sequence[Part],
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,  # noqa: ARG004 (named so that autograd asks for its gradient)
        A_RI: Tensor,
        B_OR: Tensor,
    ) -> Tensor:
        outputs, narrow = _forward(module, inputs, A_RI, B_OR, parts)
        _, _, _, for_weight, _, for_A, for_B = ctx.needs_input_grad
        ctx.module, ctx.parts, ctx.packed, ctx.shape = module, parts, linear.packed(module), inputs.shape
        kept_TI = inputs.reshape(-1, inputs.shape[-1]) if for_weight or for_A else None
        ctx.save_for_backward(kept_TI, weight, A_RI, B_OR, *(narrow if for_B else ()))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inputs_TI, weight, A_RI, B_OR, *narrow = ctx.saved_tensors
        _, _, for_inputs, for_weight, for_bias, for_A, for_B = ctx.needs_input_grad
        parts: Sequence[Part] = ctx.parts
        grads_TO = gradients.reshape(-1, gradients.shape[-1])
        grads_SR: list[Tensor] = []
        if for_inputs or for_A:
            for part in parts:
                up_RO = _ranks(B_OR.t(), part)
                grads_SR.append(_narrow(_tokens(grads_TO, part), up_RO, part.gate))
        d_inputs = None
        if for_inputs:
            d_inputs_TI = input_gradient(ctx, grads_TO, weight)
            for part, grad_SR in zip(parts, grads_SR, strict=True):
                _tokens(d_inputs_TI, part).addmm_(grad_SR, _ranks(A_RI, part))
            d_inputs = d_inputs_TI.view(ctx.shape)
        d_weight = linear.backward_weight(ctx.module, grads_TO, inputs_TI) if for_weight else None
        d_bias = grads_TO.sum(0) if for_bias else None
        d_A = _factor_gradient(A_RI, parts, grads_SR, inputs_TI) if for_A else None
        # The narrow side first: the product the other way round takes several times as long.
        d_B = _factor_gradient(B_OR.t(), parts, narrow, grads_TO).t() if for_B else None
        return None, None, d_inputs, d_weight, d_bias, d_A, d_B


def _forward(
    module: nn.Module, inputs: Tensor, A_RI: Tensor, B_OR: Tensor, parts: Sequence[Part]
) -> tuple[Tensor, list[Tensor]]:
    """Return the outputs and each part's narrow side."""
    outputs = linear.forward(module, inputs)
    inputs_TI = inputs.reshape(-1, inputs.shape[-1])
    outputs_TO = outputs.view(-1, outputs.shape[-1])
    narrow: list[Tensor] = []
    for part in parts:
        narrow_SR = _narrow(_tokens(inputs_TI, part), _ranks(A_RI, part), part.gate)
        _tokens(outputs_TO, part).addmm_(narrow_SR, _ranks(B_OR.t(), part))
        narrow.append(narrow_SR)
    return outputs, narrow


def _tokens(tensor: Tensor, part: Part) -> Tensor:
    return tensor if part.tokens is None else tensor[part.tokens]


def _ranks(tensor: Tensor, part: Part) -> Tensor:
    return tensor if part.ranks is None else tensor[part.ranks]


def _narrow(wide_SI: Tensor, down_RI: Tensor, gate: Gate) -> Tensor:
    """Return ``gate * (wide down^T)`` (S, R); the scale goes onto R values a token instead of O."""
    if wide_SI.dtype is torch.float32:
        down_RI = down_RI.contiguous()  # MKL multiplies with long rows 2.4 times as fast as with long columns
    return (wide_SI @ down_RI.t()).mul_(gate)


def _factor_gradient(
    factor_RI: Tensor, parts: Sequence[Part], narrow: Sequence[Tensor], wide_TI: Tensor
) -> Tensor:
    """Return the sum over ``parts`` of ``narrow^T wide``, each at its ranks, in the shape of ``factor_RI``."""
    if len(parts) == 1 and parts[0].ranks is None:
        return narrow[0].t() @ _tokens(wide_TI, parts[0])
    grads_RI = factor_RI.new_zeros(factor_RI.shape)
    for part, narrow_SR in zip(parts, narrow, strict=True):
        _ranks(grads_RI, part).addmm_(narrow_SR.t(), _tokens(wide_TI, part))
    return grads_RI
