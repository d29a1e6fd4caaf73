"""The last layer computed only where somebody reads: keys and values of all tokens, everything else of a few.

A classifier reads one token a row, and what the last layer makes of the others is thrown away. The stock layer runs
twice: over all tokens as far as its attention, which takes keys and values and stops it there, and then, whole, over
the tokens that are read, whose queries meet those keys and values. Outputs and gradients of these tokens are exact.

Legend: T tokens of all rows, M tokens that are read, D width, H heads, K key/value heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from weft.core.routing import Routable, Routing, standing
from weft.errors import ModelError
from weft.model.cut import forwards

KEYWORD = "narrow"
"""Under this name a layer hands the ``Narrow`` on to attention."""
_MOST = 0.75  # of the tokens: above it, what is saved is less than running up to attention twice

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of (T, H, E) queries, (T, K, E) keys and values."""


class _Found(BaseException):
    """Leaves the layer with its keys and values; no handler of ordinary errors on the way may take it."""

    def __init__(self, keys_TKE: Tensor, values_TKE: Tensor) -> None:
        super().__init__()
        self.pair = keys_TKE, values_TKE


class Narrow:
    """One call of a stock layer over (1, T, D) states of packed rows, of which a few are read.

    Args:
        layer: hands its keyword arguments on to attention, which calls ``attend``.
        positions_M: of the tokens that are read, distinct, int64.
        extra: tokens more to compute, so that products have one of few shapes.
    """

    def __init__(self, layer: nn.Module, positions_M: Tensor, extra: int) -> None:
        self._layer = layer
        self._stock: Callable[..., Any] = layer.forward
        self._positions_M = positions_M
        self._extra = extra
        self._pair: tuple[Tensor, Tensor] | None = None
        self._sites = [part for part in layer.modules() if isinstance(part, Routable)]
        self._routing: Routing | None = None  # of all tokens, as attention sees them

    @contextmanager
    def applied(self) -> Generator[None]:
        """Let the layer compute this way within the block; states of tokens that nobody reads become zero."""
        with forwards([(self._layer, self._forward)]):
            yield

    def _forward(self, hidden_1TD: Tensor, *args: Any, **told: Any) -> Tensor:
        told[KEYWORD] = self
        self._pair = None  # a layer that is computed again in the backward pass comes here twice
        try:
            self._stock(hidden_1TD, *args, **told)
        except _Found as found:
            self._pair = found.pair
        else:
            raise ModelError(
                f"{type(self._layer).__name__}: must hand on what attention is told, but does not."
            )
        num_tokens = hidden_1TD.shape[1]
        rows_M = functional.pad(self._positions_M, (0, self._extra))
        few, args, told = self._few((hidden_1TD, args, told), rows_M, num_tokens)
        self._routing = next((site.routing for site in self._sites if site.routing is not None), None)
        with standing(self._sites, None if self._routing is None else self._routing.at(self._positions_M)):
            out = self._stock(few, *args, **told)
        self._pair = None
        states_MD = (out if isinstance(out, Tensor) else out[0])[0, : len(self._positions_M)]
        return _spread(states_MD, self._positions_M, num_tokens)[None]

    def _few(self, value: Any, rows_M: Tensor, num_tokens: int) -> Any:
        """Return ``value`` with every tensor (1, T, ...) in it cut down to the tokens that are read."""
        if isinstance(value, Tensor):
            is_by_token = value.dim() > 1 and value.shape[:2] == (1, num_tokens)
            return value.index_select(1, rows_M) if is_by_token else value
        if isinstance(value, tuple | list):
            return type(value)(self._few(part, rows_M, num_tokens) for part in value)  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, dict):
            return {key: self._few(part, rows_M, num_tokens) for key, part in value.items()}  # pyright: ignore[reportUnknownVariableType]
        return value

    def attend(self, queries_NHE: Tensor, keys_NKE: Tensor, values_NKE: Tensor, attend: Attend) -> Tensor:
        """Return what attention gives the tokens that are read; the first call, over all of them, ends the layer."""
        if self._pair is None:
            raise _Found(keys_NKE, values_NKE)
        keys_TKE, values_TKE = self._pair
        count = len(self._positions_M)
        queries_THE = _spread(queries_NHE[:count], self._positions_M, len(keys_TKE))
        with standing(self._sites, self._routing):
            out_MHE = attend(queries_THE, keys_TKE, values_TKE).index_select(0, self._positions_M)
        return functional.pad(out_MHE, (0, 0, 0, 0, 0, self._extra))


def is_worth_it(num_read: int, num_tokens: int) -> bool:
    """Return whether so few tokens are read that narrowing the last layer saves time."""
    return num_read <= _MOST * num_tokens


def _spread(values_M: Tensor, positions_M: Tensor, count: int) -> Tensor:
    """Return values (M, ...) at their positions among ``count``, zero elsewhere."""
    return torch.zeros(count, *values_M.shape[1:], dtype=values_M.dtype, device=values_M.device).index_copy(
        0, positions_M, values_M
    )
