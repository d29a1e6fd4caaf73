"""One place multiplies with a linear module's weight: either orientation, packed or not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from weft.core import linear


class Loud:
    """A packed weight that is ten times the one it stands for, so that its use shows."""

    def __init__(self, weight_OI: Tensor) -> None:
        self.weight_OI = 10 * weight_OI

    def forward(self, inputs: Tensor, bias: Tensor | None, /) -> Tensor:
        return F.linear(inputs, self.weight_OI, bias)

    def backward(self, gradients: Tensor, /) -> Tensor:
        return gradients @ self.weight_OI


MODULES = pytest.mark.parametrize(
    "module",
    [nn.Linear(6, 4), nn.Linear(6, 4, bias=False), Conv1D(4, 6)],
    ids=["linear", "bare", "conv1d"],
)


@MODULES
@pytest.mark.parametrize("leading", [(5,), (2, 5), ()], ids=str)
def test_products_and_gradients_are_those_of_the_module(module: nn.Module, leading: tuple[int, ...]) -> None:
    inputs = torch.randn(*leading, 6, requires_grad=True)
    expected = module(inputs)
    gradients = torch.randn_like(expected)
    module.zero_grad()
    expected.backward(gradients)
    assert torch.allclose(linear.forward(module, inputs), expected, atol=1e-6)
    found = linear.backward_input(module, gradients)
    assert torch.allclose(found, inputs.grad, atol=1e-6)
    flat = linear.backward_weight(module, gradients.reshape(-1, 4), inputs.detach().reshape(-1, 6))
    assert torch.allclose(flat, module.weight.grad, atol=1e-5)


@MODULES
def test_what_is_packed_multiplies_in_the_weights_place(module: nn.Module) -> None:
    weight_OI = module.weight.detach().t() if isinstance(module, Conv1D) else module.weight.detach()
    inputs, gradients = torch.randn(5, 6), torch.randn(5, 4)
    plain = linear.forward(module, inputs)
    bias = torch.zeros(4) if module.bias is None else module.bias.detach()
    try:
        vars(module)["packed"] = Loud(weight_OI)
        assert torch.allclose(linear.forward(module, inputs) - bias, 10 * (plain - bias), atol=1e-4)
        assert torch.allclose(linear.backward_input(module, gradients), 10 * gradients @ weight_OI, atol=1e-4)
        of_weight = linear.backward_input(module, gradients, weight=module.weight)
        assert torch.allclose(of_weight, gradients @ weight_OI, atol=1e-5)
    finally:
        del vars(module)["packed"]
    assert torch.equal(linear.forward(module, inputs), plain)


def test_the_weight_that_stands_in_the_table_is_the_one_used() -> None:
    module = nn.Linear(3, 2)
    other = nn.Parameter(torch.ones(2, 3))
    module._parameters["weight"] = other
    assert torch.allclose(linear.forward(module, torch.ones(1, 3)) - module.bias, torch.full((1, 2), 3.0))


class Squared(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).square()


def test_only_modules_that_are_their_product_are_plain() -> None:
    assert linear.is_plain(nn.Linear)
    assert linear.is_plain(Conv1D)
    assert not linear.is_plain(Squared)
    assert not linear.is_plain(nn.Embedding)
    assert (linear.is_transposed(Conv1D), linear.is_transposed(nn.Linear)) == (True, False)
