"""Attention over rows of tokens laid end to end: no padding, any window, grouped heads, differentiable.

Shapes: T tokens of all rows, H query heads, K key/value heads (H a multiple of K), D head width, B rows.
"""

from __future__ import annotations

import ctypes
import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from weft.errors import ModelError
from weft.native.library import Library, use_native
from weft.native.plain import NO_DROP, Drop, Pattern, plain

__all__ = ["Drop", "Pattern", "attention"]


def attention(
    q_THD: Tensor,
    k_TKD: Tensor,
    v_TKD: Tensor,
    starts: Tensor,
    max_length: int,
    *,
    scale: float,
    window: tuple[int, int] = (-1, -1),
    drop: Drop = NO_DROP,
) -> Tensor:
    """Return softmax(scale q k^T) v within each row, (T, H, D) contiguous; differentiable in q, k and v.

    On the CPU in fp32 or bf16 by the compiled kernels (sums, softmax and weights in fp32), on the GPU in half
    precision by torch's variable-length flash attention, otherwise in plain torch by groups of like length.

    Args:
        q_THD: queries; k_TKD and v_TKD may have fewer heads, query head h reads head h // (H / K).
        k_TKD: keys.
        v_TKD: values.
        starts: where each row starts and the last one ends, int32 on the CPU, (B + 1,), from 0 to T.
        max_length: length of the longest row, in tokens.
        scale: factor on the scores, usually D ** -0.5.
        window: query i of a row sees its keys i - left .. i + right; -1 is no limit, so causal is (-1, 0).
        drop: dropout of the weights.

    Raises:
        ModelError: heads or starts do not fit the tensors.

    Source: FlashAttention, arXiv 2205.14135 (recomputation in the backward pass, appendix B).

    Example:
        >>> q = torch.randn(5, 2, 8)
        >>> attention(q, q, q, torch.tensor([0, 2, 5], dtype=torch.int32), 3, scale=8**-0.5).shape
        torch.Size([5, 2, 8])
    """
    pattern = Pattern(starts, max_length, scale, window, drop)
    _check(q_THD, k_TKD, v_TKD, pattern)
    library = use_native(q_THD, k_TKD, v_TKD)
    if library is not None:
        if torch.is_grad_enabled() and (q_THD.requires_grad or k_TKD.requires_grad or v_TKD.requires_grad):
            return _Native.apply(q_THD, k_TKD, v_TKD, pattern, library)
        return _forward(library, pattern, (q_THD, k_TKD, v_TKD))[0]
    if _flash_works(q_THD, pattern):
        return _flash(q_THD, k_TKD, v_TKD, pattern)
    return plain(q_THD, k_TKD, v_TKD, pattern)


def _check(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, pattern: Pattern) -> None:
    heads, kv_heads = q_THD.shape[1], k_TKD.shape[1]
    if k_TKD.shape != v_TKD.shape or k_TKD.shape[::2] != q_THD.shape[::2] or heads % kv_heads:
        raise ModelError(
            f"attention: query heads must be a multiple of key heads, tokens and widths equal, but the shapes are "
            f"{tuple(q_THD.shape)}, {tuple(k_TKD.shape)}, {tuple(v_TKD.shape)}. Pass (T, H, D), (T, K, D), (T, K, D)."
        )
    if not 0.0 <= pattern.drop.rate < 1.0:
        raise ModelError(f"attention: dropout must lie in [0, 1), but is {pattern.drop.rate}. Pass a share.")
    if pattern.starts.device.type != "cpu":  # looking would wait for the device, in every layer
        return
    bounds: list[int] = pattern.starts.tolist()
    if bounds[0] != 0 or bounds[-1] != q_THD.shape[0] or sorted(bounds) != bounds:
        raise ModelError(
            f"attention: starts must rise from 0 to the {q_THD.shape[0]} tokens, but are {bounds}. "
            "Pass the cumulative lengths of the rows."
        )


# ------------------------------------------------------------------------------------- compiled kernels


