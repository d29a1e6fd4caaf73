"""A stock model's layers through ``torch.compile``: one compilation serves all layers of a kind and all lengths."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from weft.model.cut import Forward, forwards

BACKEND = "inductor"


@contextmanager
def compiled(layers: Sequence[nn.Module]) -> Generator[None]:
    """Let ``layers`` run compiled within the block.

    What is compiled is the function of the layer's class, with the layer as an argument: layers of one kind share it,
    adapters included, and token counts are symbols. Attention over rows laid end to end stays outside of the graphs: it
    has kernels of its own.
    """
    with forwards([(layer, _bound(layer)) for layer in layers]):
        yield


def _bound(layer: nn.Module) -> Forward:
    run = function_of(type(layer).forward)

    def forward(*args: Any, **told: Any) -> Any:
        return run(layer, *args, **told)

    return forward


@cache
def function_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` compiled, the same one each time, so that what was compiled is used again."""
    return torch.compile(function, dynamic=True, backend=BACKEND)
