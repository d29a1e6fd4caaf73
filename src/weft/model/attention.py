"""Attention over rows laid end to end, as an implementation that stock transformers models look up by name.

Legend: T tokens of all rows, H heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from weft.model import prefixed
from weft.model.narrow import KEYWORD, Narrow
from weft.native.attention import attention

NAME, VIRTUAL = "weft", "weft-virtual"
PACKS = frozenset(
    {
        "bert",
        "camembert",
        "electra",
        "gpt2",
        "llama",
        "mistral",
        "modernbert",
        "qwen2",
        "qwen3",
        "roberta",
        "xlm-roberta",
    }
)
"""Architectures that take positions from outside and look attention up; each is tested for equality."""
TAKES_KEYS = PACKS | {
    "bart",
    "blenderbot",
    "m2m_100",
    "marian",
    "mbart",
    "mt5",
    "pegasus",
    "plbart",
    "t5",
    "umt5",
}
"""Architectures that look attention up, so that it can be given keys from elsewhere."""


@cache
def register(*, compiles: bool = False) -> str:
    """Make the implementation known to transformers; return its name.

    Args:
        compiles: whether layers run compiled: attention then stays outside of their graphs, as its kernels must.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    name = f"{NAME}-apart" if compiles else NAME
    AttentionInterface.register(name, torch.compiler.disable(_attend) if compiles else _attend)
    AttentionMaskInterface.register(name, _no_mask)
    return name


@cache
def register_virtual() -> str:
    """Make attention with virtual keys on a padded grid known to transformers; return its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(VIRTUAL, prefixed.attend_padded)
    AttentionMaskInterface.register(VIRTUAL, sdpa_mask)
    return VIRTUAL


@contextmanager
def used(backbone: Any, implementation: str) -> Generator[None]:
    """Let the stock model ``backbone`` look attention up under another name within the block."""
    config = backbone.config
    usual = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = usual


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, **told: Any
) -> tuple[Tensor, None]:
    """Return the attention output (1, T, H, D) of one packed sequence: query, key and value are (1, H, T, D)."""
    narrow: Narrow | None = told.pop(KEYWORD, None)
    now: prefixed.Pass | None = told.pop(prefixed.KEYWORD, None)
    held = None if now is None else prefixed.held_by(module)
    how = _how(module, **told)
    scale = query.shape[-1] ** -0.5 if how.scale is None else how.scale

    def plain(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int) -> Tensor:
        return attention(q, k, v, starts, longest, scale=scale, window=how.window)

    def attend(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor) -> Tensor:
        if now is None or held is None:
            return plain(q_THD, k_THD, v_THD, how.starts, how.longest)
        qkv = (q_THD, k_THD, v_THD)
        return prefixed.attend_packed(held, qkv, how.starts, how.longest, scale=scale, now=now, attend=plain)

    # Squeezed rather than indexed: the gradient of an index is a copy into zeros.
    q_THD, k_THD, v_THD = (part.transpose(1, 2).squeeze(0) for part in (query, key, value))
    out_THD = attend(q_THD, k_THD, v_THD) if narrow is None else narrow.attend(q_THD, k_THD, v_THD, attend)
    return out_THD.unsqueeze(0), None


class _How(NamedTuple):
    """What a call says of rows and windows."""

    starts: Tensor
    longest: int
    scale: float | None
    window: tuple[int, int]


def _how(
    module: nn.Module,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **_others: Any,
) -> _How:
    """Return what matters here of what a model says to attention of any kind."""
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    back = -1 if sliding_window is None else sliding_window - 1  # transformers counts the token itself
    return _How(cu_seq_lens_q, max_length_q, scaling, (back, 0 if causal else back))


def _no_mask(*_: Any, **__: Any) -> None:
    """Stand for the mask that packed attention does not need."""
