"""Frozen weights in the machine's order: the same products and gradients, never a stale weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from weft.core import linear, prepacked
from weft.core.prepacked import Direct, Stand, can_direct, can_prepack
from weft.core.twins import Twins

BF16 = torch.bfloat16
pytestmark = pytest.mark.skipif(not prepacked._works(), reason="this torch cannot lay weights out")


def made(kind):
    torch.manual_seed(0)
    module = nn.Linear(48, 32) if kind == "linear" else Conv1D(32, 48)
    module = module.to(BF16)
    module.weight.requires_grad_(False)
    return module


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("shape", [(5, 48), (1, 7, 48), (2, 3, 48)])
def test_outputs_and_gradients_are_those_of_the_plain_product(kind, shape):
    module = made(kind)
    x, y = (torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(BF16) for _ in range(2))
    results = []
    for packed, inputs in ((False, x.requires_grad_()), (True, y.requires_grad_())):
        stand = Stand(module, module.weight)
        if packed:
            stand.put()
        module.bias.grad = None
        outputs = module(inputs)
        (outputs.float() ** 2).sum().backward()
        results.append((outputs.detach(), inputs.grad, module.bias.grad.clone()))
        stand.remove()
    for plain, laid_out in zip(*results, strict=True):
        torch.testing.assert_close(laid_out, plain, rtol=2e-2, atol=2e-2)
    assert module(x).shape == results[0][0].shape


def test_a_changed_weight_is_laid_out_anew():
    module = made("linear")
    stand = Stand(module, module.weight)
    stand.put()
    module.weight.fill_(0.0)
    stand.put()
    assert torch.equal(module(torch.ones(1, 48, dtype=BF16))[0], module.bias)
    stand.remove()
    assert linear.packed(module) is None
    assert "forward" not in vars(module)


def test_only_frozen_bf16_products_on_the_cpu():
    module = made("linear")
    assert can_prepack(module, module.weight, BF16)
    assert can_prepack(module, module.weight.float(), BF16)
    assert not can_prepack(module, module.weight, torch.float16)
    assert not can_prepack(nn.LayerNorm(4), torch.ones(4), BF16)
    module.weight.requires_grad_(True)
    assert not can_prepack(module, module.weight, BF16)


def test_twins_use_it_for_what_is_frozen_and_leave_no_trace():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    model[0].requires_grad_(False)
    twins = Twins(model, BF16)
    x = torch.randn(3, 16).to(BF16)
    with twins.standing_in():
        assert linear.packed(model[0]) is not None
        assert linear.packed(model[1]) is None
        inside = model(x)
    expected = model.float()(x.float())
    torch.testing.assert_close(inside.float(), expected, rtol=5e-2, atol=5e-2)
    assert linear.packed(model[0]) is None


def test_a_laid_out_weight_has_no_copy_besides_unless_somebody_else_reads_it():
    model = nn.Sequential(nn.Embedding(16, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 16))
    model[1].weight = model[0].weight
    model.requires_grad_(False)
    twins = Twins(model, BF16)
    with twins.standing_in():
        assert model[1].weight.device.type == "cpu"
        assert model[2].weight.is_meta
        assert model[2].weight.dtype is BF16
        expected = model[2](model[0](torch.arange(16)))
    twins.stay()  # what the network answers with from here on is the laid-out weight alone
    with torch.no_grad():
        assert torch.equal(model[2](model[0](torch.arange(16))), expected)


@pytest.mark.parametrize("shape", [(5, 48), (1, 7, 48)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_trained_linear_equals_its_plain_self(shape, has_bias):
    torch.manual_seed(0)
    module = nn.Linear(48, 32, bias=has_bias).to(BF16)
    results = []
    for direct in (False, True):
        inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(BF16).requires_grad_()
        module.zero_grad()
        way = Direct(module)
        if direct:
            way.put()
        outputs = module(inputs)
        (outputs.float() ** 2).sum().backward()
        way.remove()
        with torch.no_grad():
            assert torch.equal(module(inputs), outputs)
        results.append([outputs.detach(), inputs.grad, *(p.grad.clone() for p in module.parameters())])
    for plain, direct in zip(*results, strict=True):
        torch.testing.assert_close(direct, plain, rtol=2e-2, atol=2e-2)
    assert "forward" not in vars(module)


def test_what_is_trained_stays_plain_where_the_class_is_not():
    class Own(nn.Linear):
        pass

    module = nn.Linear(4, 4).to(BF16)
    assert can_direct(module, module.weight, BF16)
    assert not can_direct(Own(4, 4).to(BF16), module.weight, BF16)
    assert not can_direct(module, module.weight, torch.float16)
    assert not can_direct(module, module.weight.detach(), BF16)
