"""Negative log-likelihood over a large vocabulary whose gradient takes the place of the logits.

Legend: R rows, V vocabulary.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from weft.native.library import Library, use_native

IGNORED = -100
"""The label of a row that counts nothing."""


def cross_entropy(logits_RV: Tensor, labels_R: Tensor, weights_R: Tensor | None = None) -> Tensor:
    """Return the summed negative log-likelihood of ``labels_R`` in nats, a scalar of at least fp32.

    Softmax and sums are in fp32 (in fp64 for fp64 logits), gradients in the dtype of the logits. Compiled, in fp32
    and bf16 on the CPU, no second tensor of that size is made: where a gradient is wanted, it is written over the
    logits, so what made them must not have kept them; torch says so when it did.

    Args:
        logits_RV: nobody else may read them afterwards.
        labels_R: int64, below V, or ``IGNORED``.
        weights_R: what each row's loss is multiplied by; None for 1.

    Example:
        >>> logits = torch.zeros(2, 4, requires_grad=True)
        >>> loss = cross_entropy(logits * 1.0, torch.tensor([3, IGNORED]))
        >>> round(loss.item(), 4), torch.autograd.grad(loss, logits)[0].tolist()
        (1.3863, [[0.25, 0.25, 0.25, -0.75], [0.0, 0.0, 0.0, 0.0]])
    """
    library = use_native(logits_RV)
    if library is None:
        wide = torch.promote_types(logits_RV.dtype, torch.float32)
        how = "sum" if weights_R is None else "none"
        losses = F.cross_entropy(logits_RV.to(wide), labels_R, reduction=how, ignore_index=IGNORED)
        return losses if weights_R is None else losses @ weights_R.to(losses.dtype)
    if torch.is_grad_enabled() and logits_RV.requires_grad:
        return _Native.apply(logits_RV, labels_R, weights_R, library)
    return _total(logits_RV.contiguous(), labels_R, weights_R, library, wants_gradient=False)


def _total(
    logits_RV: Tensor, labels_R: Tensor, weights_R: Tensor | None, library: Library, *, wants_gradient: bool
) -> Tensor:
    labels_R = labels_R.contiguous()
    count, width = logits_RV.shape
    losses_R = torch.empty(count)
    parallel, threads = library.team()
    library.kernels.weft_cross_entropy(
        *(ctypes.c_void_p(logits_RV.data_ptr()), ctypes.c_void_p(labels_R.data_ptr())),
        *(ctypes.c_int64(count), ctypes.c_int64(width), ctypes.c_int64(logits_RV.dtype == torch.bfloat16)),
        *(ctypes.c_int64(wants_gradient), ctypes.c_void_p(losses_R.data_ptr())),
        *(ctypes.c_void_p(parallel), ctypes.c_int64(threads)),
    )
    return losses_R.sum() if weights_R is None else losses_R @ weights_R


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_RV: Tensor, labels_R: Tensor, weights_R: Tensor | None, library: Library
    ) -> Tensor:
        ctx.grad_RV = logits_RV.detach().contiguous()
        total = _total(ctx.grad_RV, labels_R, weights_R, library, wants_gradient=True)
        if weights_R is not None:
            ctx.grad_RV.mul_(weights_R[:, None].to(ctx.grad_RV.dtype))
        torch.autograd.graph.increment_version(logits_RV)  # whoever has kept the logits gets an error for it
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_RV, ctx.grad_RV = ctx.grad_RV, None
        factor = float(grads[0])
        return grad_RV if factor == 1.0 else grad_RV.mul_(factor), None, None, None
