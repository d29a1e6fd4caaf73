"""The plain product of a linear module, and its gradient with respect to the input, in one replaceable place.

A frozen weight may be laid out once in the order in which the machine's kernels read it. Whoever did that puts a
``Packed`` into the module's ``__dict__`` under ``packed``; everything that multiplies with the weight asks here.

Legend: T tokens, I input width, O output width.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Packed(Protocol):
    """A frozen weight in the machine's own order; both methods take and give any leading dimensions."""

    def forward(self, inputs: Tensor, bias: Tensor | None, /) -> Tensor:
        """Return outputs (..., O) for ``inputs`` (..., I)."""
        ...

    def backward(self, gradients: Tensor, /) -> Tensor:
        """Return the gradient (..., I) of the inputs for ``gradients`` (..., O) of the outputs."""
        ...


class _Frozen(Protocol):
    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor: ...

    def backward(self, gradients: Tensor, /) -> Tensor: ...


class FrozenProduct(torch.autograd.Function):
    """The product with a frozen weight that is not a tensor of the graph: gradients of inputs and bias."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, bias: Tensor | None, weight: _Frozen) -> Tensor:
        """Return what ``weight`` gives for ``inputs``."""
        ctx.weight = weight
        return weight.product(inputs, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the gradients of inputs and bias."""
        needs_input, needs_bias, _ = ctx.needs_input_grad
        return (
            ctx.weight.backward(grads[0]) if needs_input else None,
            grads[0].flatten(0, -2).sum(0) if needs_bias else None,
            None,
        )


def packed(module: nn.Module) -> Packed | None:
    """Return what stands in for the weight of ``module`` at present, None for the weight itself."""
    return module.__dict__.get("packed")


def is_plain(kind: type[nn.Module]) -> bool:
    """Return whether modules of class ``kind`` compute nothing but ``x W + b``: nn.Linear, or GPT-2's Conv1D."""
    if is_transposed(kind):
        return any(base.__name__ == "Conv1D" and base.forward is kind.forward for base in kind.__mro__)
    return kind.forward is nn.Linear.forward


def asks_here(kind: type[nn.Module]) -> bool:
    """Return whether modules of class ``kind`` multiply with their weight through this room, and in no other way.

    A class around a plain one says so by ``is_plain``, as ``weft.strategy.lora_layer`` does.
    """
    return is_plain(kind) or bool(getattr(kind, "is_plain", False))


def is_transposed(kind: type[nn.Module]) -> bool:
    """Return whether modules of class ``kind`` keep their weight as (I, O): by name, as transformers is not ours."""
    return not issubclass(kind, nn.Linear) and any(base.__name__ == "Conv1D" for base in kind.__mro__)


def forward(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return what a plain linear ``module`` gives, shape (..., O), for ``inputs`` (..., I)."""
    stand_in = packed(module)
    weight, bias = values(module)
    if stand_in is not None:
        return stand_in.forward(inputs, bias)
    return F.linear(inputs, weight.t() if is_transposed(type(module)) else weight, bias)


def product(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return ``x W`` (..., O) of a plain linear ``module`` for ``inputs`` (..., I), without its bias."""
    stand_in = packed(module)
    if stand_in is not None:
        return stand_in.forward(inputs, None)
    weight = values(module)[0]
    return F.linear(inputs, weight.t() if is_transposed(type(module)) else weight)


def backward_input(module: nn.Module, gradients: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Return the gradient (..., I) of the input for ``gradients`` (..., O) of the output.

    Args:
        module: a plain linear module.
        gradients: of its output.
        weight: as it was in the forward pass; default: what stands in the module now, packed or not.
    """
    stand_in = packed(module)
    if weight is None and stand_in is not None:
        return stand_in.backward(gradients)
    weight = values(module)[0] if weight is None else weight
    return torch.matmul(gradients, weight.t() if is_transposed(type(module)) else weight)


def backward_weight(module: nn.Module, gradients_TO: Tensor, inputs_TI: Tensor) -> Tensor:
    """Return the gradient of the weight, in the orientation in which ``module`` keeps it."""
    if is_transposed(type(module)):
        return inputs_TI.t() @ gradients_TO
    return gradients_TO.t() @ inputs_TI


def dense(module: nn.Module) -> Tensor:
    """Return the weight that ``module`` multiplies with, in its orientation: also where it is kept in few bits."""
    make = getattr(packed(module), "weight_OI", None)
    if make is None:
        return values(module)[0]
    return make().t() if is_transposed(type(module)) else make()


def values(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of ``module`` as they stand in it now."""
    # Straight from the table: nn.Module looks a parameter up only after all else has failed.
    parameters: dict[str, nn.Parameter | None] = vars(module)["_parameters"]
    weight = parameters["weight"]
    assert weight is not None
    return weight, parameters.get("bias")
