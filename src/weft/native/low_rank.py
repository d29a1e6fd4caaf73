"""The thin products of a low-rank update, added in place to the wide product beside them, by the compiled kernels.

Legend: T tokens, I input width, O output width, R rank (P: rounded up to eight).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weft.native.library import Library, library

MOST_RANKS = 64
"""What the kernels hold of one token."""

_EIGHT = 8
_KINDS = (torch.bfloat16, torch.float32)


class Thin(NamedTuple):
    """``scale * B A`` and the kernels that multiply with it; made by ``thin``."""

    A_RI: Tensor
    B_OR: Tensor
    scale: float
    kernels: Library


def thin(A_RI: Tensor, B_OR: Tensor, scale: float) -> Thin | None:
    """Return the update ``scale * B A``, None where it is not for the kernels.

    They want both factors dense, on the CPU, of at most ``MOST_RANKS`` ranks, in fp32 or bf16; what is multiplied with
    them must have their type and device.
    """
    kernels = library()
    if kernels is None or A_RI.dtype not in _KINDS or not A_RI.is_cpu or A_RI.shape[0] > MOST_RANKS:
        return None
    if not A_RI.is_contiguous() or not B_OR.is_contiguous():
        return None
    return Thin(A_RI, B_OR, scale, kernels)


def add(update: Thin, inputs: Tensor, outputs: Tensor, *, narrow: Tensor | None = None) -> None:
    """Add ``scale * B A inputs`` to ``outputs``; sums are fp32, rounded once.

    Args:
        update: what to add.
        inputs: (..., I), dense.
        outputs: (..., O), dense, changed in place.
        narrow: of ``new_narrow``; receives ``scale * A inputs``, which the gradient of B takes.

    Source: arXiv:2106.09685, section 4.1.
    """
    _run(update, inputs, outputs, narrow, backward=False)


def new_narrow(update: Thin, inputs: Tensor) -> Tensor:
    """Return memory for the narrow side of all tokens of ``inputs``, in the kernels' own form."""
    num_ranks, width = update.A_RI.shape
    return torch.empty(inputs.numel() // width * -(-num_ranks // _EIGHT) * _EIGHT)


def gradients(
    update: Thin, grads: Tensor, *, inputs: Tensor | None, narrow: Tensor | None, d_inputs: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of A and B and add that of the inputs to ``d_inputs``; what is None is not computed.

    Args:
        update: as in the forward pass.
        grads: (..., O), of the outputs, dense.
        inputs: (..., I), of the forward pass, dense: gives the gradient of A.
        narrow: of the forward pass: gives the gradient of B.
        d_inputs: (..., I), dense, changed in place.
    """
    d_A = None if inputs is None else torch.empty_like(update.A_RI)
    d_B = None if narrow is None else torch.empty_like(update.B_OR)
    pairs = None if inputs is None else new_narrow(update, inputs)
    _run(update, grads, d_inputs, pairs, backward=True, rest=(inputs, narrow, d_A, d_B))
    return d_A, d_B


class _Call(ctypes.Structure):
    """One call, field by field as ``struct LowRank`` in ``kernels/low_rank.cpp``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("wide", "down", "up", "out", "pairs")),
        *((name, ctypes.c_void_p) for name in ("inputs", "narrow", "grad_down", "grad_up")),
        *((name, ctypes.c_int64) for name in ("tokens", "width_in", "width_out", "ranks", "is_bf16")),
        ("scale", ctypes.c_float),
    )


Rest = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _run(
    update: Thin,
    wide: Tensor,
    out: Tensor | None,
    pairs: Tensor | None,
    *,
    backward: bool,
    rest: Rest = (None, None, None, None),
) -> None:
    A_RI, B_OR, scale, kernels = update
    num_ranks, width_in = A_RI.shape
    width_out = B_OR.shape[0]
    call = _Call(
        wide.data_ptr(),
        A_RI.data_ptr(),
        B_OR.data_ptr(),
        *[None if tensor is None else tensor.data_ptr() for tensor in (out, pairs, *rest)],
        wide.numel() // (width_out if backward else width_in),
        width_in,
        width_out,
        num_ranks,
        wide.dtype is torch.bfloat16,
        scale,
    )
    parallel, threads = kernels.team()
    _entry(kernels)(ctypes.byref(call), parallel, threads, backward)


@cache
def _entry(kernels: Library) -> Any:
    function = kernels.kernels.weft_low_rank
    function.restype = None
    function.argtypes = (ctypes.POINTER(_Call), ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    return function
