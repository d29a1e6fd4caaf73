"""Attention with virtual keys: learnt keys and values in front of each row's own, in stock models.

On packed rows every row grows by its virtual positions: keys and values are learnt ones, queries are zeros that nobody
reads. So causal and two-sided attention, grouped heads and all kernels stay what they are. On a padded grid, and step
by step when text is generated, the learnt keys are put in front at every call, and no cache holds them. They end where
a row's own begin, so that the bias by distance that T5's kin add is the same whatever other rows have.

Keys with a gate stand beside: their own softmax, times the tangent of the gate, is added (arXiv:2303.16199).

Legend: B rows, T tokens of all rows, X positions of rows that have grown, N virtual positions of all adapters in use,
P those of one row or adapter, L padded length, S keys of one row, H query heads, K key heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from weft.core.routing import Routing
from weft.core.virtual import Grown, Stack, VirtualKeys, grow, positions_of, stacked
from weft.errors import ModelError

KEYWORD = "virtual"
"""Under this name a pass tells attention what rows there are."""

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""Attention of (X, H, E) queries, (X, K, E) keys and values, with the starts and the length of the longest row."""


@dataclass(frozen=True, eq=False)
class Pass:
    """The rows of one packed pass, and where everything lies among them: made once for all layers alike."""

    num_rows: int
    _made: dict[tuple[tuple[str, int], ...], tuple[Stack, Grown]] = field(
        default_factory=dict[tuple[tuple[str, int], ...], tuple[Stack, Grown]], repr=False
    )

    def places(self, held: Held, starts: Tensor, num_tokens: int, max_length: int) -> tuple[Stack, Grown]:
        """Return the stack at one layer and the rows that have grown by it."""
        key = tuple(held.lengths.items())
        if key not in self._made:
            stack = stacked(held.lengths, held.routing, self.num_rows)
            self._made[key] = stack, grow(starts, num_tokens, max_length, stack.rows)
        return self._made[key]


