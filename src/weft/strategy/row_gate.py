"""A gate for each row: a sigmoid of each of its tokens' states, averaged over the row (arXiv:2110.07577, section 3).

What it multiplies counts for texts for which it helps. A token's gate follows from tokens behind it too, so rows must be
seen whole: not in a decoder, but in the encoder beside one.

Legend: B rows, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.core.routing import Routing
from weft.core.rows import at_tokens, row_means
from weft.core.view import ModelView, Site
from weft.errors import StrategyError

ROW = "row"
RowGate = Literal["row"]


def gates_B1(states: Tensor, weight_1D: Tensor, bias_1: Tensor, routing: Routing | None) -> Tensor:
    """Return the gate of each row, between 0 and 1, from its tokens' ``states`` (..., D)."""
    return row_means(F.linear(states, weight_1D, bias_1).sigmoid(), routing)


def gate_at_tokens(states: Tensor, weight_1D: Tensor, bias_1: Tensor, routing: Routing | None) -> Tensor:
    """Return each token's row's gate, shape (..., 1)."""
    gates = gates_B1(states, weight_1D, bias_1, routing)
    return at_tokens(gates, states.shape[:-1], routing)


def little(shape: tuple[int, ...], /, *, seed: int) -> Tensor:
    """Return weights of a gate that starts near one half: drawn from N(0, 0.02 squared), as AdapterHub draws them."""
    return torch.empty(shape).normal_(std=0.02, generator=torch.Generator().manual_seed(seed))


def is_by_row(options: Mapping[str, Any]) -> bool:
    """Return whether ``options`` of a site say that a row has one gate."""
    return options.get("gate") == ROW


def check_rows(view: ModelView, sites: Iterable[Site]) -> None:
    """Refuse sites of what writes text, token by token.

    Raises:
        StrategyError: there is one.
    """
    written = [site.path for site in sites if view.is_causal or site.path.startswith("decoder.")]
    if written:
        others = "" if view.is_causal else "name sites of the encoder (sites: encoder.kv), "
        raise StrategyError(
            f"{written[0]}: a gate of a row must stand in an encoder, whose tokens see all of their row, but what is there "
            f"writes text. Use mam for a union of prefix and adapter, {others}or gate: true."
        )
