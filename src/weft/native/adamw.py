"""AdamW in one pass over memory for lists of tensors, and the sum of squares that clipping needs."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.native.library import Library, library

SCALARS = 8
"""Floats in a packed step."""


@dataclass(frozen=True, slots=True)
class Step:
    """The scalars of one optimizer step; ``step`` counts from 1."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    step: int

    def packed(self) -> tuple[float, ...]:
        """Return the row of a history: field by field ``struct Scalars`` in ``kernels/adamw.cpp``."""
        return (
            1.0 - self.lr * self.weight_decay,
            1.0 - self.beta1,
            self.beta2,
            1.0 - self.beta2,
            (1.0 - self.beta2**self.step) ** -0.5,
            self.eps,
            self.lr / (1.0 - self.beta1**self.step),
            0.0,
        )


@torch.no_grad()
def adamw(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    *,
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    step: Step,
    twins: Sequence[Tensor | None] | None = None,
    grad_scale: float = 1.0,
) -> None:
    """Apply one step of AdamW (decoupled decay) in place to ``params``, both moments and the twins.

    Args:
        params: fp32 tensors of any shape.
        grads: one gradient each, fp32 or bf16; divided by ``grad_scale`` first.
        exp_avgs: first moments, fp32.
        exp_avg_sqs: second moments, fp32.
        step: scalars of this step.
        twins: bf16 copies that receive the rounded new values, where there is one.
        grad_scale: what the gradients are too large by.

    Source: Loshchilov & Hutter, arXiv 1711.05101, algorithm 2; operations in the order of
    ``torch.optim.AdamW(fused=True)``, from which results differ by less than 1e-6 of their size.

    Example:
        >>> w, m, v = torch.ones(3), torch.zeros(3), torch.zeros(3)
        >>> adamw([w], [torch.ones(3)], exp_avgs=[m], exp_avg_sqs=[v], step=Step(0.1, 0.9, 0.999, 1e-8, 0.0, 1))
        >>> w
        tensor([0.9000, 0.9000, 0.9000])
    """
    kernels = library()
    together = list(zip(params, grads, exp_avgs, exp_avg_sqs, twins or [None] * len(params), strict=True))
    rest = together
    if kernels is not None:
        plain = [parts for parts in together if _is_plain_memory(*parts)]
        rest = [] if len(plain) == len(together) else [one for one in together if not _is_plain_memory(*one)]
        _native_adamw(kernels, plain, step, grad_scale)
    for param, grad, exp_avg, exp_avg_sq, twin in rest:
        _plain_adamw(param, grad.to(param.dtype) / grad_scale, exp_avg, exp_avg_sq, step)
        if twin is not None:
            twin.copy_(param)


def sum_of_squares(grads: Sequence[Tensor]) -> float:
    """Return the sum of the squares of all elements: the square of the norm that clipping looks at.

    Args:
        grads: fp32 or bf16 tensors; the kernels sum in fp32 within blocks and in fp64 over blocks, the same bits
            for any number of threads.

    Example:
        >>> sum_of_squares([torch.tensor([3.0]), torch.tensor([4.0])])
        25.0
    """
    kernels = library()
    native = [grad for grad in grads if kernels is not None and is_gradient(grad)]
    total = sum(
        float(grad.double().square().sum()) for grad in grads if kernels is None or not is_gradient(grad)
    )
    if kernels is None or not native:
        return total
    cells = (_Tensor * len(native))(
        *(_Tensor(grad=g.data_ptr(), count=g.numel(), grad_is_bf16=is_half(g)) for g in native)
    )
    parallel, threads = kernels.team()
    function = kernels.kernels.weft_sum_of_squares
    function.restype = ctypes.c_double
    return total + function(
        cells, ctypes.c_int64(len(native)), ctypes.c_void_p(parallel), ctypes.c_int64(threads)
    )


class _Tensor(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("p", "m", "v", "twin", "grad")),
        *((name, ctypes.c_int64) for name in ("count", "grad_is_bf16", "first_chunk")),
    )


Parts = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]


def _native_adamw(kernels: Library, all_parts: Sequence[Parts], step: Step, grad_scale: float) -> None:
    if not all_parts:
        return
    cells = (_Tensor * len(all_parts))(
        *(
            _Tensor(
                p.data_ptr(),
                m.data_ptr(),
                v.data_ptr(),
                None if w is None else w.data_ptr(),
                g.data_ptr(),
                p.numel(),
                is_half(g),
            )
            for p, g, m, v, w in all_parts
        )
    )
    scalars = (ctypes.c_float * SCALARS)(*step.packed())
    parallel, threads = kernels.team()
    kernels.kernels.weft_adamw(
        *(cells, ctypes.c_int64(len(all_parts)), scalars, ctypes.c_float(grad_scale)),
        *(ctypes.c_void_p(parallel), ctypes.c_int64(threads)),
    )
    touch([x for p, _, m, v, w in all_parts for x in (p, m, v, w) if x is not None])


def touch(tensors: Sequence[Tensor]) -> None:
    """Tell autograd that these were written to, as any torch operation in place does."""
    torch.autograd.graph.increment_version(tensors)


def _plain_adamw(param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: Step) -> None:
    param.mul_(1.0 - step.lr * step.weight_decay)
    exp_avg.lerp_(grad, 1.0 - step.beta1)
    exp_avg_sq.mul_(step.beta2).addcmul_(grad, grad, value=1.0 - step.beta2)
    denominator = exp_avg_sq.sqrt().div_((1.0 - step.beta2**step.step) ** 0.5).add_(step.eps)
    param.addcdiv_(exp_avg, denominator, value=-step.lr / (1.0 - step.beta1**step.step))


def is_half(grad: Tensor) -> bool:
    """Return whether the kernels must read a gradient as bf16."""
    return grad.dtype == torch.bfloat16


def is_gradient(grad: Tensor) -> bool:
    """Return whether the kernels can read a gradient: dense fp32 or bf16 on the CPU."""
    return (
        grad.device.type == "cpu" and grad.is_contiguous() and grad.dtype in (torch.float32, torch.bfloat16)
    )


def _is_plain_memory(
    param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, twin: Tensor | None
) -> bool:
    floats = (param, exp_avg, exp_avg_sq)
    return (
        is_gradient(grad)
        and all(x.dtype == torch.float32 and x.is_contiguous() and x.device.type == "cpu" for x in floats)
        and (
            twin is None
            or (twin.dtype == torch.bfloat16 and twin.is_contiguous() and twin.device.type == "cpu")
        )
        and all(
            x.shape == param.shape for x in (grad, exp_avg, exp_avg_sq, *(() if twin is None else (twin,)))
        )
    )