class Held(NamedTuple):
    """The virtual keys and values at one attention module: both in one of its parts, or one in each of two."""

    parts: tuple[VirtualKeys, ...]

    @property
    def lengths(self) -> Mapping[str, int]:
        """Positions of each adapter without a gate."""
        return self.parts[0].virtual_keys()

    @property
    def routing(self) -> Routing | None:
        """Of the batch that passes."""
        return self.parts[0].routing

    def keys(self, name: str) -> Tensor:
        """Return the keys of one adapter, (P, K * E)."""
        return next(key for part in self.parts if (key := part.key_PW(name)) is not None)

    def values(self, name: str) -> Tensor:
        """Return the values of one adapter, (P, K * E)."""
        return next(value for part in self.parts if (value := part.value_PW(name)) is not None)

    def gate(self, name: str) -> Tensor:
        """Return the gate of one adapter, (1,)."""
        return next(gate for part in self.parts if (gate := part.gate(name)) is not None)

    def take_gates_BN(self, names: Sequence[str], num_rows: int) -> Tensor | None:
        """Return what each row multiplies the stack of ``names`` with, (B, N); None where no row has gates."""
        gates = {name: gate_B for part in self.parts for name, gate_B in part.take_row_gates().items()}
        if gates.keys().isdisjoint(names):
            return None
        ones_B, lengths = next(iter(gates.values())).new_ones(num_rows), self.lengths
        columns = [gates.get(name, ones_B)[:, None].expand(num_rows, lengths[name]) for name in names]
        return torch.cat(columns, dim=1)

    def stacked(self, names: Sequence[str], like_KE: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of ``names``, (N, K, E), in the dtype and with the heads of ``like_KE``."""
        shape = (-1, *like_KE.shape[-2:])
        keys_NKE = torch.cat([self.keys(name) for name in names]).view(shape)
        values_NKE = torch.cat([self.values(name) for name in names]).view(shape)
        return keys_NKE.to(like_KE.dtype), values_NKE.to(like_KE.dtype)


def held_by(module: nn.Module) -> Held | None:
    """Return what virtual keys an attention module has; None where it has none."""
    parts = tuple(part for part in vars(module)["_modules"].values() if isinstance(part, VirtualKeys))
    return Held(parts) if parts else None


def attend_packed(
    held: Held,
    qkv: tuple[Tensor, Tensor, Tensor],
    starts: Tensor,
    max_length: int,
    *,
    scale: float,
    now: Pass,
    attend: Attend,
) -> Tensor:
    """Return what packed rows (T, H, E) get when each also sees its virtual keys.

    Args:
        held: of the layer.
        qkv: queries (T, H, E), keys and values (T, K, E) of the rows' own tokens.
        starts: where each row starts and the last one ends; a row behind those of ``now`` has no virtual keys.
        max_length: of the longest row.
        scale: factor on the scores.
        now: the pass.
        attend: attention without any.
    """
    q_THE, k_TKE, v_TKE = qkv
    stack, grown = now.places(held, starts, len(q_THE), max_length)
    gates_BN = held.take_gates_BN(stack.names, now.num_rows)
    if stack.names:
        keys_NKE, values_NKE = held.stacked(stack.names, k_TKE)
        q_XHE = q_THE.new_zeros(len(grown.source_X), *q_THE.shape[1:]).index_copy(0, grown.place_T, q_THE)
        k_XKE, v_XKE = grown.with_virtual(k_TKE, keys_NKE), grown.with_virtual(v_TKE, values_NKE)
        if gates_BN is not None:
            gate_X11 = grown.by_row(gates_BN)[:, None, None].to(k_XKE.dtype)
            k_XKE, v_XKE = k_XKE * gate_X11, v_XKE * gate_X11
        out_THE = attend(q_XHE, k_XKE, v_XKE, grown.starts, grown.max_length).index_select(0, grown.place_T)
    else:
        out_THE = attend(q_THE, k_TKE, v_TKE, starts, max_length)
    return _beside(held, out_THE, q_THE, k_TKE[0], scale=scale, leading=(1, len(q_THE)))


def attend_padded(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **told: Any
) -> tuple[Tensor, None]:
    """Return SDPA's output (B, L, H, E) of rows on a grid, each of which also sees its virtual keys.

    Args:
        module: of the stock model.
        query: (B, H, L, E).
        key: (B, K, S, E); S is more than L where earlier tokens are in a cache.
        value: likewise.
        attention_mask: (B, 1, L, S), True where a key is seen; None for all, or all that are not later.
        told: what else the model says to attention.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    held = held_by(module)
    if held is None:
        told = _with_bias(told, key.shape[2])
        return sdpa_attention_forward(module, query, key, value, attention_mask, **told)[0], None
    rows, length = query.shape[0], query.shape[2]
    own, stack = key[0].transpose(0, 1), stacked(held.lengths, held.routing, rows)
    gates_BN = held.take_gates_BN(stack.names, rows)
    if stack.names:
        mask = _mask(module, query, key, attention_mask, **told)
        keys_NKE, values_NKE = held.stacked(stack.names, own)
        index_BP, has_BP = _grid(stack, query.device)
        keys_BPKE, values_BPKE = keys_NKE[index_BP], values_NKE[index_BP]
        if gates_BN is not None:
            gate_BP11 = gates_BN.gather(1, index_BP)[..., None, None].to(key.dtype)
            keys_BPKE, values_BPKE = keys_BPKE * gate_BP11, values_BPKE * gate_BP11
        key = torch.cat([keys_BPKE.transpose(1, 2), key], dim=2)
        value = torch.cat([values_BPKE.transpose(1, 2), value], dim=2)
        virtual_mask = has_BP[:, None, None].expand(rows, 1, length, stack.most)
        attention_mask = torch.cat([virtual_mask, mask.expand(rows, 1, length, -1)], dim=-1)
    told = _with_bias(told, key.shape[2])
    out_BLHE = sdpa_attention_forward(module, query, key, value, attention_mask, **told)[0]
    scale = told.get("scaling")
    added = _beside(
        held,
        out_BLHE.flatten(0, 1),
        query.transpose(1, 2).flatten(0, 1),
        own[0],
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        leading=(rows, length),
    )
    return added.view(out_BLHE.shape), None


def _with_bias(told: dict[str, Any], num_keys: int) -> dict[str, Any]:
    """Return what attention is told, with a bias by distance for ``num_keys``: cut, or none for those that lack it."""
    bias_1HLS = told.get("position_bias")
    if bias_1HLS is None:
        return told
    fitting = functional.pad(bias_1HLS, (num_keys - bias_1HLS.shape[-1], 0))
    return {**told, "position_bias": fitting}


def _grid(stack: Stack, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return each row's places in the stack, (B, P), at the end of P, and which of them it has."""
    most = stack.most
    index_BP = torch.tensor([[*[0] * (most - len(row)), *row] for row in stack.rows], dtype=torch.int64)
    has_BP = torch.arange(most) >= most - torch.tensor(stack.counts)[:, None]
    return index_BP.to(device, non_blocking=True), has_BP.to(device, non_blocking=True)


def _mask(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    *,
    is_causal: bool | None = None,
    **_others: Any,
) -> Tensor:
    """Return the mask of the rows' own keys, (B or 1, 1, L, S), also where a model leaves it to SDPA."""
    if mask is not None:
        return mask
    length, num_keys = query.shape[2], key.shape[2]
    seen_LS = torch.ones(length, num_keys, dtype=torch.bool, device=query.device)
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    return (seen_LS.tril(num_keys - length) if causal else seen_LS)[None, None]


def _beside(
    held: Held, out_THE: Tensor, q_THE: Tensor, like_KE: Tensor, *, scale: float, leading: Sequence[int]
) -> Tensor:
    """Return ``out_THE`` plus what keys with a gate give each token of the rows that have them."""
    for name in held.parts[0].gated_keys():
        positions_M = positions_of(name, held.routing, leading, q_THE.device)
        q_MHE = q_THE if positions_M is None else q_THE.index_select(0, positions_M)
        groups = q_THE.shape[1] // like_KE.shape[0]
        keys_PHE, values_PHE = (
            table.repeat_interleave(groups, dim=1) for table in held.stacked([name], like_KE)
        )
        scores_HMP = torch.einsum("mhe,phe->hmp", q_MHE * scale, keys_PHE)
        weights_HMP = scores_HMP.softmax(-1, dtype=torch.float32) * held.gate(name).float().tanh()
        more_MHE = torch.einsum("hmp,phe->mhe", weights_HMP.to(out_THE.dtype), values_PHE)
        out_THE = out_THE + more_MHE if positions_M is None else out_THE.index_add(0, positions_M, more_MHE)
    return out_THE


@contextmanager
def shifted(backbone: nn.Module, shift: int) -> Generator[None]:
    """Let all positions that the stock model is told within the block count from ``shift``."""

    def later(_module: nn.Module, args: Any, told: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if told.get("position_ids") is None:
            raise ModelError(
                f"{type(backbone).__name__}: must be told positions to generate behind virtual keys, but is not."
            )
        return args, {**told, "position_ids": told["position_ids"] + shift}

    handle = backbone.register_forward_pre_hook(later, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def unprefixed(config: Mapping[str, Any], *, looks_up: bool) -> dict[str, str]:
    """Return why layers cannot take virtual keys: ``weft.core.view.ModelView.unprefixed``.

    A window counts positions, so it would leave virtual keys behind as a row goes on; one that no row outgrows is none.

    Args:
        config: of the model, ``PreTrainedConfig.to_dict()``.
        looks_up: whether its attention is looked up by name, so that it can be another's.
    """
    architecture = config.get("model_type")
    if not looks_up:
        return {"": f"the attention of {architecture} is its own and cannot be given keys"}
    kinds: Sequence[str] = config.get("layer_types") or ()
    window = config.get("sliding_window") or (config.get("local_attention") or 0) // 2  # to each side
    if not window or window >= config.get("max_position_embeddings", 0):
        return {}
    if not kinds:
        return {"": f"{architecture} sees a window of {window} tokens, which virtual keys would drop out of"}
    return {
        f"layers.{index}.attention": f"this layer sees a window of {window} tokens, which virtual keys would drop out of"
        for index, kind in enumerate(kinds)
        if kind != "full_attention"
    }
