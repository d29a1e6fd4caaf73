"""A mixed batch through LoRA sites: each row as if its own adapter were the only one, also in its gradients."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.strategy.test_low_rank import drawn, hands, made
from torch import Tensor
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from weft.core.layout import Layout
from weft.core.routing import NONE, Routing, routed
from weft.strategy.edit import edited
from weft.strategy.lora_layer import LoraSite

NAMES = ("p", "q", "r")


def site(kind: str = "linear", *, names: Sequence[str] = NAMES, dropout: float = 0.0) -> LoraSite:
    layer = edited(made(kind, 8, 6).requires_grad_(requires_grad=False), LoraSite)
    for index, name in enumerate(names):
        rank = 1 + index % 3
        options = {"rank": rank, "alpha": 3.0, "dropout": dropout, "kind": kind}
        layer.add(name, options, drawn(rank, 8, seed=index), drawn(6, rank, seed=50 + index))
        for factors in (layer.lora_A, layer.lora_B):
            factors[name].requires_grad_()
    return layer


def alone(layer: LoraSite, inputs: Tensor, names: Sequence[str]) -> Tensor:
    """Return what the site gives where it has ``names`` only."""
    weight = layer.weight.t() if "Conv1D" in type(layer).__name__ else layer.weight
    outputs = torch.nn.functional.linear(inputs, weight, layer.bias)
    for name in names:
        if name in layer.lora_options:
            outputs = outputs + inputs @ layer.lora_A[name].t() @ layer.lora_B[name].t() * layer.scale(name)
    return outputs


def rowwise(layer: LoraSite, inputs: Tensor, routing: Routing, shared: Sequence[str] = ()) -> Tensor:
    """Return packed ``inputs`` (1, T, I) passed row by row."""
    pieces = inputs[0].split(routing.lengths)
    own = [() if row == NONE else routing.groups[row] for row in routing.rows]
    return torch.cat([alone(layer, piece, (*shared, *names)) for piece, names in zip(pieces, own, strict=True)])[None]  # fmt: skip


@hands
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.integers(-1, 6), st.integers(1, 80)), min_size=1, max_size=20),
    kind=st.sampled_from(["linear", "conv1d"]),
    grad=st.booleans(),
    is_sorted=st.booleans(),
)
def test_every_row_passes_through_its_own_adapter(
    choose,
    native: bool,
    rows: list[tuple[int, int]],
    kind: str,
    grad: bool,
    is_sorted: bool,
) -> None:
    choose(native)
    names = tuple("abcdefg")
    layer = site(kind, names=names[:-1])  # of the seventh there is nothing here
    rows = sorted(rows) if is_sorted else rows
    routing = Routing.of(names, [row for row, _ in rows], Layout.packed([length for _, length in rows]))
    inputs = drawn(1, sum(routing.lengths), 8, seed=99)
    other = site(names=names)  # holds the seventh
    with torch.set_grad_enabled(grad), routed([layer, other], routing):
        outputs = layer(inputs)
    assert torch.allclose(outputs, rowwise(layer, inputs, routing), atol=1e-4, rtol=1e-5)


@hands
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.integers(-1, 4), st.integers(1, 80)), min_size=1, max_size=12),
    kind=st.sampled_from(["linear", "conv1d"]),
    grad=st.booleans(),
    is_plain=st.booleans(),
)
def test_a_row_may_take_several_adapters_of_a_site(
    choose,
    native: bool,
    rows: list[tuple[int, int]],
    kind: str,
    grad: bool,
    is_plain: bool,
) -> None:
    choose(native)
    layer = site(kind, names=tuple("abcdef"), dropout=0.5 if is_plain else 0.0)
    layer.train(mode=False)
    groups = (("a",), ("b", "a"), ("c", "d", "e"), ("e", "b"), ("d",))  # f is shared
    routing = Routing.of(groups, [row for row, _ in rows], Layout.packed([length for _, length in rows]))
    inputs = drawn(1, sum(routing.lengths), 8, seed=99)
    with torch.set_grad_enabled(grad), routed(layer, routing):
        outputs = layer(inputs)
    assert torch.allclose(outputs, rowwise(layer, inputs, routing, shared=["f"]), atol=1e-4, rtol=1e-5)


@hands
def test_gradients_of_rows_with_several_adapters(choose, native: bool) -> None:
    choose(native)
    layer, twin = site(names=tuple("abcd")), site(names=tuple("abcd"))
    routing = Routing.of((("a", "b"), ("c", "b"), ("d",)), [0, 1, 0], Layout.packed([70, 90, 40]))
    inputs, seen = drawn(1, 200, 8, seed=1), drawn(1, 200, 6, seed=2)
    with routed(layer, routing):
        layer(inputs).backward(seen)
    rowwise(twin, inputs, routing).backward(seen)
    for ours, theirs in ((layer.lora_A, twin.lora_A), (layer.lora_B, twin.lora_B)):
        assert ours["d"].grad is None
        for name in "abc":
            assert torch.allclose(ours[name].grad, theirs[name].grad, rtol=1e-4, atol=1e-4)


def test_rows_without_an_adapter_get_the_bases_output_bit_by_bit() -> None:
    layer = site()
    routing = Routing.of(NAMES, [1, NONE], Layout.padded([4, 4]))
    inputs = drawn(2, 4, 8, seed=1)
    with routed(layer, routing):
        outputs = layer(inputs)
    assert torch.equal(outputs[1], torch.nn.functional.linear(inputs, layer.weight, layer.bias)[1])
    with routed(layer, Routing.of(NAMES, [NONE, NONE], Layout.padded([4, 4]))):
        assert torch.equal(layer(inputs), torch.nn.functional.linear(inputs, layer.weight, layer.bias))


def test_adapters_that_are_not_routed_act_on_every_row() -> None:
    layer = site()
    inputs = drawn(1, 6, 8, seed=1)
    for grad in (True, False):
        routing = Routing.of(("r", "q"), [0, NONE], Layout.packed([4, 2]))
        with torch.set_grad_enabled(grad), routed(layer, routing):
            outputs = layer(inputs)
        assert torch.allclose(outputs, rowwise(layer, inputs, routing, shared=["p"]), atol=1e-5)


@hands
def test_gradients_are_those_of_rows_apart_and_land_in_present_adapters_only(choose, native: bool) -> None:
    choose(native)
    layer, twin = site(), site()
    routing = Routing.of(NAMES, [2, 0, 2], Layout.packed([70, 90, 40]))
    inputs = drawn(1, 200, 8, seed=1).requires_grad_()
    copy = inputs.detach().clone().requires_grad_()
    seen = drawn(1, 200, 6, seed=2)
    with routed(layer, routing):
        layer(inputs).backward(seen)
    rowwise(twin, copy, routing).backward(seen)
    assert torch.allclose(inputs.grad, copy.grad, atol=1e-4)
    for ours, theirs in ((layer.lora_A, twin.lora_A), (layer.lora_B, twin.lora_B)):
        assert ours["q"].grad is None
        for name in ("p", "r"):
            assert torch.allclose(ours[name].grad, theirs[name].grad, rtol=1e-4, atol=1e-4)


@hands
def test_gradients_over_many_blocks(choose, native: bool) -> None:
    choose(native)
    names = tuple(f"x{index}" for index in range(40))
    layer, twin = site(names=names), site(names=names)
    routing = Routing.of(names, list(range(40)), Layout.packed([16] * 40))
    assert len(routing.blocks((1, 640), names, overhead=200)) > 2
    inputs, seen = drawn(1, 640, 8, seed=1), drawn(1, 640, 6, seed=2)
    with routed(layer, routing):
        layer(inputs).backward(seen)
    rowwise(twin, inputs, routing).backward(seen)
    for name in names:
        for ours, theirs in ((layer.lora_A, twin.lora_A), (layer.lora_B, twin.lora_B)):
            assert torch.allclose(ours[name].grad, theirs[name].grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["autocast", "dropout"])
def test_the_plain_way_is_routed_too(how: str) -> None:
    layer = site(dropout=0.5 if how == "dropout" else 0.0).train()
    routing = Routing.of(NAMES, [2, NONE, 0], Layout.padded([4, 4, 4]))
    inputs = drawn(3, 4, 8, seed=1)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"), routed(layer, routing):
        outputs = layer(inputs).float()
    base = torch.nn.functional.linear(inputs, layer.weight, layer.bias)
    assert torch.allclose(outputs[1], base[1], atol=0.05)
    assert (outputs[0] - base[0]).abs().max() > 0.1
    if how == "autocast":
        assert torch.allclose(outputs[2], alone(layer, inputs[2], "p"), atol=0.2, rtol=0.05)


def mixed(layer: LoraSite, inputs: Tensor) -> Tensor:
    routing = Routing.of(NAMES, [0, 2], Layout.padded([4, 4]))
    with torch.no_grad(), routed(layer, routing):
        outputs = layer(inputs)
    expected = torch.cat([alone(layer, inputs[:1], "p"), alone(layer, inputs[1:], "r")])
    assert torch.allclose(outputs, expected, atol=1e-5)
    return vars(layer)["_stack"].A_RI


def test_factors_are_stacked_once_and_anew_when_one_changes(choose) -> None:
    choose(native=False)  # the kernels take each by itself
    layer, inputs = site(), drawn(2, 4, 8, seed=1)
    first = mixed(layer, inputs)
    assert mixed(layer, inputs) is first
    with torch.no_grad():
        layer.lora_A["q"].add_(1)  # of no row here
    assert mixed(layer, inputs) is first
    with torch.no_grad():
        layer.lora_B["r"].mul_(3)
    second = mixed(layer, inputs)
    assert second is not first
    layer.lora_A["p"] = torch.nn.Parameter(layer.lora_A["p"].detach() * 2)
    third = mixed(layer, inputs)
    assert third is not second
    layer(inputs)  # with gradients: somebody trains
    assert "_stack" not in vars(layer)
    layer.lora_A["p"].data.mul_(2)  # behind torch's back
    assert mixed(layer, inputs) is not third


def test_half_precision_twins_get_a_stack_of_their_own(choose) -> None:
    choose(native=False)  # the kernels take each by itself
    layer, inputs = site(), drawn(2, 4, 8, seed=1)
    first = mixed(layer, inputs)
    layer.bfloat16()
    routing = Routing.of(NAMES, [0, 2], Layout.padded([4, 4]))
    with torch.no_grad(), routed(layer, routing):
        outputs = layer(inputs.bfloat16())
    assert outputs.dtype is torch.bfloat16
    expected = torch.cat([alone(site(), inputs[:1], "p"), alone(site(), inputs[1:], "r")])
    assert torch.allclose(outputs.float(), expected, rtol=0.05, atol=0.1)
    assert vars(layer)["_stack"].A_RI is not first


def bert() -> torch.nn.Module:
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)  # fmt: skip
    return BertModel(config)


def llama() -> torch.nn.Module:
    config = LlamaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32)  # fmt: skip
    return LlamaModel(config)


def adapt(model: torch.nn.Module, names: Sequence[str]) -> torch.nn.Module:
    """Put adapters called ``names`` at every linear module, the pooler too."""
    generator = torch.Generator().manual_seed(1)
    for path, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear:
            layer = edited(module, LoraSite)
            for name in names:
                A_RI = torch.randn(4, module.in_features, generator=generator) * 0.3
                B_OR = torch.randn(module.out_features, 4, generator=generator) * 0.3
                layer.add(name, {"rank": 4, "alpha": 4.0, "dropout": 0.0, "kind": "linear"}, A_RI, B_OR)
            model.set_submodule(path, layer)
    return model.eval()


@pytest.mark.parametrize("make", [bert, llama])
def test_a_whole_model_on_a_padded_mixed_batch_equals_one_adapter_at_a_time(make) -> None:
    torch.manual_seed(0)
    model = adapt(make(), NAMES)
    tokens = torch.randint(1, 50, (4, 7), generator=torch.Generator().manual_seed(3))
    lengths, rows = [7, 3, 5, 4], [0, 2, 1, 2]
    layout = Layout.padded(lengths)
    mask = layout.mask_BL().long()
    with torch.no_grad(), routed(model, Routing.of(NAMES, rows, layout)):
        together = model(input_ids=tokens, attention_mask=mask)
    for row, (length, place) in enumerate(zip(lengths, rows, strict=True)):
        torch.manual_seed(0)
        single = adapt(make(), NAMES)
        keep_only(single, NAMES[place])
        with torch.no_grad():
            found = single(input_ids=tokens[row : row + 1, :length])
        assert torch.allclose(together.last_hidden_state[row, :length], found.last_hidden_state[0], atol=1e-5)
        if make is bert:
            assert torch.allclose(together.pooler_output[row], found.pooler_output[0], atol=1e-5)


def keep_only(model: torch.nn.Module, name: str) -> None:
    for module in model.modules():
        if isinstance(module, LoraSite):
            module.lora_options = {name: module.lora_options[name]}
