"""AdamW whose moments take a byte each: blocks of neighbours share a scale, values lie on a logarithmic grid.

Rounding is by chance, with the right mean: the second moment changes by a thousandth a step, which rounding to the
nearest level would lose every time. A second moment above zero never becomes zero, or its weight would leap.

Legend: N values of a flattened tensor, K blocks, S values of a block, G of a tensor padded to whole blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 256
LEAST_VALUES = 4096
"""Smaller tensors (vectors of norms and biases) keep fp32 moments: they take nothing and matter most."""
CHUNK = 1 << 22
"""Values that are computed at once, so that what is wide is never a whole table of embeddings."""
SCALE = "_scale"
_STEPS = 8.0  # levels an octave: at most 9 % from one to the next
_SIGN = 128


@dataclass(frozen=True, slots=True)
class Code:
    """How one kind of moment is written.

    Attributes:
        top: the code of a block's largest magnitude; 0 stands for zero, each step below ``top`` is an eighth of an octave.
        is_signed: whether the highest bit is a sign.
    """

    top: int
    is_signed: bool


CODES: Mapping[str, Code] = {"exp_avg": Code(127, is_signed=True), "exp_avg_sq": Code(255, is_signed=False)}
"""By moment: 16 octaves of either sign, and 32 octaves of squares."""


def encode(values_N: Tensor, code: Code, *, chance_N: Tensor | float = 0.5) -> tuple[Tensor, Tensor]:
    """Return codes (N,) uint8 and scales (K,) fp32 of ``values_N``.

    Args:
        values_N: fp32; not negative where the code has no sign.
        code: of the moment.
        chance_N: uniform in [0, 1): a value rounds up where its place between two levels is above it, so that the mean
            is right; 0.5 rounds to the nearest level.

    Source: block-wise quantisation of optimizer states, arXiv:2110.02861, section 2; the grid and the rounding are ours.

    Example:
        >>> codes, scales = encode(torch.tensor([1.0, -0.5, 0.0]), CODES["exp_avg"])
        >>> decode(codes, scales, CODES["exp_avg"])
        tensor([ 1.0000, -0.5000,  0.0000])
    """
    blocks_KS = _blocks(values_N)
    scales_K = blocks_KS.abs().amax(1)
    share_KS = blocks_KS.abs() / scales_K.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    low_KS = (code.top + _STEPS * share_KS.log2()).floor().clamp(0, code.top)
    below_KS, above_KS = _level(low_KS, code), _level(low_KS + 1, code)
    chance_KS = _blocks(chance_N) if isinstance(chance_N, Tensor) else chance_N
    place_KS = low_KS + ((share_KS - below_KS) / (above_KS - below_KS) > chance_KS)
    if code.is_signed:
        place_KS = place_KS.clamp(max=code.top) + _SIGN * ((blocks_KS < 0) & (place_KS > 0))
    else:
        place_KS = torch.where(share_KS > 0, place_KS.clamp(1, code.top), 0)
    return place_KS.to(torch.uint8).flatten()[: len(values_N)], scales_K


def decode(codes_N: Tensor, scales_K: Tensor, code: Code) -> Tensor:
    """Return the values (N,) fp32 that ``encode`` rounded to."""
    place_N = codes_N.int()
    sign_N = 1.0
    if code.is_signed:
        sign_N = 1.0 - 2.0 * (place_N >= _SIGN)
        place_N = place_N % _SIGN
    values_KS = _blocks(_level(place_N.float(), code) * sign_N) * scales_K[:, None]
    return values_KS.flatten()[: len(codes_N)]


def is_coded(state: Mapping[str, Tensor]) -> bool:
    """Return whether a parameter's state has its moments in bytes."""
    return any(name.endswith(SCALE) for name in state)


