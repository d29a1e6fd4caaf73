"""A linear module plus low-rank updates as one differentiable function that makes no second full-size tensor.

Legend: T tokens, I input width, O output width, R rank (of several updates laid side by side: their sum).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from weft.core import linear


def low_rank(module: nn.Module, inputs: Tensor, A_RI: Tensor, B_OR: Tensor, *, scale: float) -> Tensor:
    """Return ``module(inputs) + scale * B A inputs``, shape (..., O), for a plain linear ``module``.

    Values and gradients are those of the formula; all tensors must have one dtype (``is_uniform``).

    Args:
        module: a plain linear module (``linear.is_plain``); its weight and bias may be trained too.
        inputs: shape (..., I).
        A_RI: down projections.
        B_OR: up projections.
        scale: of the update.

    Source: arXiv:2106.09685, section 4.1; the order of products is that of the narrow side first.
    """
    weight, bias = module._parameters["weight"], module._parameters.get("bias")
    if not torch.is_grad_enabled():
        inputs_TI = inputs.reshape(-1, inputs.shape[-1])
        return _forward(module, inputs, _narrow(inputs_TI, A_RI, scale), B_OR)
    return cast(Any, _LowRank.apply)(module, scale, inputs, weight, bias, A_RI, B_OR)


def is_uniform(*tensors: Tensor) -> bool:
    """Return whether ``tensors`` have one dtype and autocast is off: then ``low_rank`` may work in place."""
    first = tensors[0]
    if torch.is_autocast_enabled(first.device.type):
        return False
    return all(tensor.dtype is first.dtype for tensor in tensors)


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        module: nn.Module,
        scale: float,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,  # noqa: ARG004 (named so that autograd asks for its gradient)
        A_RI: Tensor,
        B_OR: Tensor,
    ) -> Tensor:
        inputs_TI = inputs.reshape(-1, inputs.shape[-1])
        narrow_TR = _narrow(inputs_TI, A_RI, scale)
        _, _, _, for_weight, _, for_A, for_B = ctx.needs_input_grad
        ctx.module, ctx.scale, ctx.packed, ctx.shape = module, scale, linear.packed(module), inputs.shape
        ctx.save_for_backward(
            inputs_TI if for_weight or for_A else None, narrow_TR if for_B else None, weight, A_RI, B_OR
        )
        return _forward(module, inputs, narrow_TR, B_OR)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inputs_TI, narrow_TR, weight, A_RI, B_OR = ctx.saved_tensors
        _, _, for_inputs, for_weight, for_bias, for_A, for_B = ctx.needs_input_grad
        grads_TO = gradients.reshape(-1, gradients.shape[-1])
        grads_TR = _narrow(grads_TO, B_OR.t(), ctx.scale) if for_inputs or for_A else None
        d_inputs = None
        if for_inputs:
            d_inputs = _input_gradient(ctx, grads_TO, weight).addmm_(grads_TR, A_RI).view(ctx.shape)
        d_weight = linear.backward_weight(ctx.module, grads_TO, inputs_TI) if for_weight else None
        d_bias = grads_TO.sum(0) if for_bias else None
        d_A = grads_TR.t() @ inputs_TI if for_A and grads_TR is not None else None
        # The narrow side first: the product the other way round takes several times as long.
        d_B = (narrow_TR.t() @ grads_TO).t() if for_B else None
        return None, None, d_inputs, d_weight, d_bias, d_A, d_B


def _forward(module: nn.Module, inputs: Tensor, narrow_TR: Tensor, B_OR: Tensor) -> Tensor:
    outputs = linear.forward(module, inputs)
    outputs.view(-1, outputs.shape[-1]).addmm_(narrow_TR, B_OR.t())
    return outputs


def _narrow(wide_TI: Tensor, down_RI: Tensor, scale: float) -> Tensor:
    """Return ``scale * wide down^T`` (T, R); the scale goes onto R values a token instead of O."""
    if wide_TI.dtype is torch.float32:
        down_RI = down_RI.contiguous()  # MKL multiplies with long rows 2.4 times as fast as with long columns
    narrow_TR = wide_TI @ down_RI.t()
    return narrow_TR if scale == 1 else narrow_TR.mul_(scale)


def _input_gradient(ctx: Any, grads_TO: Tensor, weight: Tensor) -> Tensor:
    if ctx.packed is not None:
        return ctx.packed.backward(grads_TO)
    return linear.backward_input(ctx.module, grads_TO, weight=weight)
