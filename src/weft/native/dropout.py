"""Dropout whose mask is a pure function of a seed: the backward pass draws it again, nothing is stored."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from weft.errors import ModelError
from weft.native.library import Library, use_native


def dropout(x: Tensor, p: float, seed: int) -> Tensor:
    """Return ``x`` with a share ``p`` of its elements set to zero and the others divided by 1 - p.

    The same seed, shape and hand (compiled or torch's own) give the same mask, with any number of threads.

    Args:
        x: any shape; compiled in fp32 and bf16 on the CPU.
        p: in [0, 1).
        seed: a 64-bit number; use another one for every call of a step.

    Example:
        >>> y = dropout(torch.ones(1000), 0.5, seed=1)
        >>> sorted(set(y.tolist()))
        [0.0, 2.0]
    """
    if not 0.0 <= p < 1.0:
        raise ModelError(f"dropout: p must lie in [0, 1), but is {p}. Pass a share.")
    if p == 0.0:
        return x
    library = use_native(x)
    if library is None:
        generator = torch.Generator(x.device).manual_seed(seed)
        return x * torch.empty_like(x).bernoulli_(1.0 - p, generator=generator).div_(1.0 - p)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Native.apply(x, p, seed, library)
    return _drop(x, p, seed, library)


def _drop(x: Tensor, p: float, seed: int, library: Library) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    parallel, threads = library.team()
    library.kernels.weft_dropout(
        *(ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(out.data_ptr()), ctypes.c_int64(x.numel())),
        *(ctypes.c_int64(x.dtype == torch.bfloat16), ctypes.c_uint64(seed), ctypes.c_float(p)),
        *(ctypes.c_void_p(parallel), ctypes.c_int64(threads)),
    )
    return out


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int, library: Library) -> Tensor:
        ctx.call = (p, seed, library)
        return _drop(x, p, seed, library)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _drop(grads[0], *ctx.call), None, None, None