def coded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` with its fp32 moments in bytes, each at the nearest level."""
    found = {name: tensor for name, tensor in state.items() if name not in CODES}
    for name, code in CODES.items():
        codes_N, found[name + SCALE] = encode(state[name].flatten(), code)
        found[name] = codes_N.view(state[name].shape)
    return found


def wide(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` with its moments in fp32."""
    if not is_coded(state):
        return dict(state)
    found = {name: t for name, t in state.items() if name not in CODES and not name.endswith(SCALE)}
    for name, code in CODES.items():
        found[name] = decode(state[name].flatten(), state[name + SCALE], code).view(state[name].shape)
    return found


@dataclass(frozen=True, slots=True)
class Rates:
    """The scalars of a step; ``beta1`` and ``beta2`` are those of the moments."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float


@torch.no_grad()
def adamw(
    param: Tensor,
    grad: Tensor,
    state: Mapping[str, Tensor],
    rates: Rates,
    *,
    grad_scale: Tensor,
    found_inf: Tensor,
) -> None:
    """Apply one step of AdamW in place to ``param`` and ``state``; nothing waits for the device.

    Args:
        param: fp32, contiguous.
        grad: of the same shape, divided by ``grad_scale`` first.
        state: ``exp_avg`` and ``exp_avg_sq``, in fp32 or in bytes with their scales, and ``step``, which counts.
        rates: of the step.
        grad_scale: what the gradient is too large by, a scalar.
        found_inf: 1.0 leaves everything as it is, a scalar.

    Source: Loshchilov & Hutter, arXiv 1711.05101, algorithm 2.
    """
    moves = found_inf == 0
    state["step"].add_(moves)
    count = state["step"].clamp(min=1.0)
    root = (1.0 - rates.beta2**count).sqrt()
    size = rates.lr / (1.0 - rates.beta1**count)
    flat_N, grad_N = param.view(-1), grad.reshape(-1)
    for start in range(0, len(flat_N), CHUNK):
        part = slice(start, start + CHUNK)
        values_N, given_N = flat_N[part], grad_N[part].float() / grad_scale
        m_N, v_N = (_read(state, name, part) for name in CODES)
        new_m_N = m_N.lerp(given_N, 1.0 - rates.beta1)
        new_v_N = (v_N * rates.beta2).addcmul_(given_N, given_N, value=1.0 - rates.beta2)
        step_N = size * new_m_N / (new_v_N.sqrt() / root + rates.eps)
        moved_N = values_N * (1.0 - rates.lr * rates.weight_decay) - step_N
        values_N.copy_(torch.where(moves, moved_N, values_N))
        for name, new_N in zip(CODES, (new_m_N, new_v_N), strict=True):
            _write(state, name, part, new_N, moves)


def _read(state: Mapping[str, Tensor], name: str, part: slice) -> Tensor:
    values_N = state[name].view(-1)[part]
    if name + SCALE not in state:
        return values_N
    return decode(values_N, state[name + SCALE][_scales(part)], CODES[name])


def _write(state: Mapping[str, Tensor], name: str, part: slice, new_N: Tensor, moves: Tensor) -> None:
    held_N = state[name].view(-1)[part]
    if name + SCALE not in state:
        held_N.copy_(torch.where(moves, new_N, held_N))
        return
    codes_N, scales_K = encode(new_N, CODES[name], chance_N=torch.rand_like(new_N))
    held_K = state[name + SCALE][_scales(part)]
    held_N.copy_(torch.where(moves, codes_N, held_N))
    held_K.copy_(torch.where(moves, scales_K, held_K))


def _scales(part: slice) -> slice:
    return slice(part.start // BLOCK, part.stop // BLOCK)


def _level(place: Tensor, code: Code) -> Tensor:
    """Return the share of a block's largest magnitude that a place stands for."""
    return torch.where(place > 0, torch.exp2((place - code.top) / _STEPS), 0.0)


def _blocks(values_N: Tensor) -> Tensor:
    """Return ``values_N`` as blocks (K, S), the last one filled up with zeros."""
    missing = -len(values_N) % BLOCK
    return (functional.pad(values_N, (0, missing)) if missing else values_N).view(-1, BLOCK)
