"""Positions in the two stacks of an encoder-decoder, which are not told any and count by themselves.

Behind virtual keys a row's own tokens stand further on, as behind keys in a cache. BART's kin look positions up by the
length of that cache; T5's kin add to each score a bias by the distance of query and key.

Legend: B rows, L tokens of each, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from weft.model.cut import Forward, forwards

_PAST, _GIVEN = "past_key_values_length", "position_ids"  # what tables of positions are told
_BIAS = "compute_bias"  # of T5's attention: all pairs of queries and keys


@contextmanager
def behind(stack: nn.Module, attentions: Iterable[nn.Module], shifts: Sequence[int]) -> Generator[None]:
    """Let tokens stand behind virtual positions within the block, as far as the stack counts positions by itself.

    Args:
        stack: an encoder or a decoder of transformers.
        attentions: of its own tokens.
        shifts: virtual positions in front of each row, or one number for all rows.
    """
    most = max(shifts)
    table = getattr(stack, "embed_positions", None)
    tables = [] if table is None or not most else [(table, _further(table, shifts))]
    biased = [one for one in attentions if getattr(one, "has_relative_attention_bias", False)] if most else []
    with forwards(tables), forwards([(one, _wider(one, most)) for one in biased], name=_BIAS):
        yield


def _further(table: nn.Module, shifts: Sequence[int]) -> Forward:
    """Return a look-up of positions that begin at ``shifts`` instead of zero."""
    stock = table.forward
    signature = inspect.signature(stock)

    def forward(*args: Any, **told: Any) -> Tensor:
        call = signature.bind(*args, **told)
        call.apply_defaults()
        past = call.arguments[_PAST]
        if _GIVEN in call.arguments:
            call.arguments[_GIVEN] = None  # they say the same as the length of the cache

        def at(shift: int) -> Tensor:
            call.arguments[_PAST] = past + shift
            return stock(*call.args, **call.kwargs)

        found = {shift: at(shift) for shift in set(shifts)}
        if len(found) == 1:
            return found[shifts[0]]
        # Some tables answer once for all rows, some for each.
        whole = {shift: one.expand(len(shifts), *one.shape[-2:]) for shift, one in found.items()}
        rows_BLD = [whole[shift][row] for row, shift in enumerate(shifts)]
        return torch.stack(rows_BLD)

    return forward


def _wider(attention: nn.Module, most: int) -> Forward:
    """Return the bias of queries and keys, with ``most`` keys more in front of the row's first."""
    stock = cast(Forward, cast(Any, attention).compute_bias)

    def compute_bias(query_length: int, key_length: int, *, past_seen_tokens: Any = 0, **told: Any) -> Tensor:
        return stock(query_length, key_length + most, past_seen_tokens=past_seen_tokens + most, **told)

    return compute_bias
