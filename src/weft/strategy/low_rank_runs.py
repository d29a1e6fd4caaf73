"""A linear module plus low-rank updates, each on its own neighbouring tokens, by the compiled kernels.

Rows of a batch that take the same adapter lie beside one another, so an adapter has one run of tokens or a few. Each is
multiplied with its own factors alone: nothing is stacked, masked, or multiplied in vain.

Legend: T tokens, I input width, O output width, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from weft.core import linear
from weft.core.routing import Routing
from weft.native import low_rank as native


class Run(NamedTuple):
    """Neighbouring tokens, None for all of them, and the place of the update that acts on them."""

    update: int
    tokens: slice | None = None


WHOLE = (Run(0),)


def with_runs(
    module: nn.Module, inputs: Tensor, updates: Sequence[native.Thin], runs: Sequence[Run]
) -> Tensor:
    """Return ``module(inputs)``, shape (..., O), plus at each run's tokens what its update adds.

    Args:
        module: a plain linear module (``linear.is_plain``); its weight and bias may be trained too.
        inputs: shape (..., I), in the dtype of all factors.
        updates: low-rank ones; one without a run gets gradients of zero.
        runs: one after the other; tokens are positions of the flattened leading dimensions.
    """
    if torch.is_grad_enabled():
        factors = chain.from_iterable((update.A_RI, update.B_OR) for update in updates)
        return cast(Any, _WithRuns.apply)(module, updates, runs, inputs, *linear.values(module), *factors)
    inputs = inputs.contiguous()
    outputs = linear.forward(module, inputs)
    _add(updates, runs, inputs, outputs)
    return outputs


def routed_runs(
    routing: Routing, leading: Sequence[int], *, num_shared: int, lanes: Sequence[tuple[str, ...]]
) -> tuple[Run, ...]:
    """Return what acts where in a batch whose rows have adapters of their own.

    Args:
        routing: of the batch.
        leading: dimensions of the site's input but the last.
        num_shared: how many updates, the first, act on every row.
        lanes: the names of the others' adapters (``Routing.lanes``).
    """
    runs, before = [Run(at) for at in range(num_shared)], num_shared
    for lane in lanes:
        blocks = routing.runs(leading, lane)
        runs += [Run(before + block.first, slice(block.start, block.stop)) for block in blocks]
        before += len(lane)
    return tuple(runs)


def _at(tensor: Tensor, run: Run) -> Tensor:
    """Return the part of ``tensor`` (..., D) that lies at the tokens of ``run``, dense as all of it is."""
    return tensor if run.tokens is None else tensor.view(-1, tensor.shape[-1])[run.tokens]


def _add(
    updates: Sequence[native.Thin],
    runs: Sequence[Run],
    inputs: Tensor,
    outputs: Tensor,
    *,
    keep: Sequence[bool] | None = None,
) -> list[Tensor | None]:
    """Add what each run's update makes of ``inputs`` to ``outputs``; return the narrow sides that are to be kept."""
    kept: list[Tensor | None] = []
    for run in runs:
        update, wide = updates[run.update], _at(inputs, run)
        narrow = native.new_narrow(update, wide) if keep is not None and keep[run.update] else None
        native.add(update, wide, _at(outputs, run), narrow=narrow)
        kept.append(narrow)
    return kept


class _WithRuns(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        module: nn.Module,
        updates: Sequence[native.Thin],
        runs: Sequence[Run],
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,  # noqa: ARG004 (named so that autograd asks for its gradient)
        *factors: Tensor,
    ) -> Tensor:
        inputs = inputs.contiguous()
        outputs = linear.forward(module, inputs)
        _, _, _, _, for_weight, _, *for_factors = ctx.needs_input_grad
        ctx.narrow = _add(updates, runs, inputs, outputs, keep=for_factors[1::2])
        ctx.module, ctx.updates, ctx.runs, ctx.packed = module, updates, runs, linear.packed(module)
        # The factors are kept for the check that nobody has changed them since.
        ctx.save_for_backward(inputs if for_weight or any(for_factors[::2]) else None, weight, *factors)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inputs, weight, *_ = ctx.saved_tensors
        _, _, _, for_inputs, for_weight, for_bias, *for_factors = ctx.needs_input_grad
        grads = gradients.contiguous()
        d_inputs = input_gradient(ctx, grads, weight) if for_inputs else None
        d_factors = _through_updates(ctx, grads, d_inputs, inputs, for_factors)
        d_weight = d_bias = None
        if for_weight or for_bias:
            grads_TO = grads.view(-1, grads.shape[-1])
            d_bias = grads_TO.sum(0) if for_bias else None
            if for_weight:
                d_weight = linear.backward_weight(ctx.module, grads_TO, inputs.view(-1, inputs.shape[-1]))
        return None, None, None, d_inputs, d_weight, d_bias, *d_factors


def _through_updates(
    ctx: Any, grads: Tensor, d_inputs: Tensor | None, inputs: Tensor | None, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of A and B of each update and add that of the inputs to ``d_inputs``."""
    updates: Sequence[native.Thin] = ctx.updates
    found: list[Tensor | None] = [None] * len(wanted)
    for run, narrow in zip(ctx.runs, ctx.narrow, strict=True):
        place = 2 * run.update
        pair = native.gradients(
            updates[run.update],
            _at(grads, run),
            inputs=_at(cast(Tensor, inputs), run) if wanted[place] else None,
            narrow=narrow,
            d_inputs=None if d_inputs is None else _at(d_inputs, run),
        )
        for at, more in enumerate(pair, start=place):
            known = found[at]
            found[at] = more if known is None or more is None else known.add_(more)
    for at, update in enumerate(updates):
        for place, factor in enumerate((update.A_RI, update.B_OR), start=2 * at):
            if wanted[place] and found[place] is None:
                found[place] = torch.zeros_like(factor)
    return found


def input_gradient(ctx: Any, grads: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of a linear module's inputs, by the form that its weight was laid out in for this pass."""
    if ctx.packed is not None:
        return ctx.packed.backward(grads)
    return linear.backward_input(ctx.module, grads, weight=weight)
