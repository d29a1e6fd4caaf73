"""Attention over rows laid end to end, as an implementation that stock transformers models look up by name.

Legend: T tokens of all rows, H heads, D width of a head.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

from weft.native.attention import attention

NAME = "weft"
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


@cache
def register() -> str:
    """Make the implementation known to transformers; return its name."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _no_mask)
    return NAME


def _attend(  # noqa: PLR0913 (what transformers passes)
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 (rows are told apart by their lengths)
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,  # noqa: ARG001 (what a model says to implementations of other kinds)
) -> tuple[Tensor, None]:
    """Return the attention output (1, T, H, D) of one packed sequence: query, key and value are (1, H, T, D)."""
    q_THD, k_THD, v_THD = (part[0].transpose(0, 1) for part in (query, key, value))
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    back = -1 if sliding_window is None else sliding_window - 1  # transformers counts the token itself
    out_THD = attention(
        q_THD,
        k_THD,
        v_THD,
        cu_seq_lens_q,
        max_length_q,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=(back, 0 if causal else back),
    )
    return out_THD[None], None


def _no_mask(*_: Any, **__: Any) -> None:
    """Stand for the mask that packed attention does not need."""
