"""Frozen bf16 weights in the order in which oneDNN's products read them on a CPU: laid out once, not at every call.

Legend: T tokens, I input width, O output width.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from weft.core import linear


class Prepacked:
    """A frozen weight laid out in bf16 for the product with inputs and, once it is asked for, with gradients.

    Args:
        weight_OI: on the CPU; read again when gradients are first asked for.
    """

    def __init__(self, weight_OI: Tensor) -> None:
        self._weight_OI: Tensor | None = weight_OI
        self._forward = _laid_out(weight_OI.to(torch.bfloat16))
        self._backward: Tensor | None = None

    def forward(self, inputs: Tensor, bias: Tensor | None, /) -> Tensor:
        """Return outputs (..., O) for ``inputs`` (..., I); differentiable in inputs and bias."""
        if torch.is_grad_enabled() and (inputs.requires_grad or (bias is not None and bias.requires_grad)):
            return linear.FrozenProduct.apply(inputs, bias, self)
        return self.product(inputs, bias)

    def product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """Return outputs without a graph."""
        return _times(inputs, self._forward, bias)

    def backward(self, gradients: Tensor, /) -> Tensor:
        """Return the gradient (..., I) of the inputs for ``gradients`` (..., O) of the outputs."""
        if self._backward is None:
            assert self._weight_OI is not None, "a network that only answers has no gradients"
            self._backward = _laid_out(self._weight_OI.t().to(torch.bfloat16).contiguous())
        return _times(gradients, self._backward, None)

    def forget(self) -> None:
        """Keep only what the product with inputs needs."""
        self._weight_OI = None


class Direct:
    """A trained linear module in bf16: oneDNN adds the bias itself, where ``F.linear`` first copies it over the output.

    Args:
        module: nn.Linear, with bf16 parameters on the CPU while it is in use.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def put(self) -> None:
        """Let the module compute this way."""
        vars(self._module)["forward"] = self._forward

    def remove(self) -> None:
        """Let the module compute as its class says again."""
        vars(self._module).pop("forward", None)

    def stay(self) -> None:
        """The same, for good."""
        self.put()

    def _forward(self, inputs: Tensor) -> Tensor:
        weight_OI, bias = linear.values(self._module)
        if not torch.is_grad_enabled():
            return _times(inputs, weight_OI, bias)
        return _Trained.apply(inputs, weight_OI, bias)


class _Trained(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight_OI: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight_OI)
        return _times(inputs, weight_OI, bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight_OI = ctx.saved_tensors
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad
        gradients_TO = grads[0].reshape(-1, grads[0].shape[-1])
        found = gradients_TO @ weight_OI if needs_input else None
        return (
            None if found is None else found.view(inputs.shape),
            gradients_TO.t() @ inputs.reshape(-1, inputs.shape[-1]) if needs_weight else None,
            gradients_TO.sum(0) if needs_bias else None,
        )


class Stand:
    """One linear module whose frozen weight can be used in its prepacked form.

    Args:
        module: a plain linear module; it may be one that takes adapters and asks ``weft.core.linear`` by itself.
        weight: what is multiplied with, in the module's orientation and in any dtype.
    """

    def __init__(self, module: nn.Module, weight: nn.Parameter) -> None:
        self._module = module
        self.weight: nn.Parameter | None = weight
        self._packed: Prepacked | None = None
        self._version = -1

    def put(self) -> None:
        """Let the module use the prepacked weight, made anew if the weight has changed."""
        if self.weight is not None and (self._packed is None or self._version != self.weight._version):
            weight = self.weight.detach()
            self._packed = Prepacked(weight.t().contiguous() if _is_transposed(self._module) else weight)
            self._version = self.weight._version
        own = vars(self._module)
        own["packed"] = self._packed
        if linear.is_plain(type(self._module)):
            own["forward"] = partial(linear.forward, self._module)

    def stay(self) -> None:
        """Let the module use the prepacked weight for good, without gradients; the weight itself is not kept here."""
        self.put()
        self.weight = None
        if self._packed is not None:
            self._packed.forget()

    def remove(self) -> None:
        """Let the module compute as its class says again."""
        vars(self._module).pop("packed", None)
        vars(self._module).pop("forward", None)


def can_prepack(module: nn.Module, weight: Tensor, dtype: torch.dtype) -> bool:
    """Return whether ``module`` multiplies as ``linear`` does, its ``weight`` is frozen, and torch can lay it out."""
    return linear.asks_here(type(module)) and not weight.requires_grad and _fits(weight, dtype)


def can_direct(module: nn.Module, weight: Tensor, dtype: torch.dtype) -> bool:
    """Return whether ``module`` is nn.Linear itself with a trained ``weight`` for which ``Direct`` works."""
    return type(module) is nn.Linear and weight.requires_grad and _fits(weight, dtype)


def _fits(weight: Tensor, dtype: torch.dtype) -> bool:
    return weight.device.type == "cpu" and dtype is torch.bfloat16 and _works()


def _is_transposed(module: nn.Module) -> bool:
    return linear.is_transposed(type(module))


@cache
def _works() -> bool:
    """Return whether torch has the operators and they compute what ``linear`` does."""
    try:
        x, w, b = (torch.arange(n, dtype=torch.float32).bfloat16() for n in (32, 64, 4))
        found = _times(x.view(2, 16), _laid_out(w.view(4, 16)), b)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.equal(found, nn.functional.linear(x.view(2, 16), w.view(4, 16), b))


def _laid_out(weight_OI: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight_OI)


def _times(inputs: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