class _Call(ctypes.Structure):
    """One call, field by field as ``struct Attention`` in ``kernels/attention.cpp``."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in ("q", "k", "v", "grad_out", "out", "grad_q", "grad_k", "grad_v")
        ),
        ("stats", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        *(
            (f"{name}_{axis}", ctypes.c_int64)
            for name in ("q", "k", "v", "grad")
            for axis in ("token", "head")
        ),
        *(
            (name, ctypes.c_int64)
            for name in ("rows", "heads", "kv_heads", "width", "left", "right", "is_bf16")
        ),
        ("seed", ctypes.c_uint64),
        ("scale", ctypes.c_float),
        ("keep", ctypes.c_float),
    )


Triple = tuple[Tensor, Tensor, Tensor]


def _run(library: Library, pattern: Pattern, inputs: Triple, call: _Call, *, backward: bool) -> None:
    starts = pattern.starts.to(torch.int32).contiguous()
    for name, tensor in zip("qkv", inputs, strict=True):
        setattr(call, name, tensor.data_ptr())
        setattr(call, f"{name}_token", tensor.stride(0))
        setattr(call, f"{name}_head", tensor.stride(1))
    call.starts, call.rows = starts.data_ptr(), starts.numel() - 1
    call.heads, call.kv_heads, call.width = inputs[0].shape[1], inputs[1].shape[1], inputs[0].shape[2]
    call.left, call.right = pattern.window
    call.is_bf16 = inputs[0].dtype == torch.bfloat16
    call.scale, call.keep, call.seed = pattern.scale, 1.0 - pattern.drop.rate, pattern.drop.seed
    parallel, threads = library.team()
    library.kernels.weft_attention(
        ctypes.byref(call), ctypes.c_void_p(parallel), ctypes.c_int64(threads), ctypes.c_int64(backward)
    )


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _forward(
    library: Library, pattern: Pattern, inputs: Triple, stats_TH2: Tensor | None = None
) -> tuple[Tensor, Triple]:
    """Return the output and the inputs as they were read (last axis dense)."""
    q_THD, k_TKD, v_TKD = (_dense(tensor) for tensor in inputs)
    out_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype)
    call = _Call(out=out_THD.data_ptr(), stats=None if stats_TH2 is None else stats_TH2.data_ptr())
    _run(library, pattern, (q_THD, k_TKD, v_TKD), call, backward=False)
    return out_THD, (q_THD, k_TKD, v_TKD)


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, pattern: Pattern, library: Library
    ) -> Tensor:
        stats_TH2 = torch.empty(*q_THD.shape[:2], 2, dtype=torch.float32)
        out_THD, inputs = _forward(library, pattern, (q_THD, k_TKD, v_TKD), stats_TH2)
        ctx.save_for_backward(*inputs, stats_TH2)
        ctx.pattern, ctx.library = pattern, library
        return out_THD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q_THD, k_TKD, v_TKD, stats_TH2 = ctx.saved_tensors
        grad_THD = _dense(grads[0])
        grad_q, grad_k, grad_v = (torch.empty(x.shape, dtype=x.dtype) for x in (q_THD, k_TKD, v_TKD))
        call = _Call(
            grad_out=grad_THD.data_ptr(),
            grad_token=grad_THD.stride(0),
            grad_head=grad_THD.stride(1),
            grad_q=grad_q.data_ptr(),
            grad_k=grad_k.data_ptr(),
            grad_v=grad_v.data_ptr(),
            stats=stats_TH2.data_ptr(),
        )
        _run(ctx.library, ctx.pattern, (q_THD, k_TKD, v_TKD), call, backward=True)
        return grad_q, grad_k, grad_v, None, None


# ------------------------------------------------------------------------------------------ flash on GPU


@cache
def _varlen() -> Any:
    """Return torch's variable-length flash attention, or None where this torch has none with windows and groups."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return (
        varlen_attn
        if {"window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)
        else None
    )


def _flash_works(q_THD: Tensor, pattern: Pattern) -> bool:
    return (
        q_THD.device.type == "cuda"
        and q_THD.dtype in (torch.bfloat16, torch.float16)
        and pattern.drop.rate == 0.0
        and q_THD.shape[2] % 8 == 0
        and q_THD.shape[2] <= 256
        and _varlen() is not None
    )


def _flash(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, pattern: Pattern) -> Tensor:
    starts = pattern.starts.to(q_THD.device, torch.int32, non_blocking=True)
    return _varlen()(
        *(q_THD, k_TKD, v_TKD, starts, starts, pattern.max_length, pattern.max_length),
        scale=pattern.scale,
        window_size=pattern.window,
        enable_gqa=q_THD.shape[1] != k_TKD.shape[1],
    )
