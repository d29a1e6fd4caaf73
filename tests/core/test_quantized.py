"""Weights in few bits: how far off they are, how much they take, and that products are those with what is kept."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from weft.core import linear
from weft.core.quantized import BLOCK, NF4, is_quantized, quantized
from weft.core.twins import Twins
from weft.recipe.spec import Quantize

BOTH = pytest.mark.parametrize("how", list(Quantize))


def module_of(kind=nn.Linear, *, sizes=(96, 40)):
    torch.manual_seed(0)
    width_in, width_out = sizes
    made = Conv1D(width_out, width_in) if kind is Conv1D else nn.Linear(width_in, width_out)
    nn.init.normal_(made.weight, std=0.2)
    nn.init.normal_(made.bias)
    return made.requires_grad_(requires_grad=False)


def test_int8_is_off_by_at_most_half_a_scale():
    plain = module_of()
    few = linear.dense(quantized(plain, Quantize.INT8))
    scale_O1 = plain.weight.abs().amax(1, keepdim=True) / 127
    assert ((few - plain.weight).abs() <= 0.5001 * scale_O1).all()
    assert torch.allclose(
        few.abs().amax(1), plain.weight.abs().amax(1), rtol=1e-6
    )  # the largest of a row is kept


def test_nf4_is_off_by_at_most_half_a_gap_of_its_block():
    plain = module_of(sizes=(128, 64))
    few = linear.dense(quantized(plain, Quantize.NF4))
    blocks, largest = ((few - plain.weight).abs().view(-1, BLOCK), plain.weight.abs().view(-1, BLOCK).amax(1))
    widest = max(b - a for a, b in pairwise(NF4)) / 2
    of_scales = (largest.max() - largest.min()) / 255  # what storing scales in 8 bits adds
    assert (blocks <= (widest * (largest + of_scales) + of_scales)[:, None]).all()
    normal = (few - plain.weight).norm() / plain.weight.norm()
    assert 0.05 < normal < 0.12, "about a tenth for normal weights"


def test_values_that_nf4_has_are_kept_exactly():
    plain = nn.Linear(16, 4, bias=False)
    plain.weight = nn.Parameter(torch.tensor(NF4).repeat(4, 1) * 0.7, requires_grad=False)
    assert torch.allclose(linear.dense(quantized(plain, Quantize.NF4)), plain.weight, rtol=1e-6, atol=1e-7)


@BOTH
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize("sizes", [(96, 40), (7, 5)])  # the second fills no block
def test_products_and_gradients_are_those_with_the_weight_that_is_kept(how, kind, sizes):
    module = quantized(module_of(kind, sizes=sizes), how)
    plain = module_of(kind, sizes=sizes)
    plain.weight.data.copy_(linear.dense(module))
    found, expected = (
        torch.randn(3, 2, sizes[0], generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    found.requires_grad_()
    expected.requires_grad_()
    outputs = module(found), plain(expected)
    assert torch.allclose(*outputs, rtol=1e-6, atol=1e-6)
    for out in outputs:
        out.square().sum().backward()
    assert torch.allclose(found.grad, expected.grad, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(module(found), outputs[0])


@pytest.mark.parametrize(("how", "bits"), [(Quantize.INT8, 8.1), (Quantize.NF4, 4.2)])
def test_they_take_few_bits(how, bits):
    module = quantized(module_of(sizes=(1024, 512)), how)
    num_bytes = sum(held.nbytes for held in module.buffers(recurse=False))
    assert 0 < 8 * num_bytes / (1024 * 512) <= bits
    assert module.weight.untyped_storage().nbytes() == 4
    assert module.weight.shape == (512, 1024)


@BOTH
def test_zeros_stay_zeros(how):
    plain = module_of()
    plain.weight.data.zero_()
    assert torch.equal(linear.dense(quantized(plain, how)), plain.weight)


@BOTH
def test_the_same_bits_each_time_and_the_module_stays(how):
    plain = module_of()
    before = plain.weight.clone()
    first, second = quantized(plain, how), quantized(plain, how)
    assert torch.equal(linear.dense(first), linear.dense(second))
    assert torch.equal(plain.weight, before)
    assert not is_quantized(plain)
    assert is_quantized(first)
    assert isinstance(first, nn.Linear)


@BOTH
def test_what_reads_the_parameter_finds_no_number(how):
    assert quantized(module_of(), how).weight.isnan().all()


@BOTH
def test_in_bf16_nothing_is_copied(how):
    holder = nn.ModuleDict({"one": quantized(module_of(), how)})
    twins = Twins(holder, torch.bfloat16)
    inputs = torch.randn(4, 96)
    exact = holder["one"](inputs)
    with twins.standing_in():
        assert holder["one"].weight.is_meta
        rough = holder["one"](inputs.bfloat16())
    assert rough.dtype is torch.bfloat16
    assert (rough.float() - exact).norm() <= 0.01 * exact.norm()


@BOTH
def test_buffers_are_what_is_kept(how):
    module = quantized(module_of(), how)
    names = {name for name, _ in module.named_buffers()}
    assert names == ({"codes", "scales"} if how is Quantize.INT8 else {"codes", "scales", "lines"})
    assert not [name for name in module.state_dict() if name in names]
    assert quantized(module_of().to("meta"), how).weight.is_meta
