"""The fused product with low-rank updates against the formula written out: values, gradients, what is not computed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from weft.native import available
from weft.strategy.edit import edited
from weft.strategy.lora_layer import LoraSite
from weft.strategy.low_rank import Part, is_uniform, low_rank

needs_kernels = pytest.mark.skipif(not available(), reason="no compiled kernels: run `python hatch_build.py`")
hands = pytest.mark.parametrize("native", [pytest.param(True, marks=needs_kernels), False])
THIN = "weft.native.low_rank.thin"


def plain(module: nn.Module, inputs: Tensor, A_RI: Tensor, B_OR: Tensor, scale: float) -> Tensor:
    weight = module.weight.t() if isinstance(module, Conv1D) else module.weight
    return F.linear(inputs, weight, module.bias) + F.linear(F.linear(inputs, A_RI) * scale, B_OR)


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def made(kind: str, width_in: int, width_out: int) -> nn.Module:
    torch.manual_seed(0)
    if kind == "conv1d":
        return Conv1D(width_out, width_in)
    return nn.Linear(width_in, width_out, bias=kind == "linear")


KINDS = ("linear", "bare", "conv1d")


@hands
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    leading=st.sampled_from([(1,), (7,), (2, 3), (1, 9), (2, 1, 3)]),
    rank=st.integers(1, 4),
    scale=st.sampled_from([1.0, 2.0, 0.3]),
    trained=st.sets(st.sampled_from(["inputs", "weight", "bias", "A", "B"])),
)
def test_values_and_gradients_are_those_of_the_formula(
    choose,
    native: bool,
    kind: str,
    leading: tuple[int, ...],
    rank: int,
    scale: float,
    trained: set[str],
) -> None:
    choose(native)
    module = made(kind, 6, 5)
    tensors = {
        "inputs": drawn(*leading, 6, seed=1),
        "weight": module.weight,
        "bias": module.bias,
        "A": drawn(rank, 6, seed=2),
        "B": drawn(5, rank, seed=3),
    }
    asked = [t.requires_grad_(name in trained) for name, t in tensors.items() if t is not None]
    asked = [tensor for tensor in asked if tensor.requires_grad]
    outputs = low_rank(module, tensors["inputs"], tensors["A"], tensors["B"], parts=[Part(scale)])
    expected = plain(module, tensors["inputs"], tensors["A"], tensors["B"], scale)
    assert torch.allclose(outputs, expected, atol=1e-5)
    assert outputs.requires_grad == bool(asked)
    if asked:
        seen = drawn(*leading, 5, seed=4)
        ours = torch.autograd.grad(outputs, asked, seen)
        for one, other in zip(ours, torch.autograd.grad(expected, asked, seen), strict=True):
            assert torch.allclose(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind: str) -> None:
    module = made(kind, 4, 3).double()
    A_RI, B_OR = drawn(2, 4, seed=1, dtype=torch.float64), drawn(3, 2, seed=2, dtype=torch.float64)
    inputs = drawn(2, 3, 4, seed=3, dtype=torch.float64)
    wanted = [tensor.requires_grad_() for tensor in (inputs, A_RI, B_OR, *module.parameters())]
    assert torch.autograd.gradcheck(
        lambda inputs, A, B, *_: low_rank(module, inputs, A, B, parts=[Part(0.7)]), tuple(wanted)
    )


def test_used_twice_in_one_graph() -> None:
    module = made("linear", 6, 6)
    A_RI, B_OR = drawn(2, 6, seed=1).requires_grad_(), drawn(6, 2, seed=2).requires_grad_()
    inputs = drawn(4, 6, seed=3).requires_grad_()

    def twice(product) -> Tensor:
        return product(product(inputs).tanh()).square().sum()

    wanted = [inputs, A_RI, B_OR, module.weight, module.bias]
    ours = torch.autograd.grad(twice(lambda x: low_rank(module, x, A_RI, B_OR, parts=[Part(2.0)])), wanted)
    theirs = torch.autograd.grad(twice(lambda x: plain(module, x, A_RI, B_OR, 2.0)), wanted)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_second_derivative_is_refused_not_wrong() -> None:
    module, A_RI, B_OR = made("linear", 3, 3), drawn(1, 3, seed=1), drawn(3, 1, seed=2)
    inputs = drawn(2, 3, seed=3).requires_grad_()
    outputs = low_rank(module, inputs, A_RI, B_OR, parts=[Part(1.0)]).tanh().sum()
    (first,) = torch.autograd.grad(outputs, inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


class Spy:
    """A packed weight that counts."""

    def __init__(self, weight_OI: Tensor) -> None:
        self.weight_OI, self.calls = weight_OI, []

    def forward(self, inputs: Tensor, bias: Tensor | None, /) -> Tensor:
        self.calls.append("forward")
        return F.linear(inputs, self.weight_OI, bias)

    def backward(self, gradients: Tensor, /) -> Tensor:
        self.calls.append("backward")
        return gradients @ self.weight_OI


def test_a_packed_weight_is_used_both_ways_also_when_it_is_gone_by_the_backward_pass() -> None:
    module = made("linear", 6, 5).requires_grad_(requires_grad=False)
    A_RI, B_OR = drawn(2, 6, seed=1).requires_grad_(), drawn(5, 2, seed=2).requires_grad_()
    inputs = drawn(4, 6, seed=3).requires_grad_()
    spy = Spy(module.weight.detach().clone())
    vars(module)["packed"] = spy
    outputs = low_rank(module, inputs, A_RI, B_OR, parts=[Part(2.0)])
    del vars(module)["packed"]
    found = torch.autograd.grad(outputs.sum(), [inputs, A_RI, B_OR])
    expected = torch.autograd.grad(plain(module, inputs, A_RI, B_OR, 2.0).sum(), [inputs, A_RI, B_OR])
    assert spy.calls == ["forward", "backward"]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def site(kind: str = "linear", *, count: int = 1, dropout: float = 0.0) -> LoraSite:
    layer = edited(made(kind, 8, 6).requires_grad_(requires_grad=False), LoraSite)
    for index in range(count):
        options = {"rank": 2 + index, "alpha": 3.0, "dropout": dropout, "kind": kind}
        layer.add(f"x{index}", options, drawn(2 + index, 8, seed=index), drawn(6, 2 + index, seed=9 + index))
        for factors in (layer.lora_A, layer.lora_B):
            factors[f"x{index}"].requires_grad_()
    return layer


def written_out(layer: LoraSite, inputs: Tensor) -> Tensor:
    weight = layer.weight.t() if isinstance(layer, Conv1D) else layer.weight
    outputs = F.linear(inputs, weight, layer.bias)
    for name in layer.lora_options:
        outputs = outputs + F.linear(F.linear(inputs, layer.lora_A[name]), layer.lora_B[name]) * layer.scale(
            name
        )
    return outputs  # fmt: skip


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_site_equals_the_formula_with_any_number_of_adapters(kind: str, count: int) -> None:
    layer, inputs = site(kind, count=count), drawn(2, 4, 8, seed=7).requires_grad_()
    wanted = [inputs, *layer.lora_A.parameters(), *layer.lora_B.parameters()]
    seen = drawn(2, 4, 6, seed=8)
    outputs, expected = layer(inputs), written_out(layer, inputs)
    assert torch.allclose(outputs, expected, atol=1e-5)
    grads = torch.autograd.grad(outputs, wanted, seen)
    for one, other in zip(grads, torch.autograd.grad(expected, wanted, seen), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert layer.weight.grad is None


def test_a_frozen_adapter_beside_a_trained_one_gets_no_gradient() -> None:
    layer = site(count=2)
    layer.lora_A["x0"].requires_grad_(requires_grad=False)
    layer.lora_B["x0"].requires_grad_(requires_grad=False)
    layer(drawn(3, 8, seed=5)).sum().backward()
    assert layer.lora_A["x0"].grad is None
    assert layer.lora_B["x0"].grad is None
    assert layer.lora_A["x1"].grad.abs().sum() > 0


def num_products(layer: LoraSite, inputs: Tensor) -> tuple[int, int]:
    """Return matrix products and full-size additions of one pass forward and back."""
    with torch.profiler.profile(record_shapes=True) as profile:
        layer(inputs).sum().backward()
    full = [list(inputs.shape), list(inputs.shape)]
    events = profile.events() or []
    names = [event.name for event in events]
    additions = [e for e in events if e.name == "aten::add" and e.input_shapes[:2] == full]
    return sum(name in ("aten::mm", "aten::addmm", "aten::addmm_") for name in names), len(additions)


@hands
def test_no_weight_gradient_and_no_second_full_size_tensor_is_made(choose, native: bool) -> None:
    choose(native)
    layer = site()
    inputs = drawn(16, 8, seed=3).requires_grad_()
    # Forward: base, A, B. Backward: B, base, A for the input; dA; dB. The kernels leave the base's two to torch.
    assert num_products(layer, inputs) == (2 if native else 8, 0)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 3, 2, 1), (37, 40, 50, 8), (9, 100, 33, 16), (3, 8, 8, 70)])
def test_both_hands_agree_with_what_is_not_dense_and_without_gradients(
    monkeypatch, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    num_tokens, width_in, width_out, rank = shape
    module = made("linear", width_in, width_out).to(dtype)
    A_RI = drawn(rank, width_in, seed=1, dtype=dtype).requires_grad_()
    B_OR = drawn(width_out, rank, seed=2, dtype=dtype).requires_grad_()
    inputs = drawn(width_in, num_tokens, seed=3, dtype=dtype).t().requires_grad_()
    found = []
    for native in (True, False):
        if not native:
            monkeypatch.setattr(THIN, lambda *_: None)
        outputs = low_rank(module, inputs, A_RI, B_OR, parts=[Part(0.5)])
        with torch.no_grad():
            assert torch.equal(low_rank(module, inputs, A_RI, B_OR, parts=[Part(0.5)]), outputs)
        seen = drawn(width_out, num_tokens, seed=4, dtype=dtype).t()
        found.append(
            [outputs, *torch.autograd.grad(outputs, [inputs, A_RI, B_OR, *module.parameters()], seen)]
        )
    for one, other in zip(*found, strict=True):
        size = other.abs().max().item()
        assert (one - other).abs().max() <= (1e-5 if dtype is torch.float32 else 0.02) * size


@hands
def test_a_factor_that_changes_before_the_backward_pass_is_noticed(choose, native: bool) -> None:
    choose(native)
    module, A_RI, B_OR = made("linear", 6, 5), drawn(2, 6, seed=1).requires_grad_(), drawn(5, 2, seed=2)
    outputs = low_rank(module, drawn(4, 6, seed=3), A_RI, B_OR, parts=[Part(1.0)])
    B_OR.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


def test_bf16_twins_compute_in_bf16_and_are_close_to_fp32() -> None:
    layer, inputs = site(count=2), drawn(32, 8, seed=3)
    expected = layer(inputs)
    twin = site(count=2).bfloat16()
    outputs = twin(inputs.bfloat16())
    assert outputs.dtype is torch.bfloat16
    assert torch.allclose(outputs.float(), expected, rtol=0.03, atol=0.1)
    outputs.float().sum().backward()
    assert twin.lora_A["x0"].grad.dtype is torch.bfloat16


def test_mixed_widths_and_dropout_take_the_plain_way() -> None:
    assert is_uniform(torch.zeros(1), torch.ones(1))
    assert not is_uniform(torch.zeros(1), torch.zeros(1).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_uniform(torch.zeros(1))
    layer = site(dropout=0.5).train()
    inputs = drawn(3, 8, seed=4)
    torch.manual_seed(0)
    outputs = layer(inputs)
    torch.manual_seed(0)
    dropped = F.dropout(inputs, 0.5)
    A_RI, B_OR = layer.lora_A["x0"], layer.lora_B["x0"]
    expected = F.linear(inputs, layer.weight, layer.bias) + 1.5 * dropped @ A_RI.t() @ B_OR.t()
    assert torch.allclose(outputs, expected, atol=1e-5)


class Doubled(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


def test_a_base_that_does_more_than_its_product_is_asked_itself() -> None:
    layer = edited(Doubled(8, 6), LoraSite)
    layer.add("x", {"rank": 2, "alpha": 2.0, "dropout": 0.0}, drawn(2, 8, seed=1), drawn(6, 2, seed=2))
    inputs = drawn(3, 8, seed=4)
    expected = 2 * F.linear(inputs, layer.weight, layer.bias)
    expected = expected + inputs @ layer.lora_A["x"].t() @ layer.lora_B["x"].t()
    assert torch.allclose(layer(inputs), expected, atol=1e-5)
