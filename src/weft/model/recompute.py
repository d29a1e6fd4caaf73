"""Layers that keep only what they were given, and compute the rest again when their gradient is wanted.

Legend: D width.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from weft.core.routing import Routable
from weft.model.cut import Forward, forwards
from weft.recipe.spec import Activations

Again = Callable[[], AbstractContextManager[Any]]


@contextmanager
def kept(how: Activations, layers: Sequence[nn.Module], *, again: Again) -> Generator[None]:
    """Keep of a pass within the block what ``how`` says.

    With ``RECOMPUTE`` a layer keeps its input, D numbers a token, and runs once more in the backward pass: a third more
    arithmetic for a small part of the memory. With ``OFFLOAD`` these inputs lie in the host's memory until then, pinned
    where a GPU will fetch them. Outputs and gradients are the same bits: random numbers are drawn again.

    Args:
        how: ``KEEP``, ``RECOMPUTE`` or ``OFFLOAD``.
        layers: of the stock model, with the ``forward`` that they will have in the pass.
        again: makes the context that a layer needs when it runs once more.

    Source: Chen et al., arXiv:1604.06174.
    """
    if how is Activations.KEEP or not torch.is_grad_enabled():
        yield
        return
    with ExitStack() as stack:
        if how is Activations.OFFLOAD:
            stack.enter_context(torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available()))
        stack.enter_context(forwards([(layer, _recomputed(layer, again)) for layer in layers]))
        yield


def _recomputed(layer: nn.Module, again: Again) -> Forward:
    stock = layer.forward

    def forward(*args: Any, **told: Any) -> Any:
        if not torch.is_grad_enabled():  # below a cut
            return stock(*args, **told)
        routings = [(part, part.routing) for part in layer.modules() if isinstance(part, Routable)]

        def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
            return nullcontext(), _as_it_was(routings, again)

        outputs: Tensor = checkpoint(stock, *args, use_reentrant=False, context_fn=contexts, **told)
        return outputs

    return forward


@contextmanager
def _as_it_was(routings: Sequence[tuple[Routable, Any]], again: Again) -> Generator[None]:
    """Route rows as in the pass: its own block has ended when gradients are taken."""
    now = [part.routing for part, _ in routings]
    try:
        for part, routing in routings:
            vars(part)["routing"] = routing
        with again():
            yield
    finally:
        for (part, _), routing in zip(routings, now, strict=True):
            vars(part)["routing"] = routing
