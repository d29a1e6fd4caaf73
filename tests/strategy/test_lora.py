"""The LoRA layer and method: closed forms, determinism, what is refused."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from weft.core.parts import AdapterState
from weft.core.sites import SiteMap
from weft.core.view import SiteKind
from weft.errors import StrategyError
from weft.strategy.adapters import extract, joined, merged, restore
from weft.strategy.edit import edited
from weft.strategy.lora import Lora, LoraRule
from weft.strategy.lora_layer import LoraSite, initial, update
from weft.strategy.site_method import widths


def options(rank, *, alpha=None, dropout=0.0, kind="linear"):
    return {"rank": rank, "alpha": 2.0 * rank if alpha is None else alpha, "dropout": dropout, "kind": kind}


def factors(rank, width_in, width_out, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, width_in, generator=generator), torch.randn(width_out, rank, generator=generator)


def maps(toy):
    network = toy.network()
    return SiteMap(network, toy.describe(network))


def site_at(sites, path):
    return sites.site(path)


@pytest.mark.parametrize(
    "base", [nn.Linear(6, 4), nn.Linear(6, 4, bias=False), Conv1D(4, 6)], ids=["linear", "bare", "conv1d"]
)
def test_the_forward_is_the_formula(base):
    layer = edited(base, LoraSite)
    A_RI, B_OR = factors(3, 6, 4)
    layer.add("x", options(3, alpha=12), A_RI, B_OR)
    inputs = torch.randn(2, 5, 6)
    expected = base(inputs) + (12 / 3) * inputs @ A_RI.T @ B_OR.T
    assert torch.allclose(layer(inputs), expected, atol=1e-5)


def test_adapters_add_up_each_with_its_own_scale():
    layer = edited(nn.Linear(6, 4), LoraSite)
    inputs, base = torch.randn(5, 6), layer(torch.zeros(1, 6))
    expected = layer(inputs)
    for index, (name, alpha) in enumerate([("x", 1.0), ("y", 5.0)]):
        A_RI, B_OR = factors(2, 6, 4, seed=index)
        layer.add(name, options(2, alpha=alpha), A_RI, B_OR)
        expected = expected + alpha / 2 * inputs @ A_RI.T @ B_OR.T
    assert torch.allclose(layer(inputs), expected, atol=1e-5)
    assert torch.equal(layer(torch.zeros(1, 6)), base)


def test_the_base_keeps_its_parameters_names_and_class():
    base = nn.Linear(6, 4)
    layer = edited(base, LoraSite)
    layer.add("x", options(2), *factors(2, 6, 4))
    assert isinstance(layer, nn.Linear)
    assert (layer.weight is base.weight, layer.bias is base.bias) == (True, True)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias", "lora_A.x", "lora_B.x"]
    assert [name for name, _ in base.named_parameters()] == ["weight", "bias"]
    assert edited(layer, LoraSite) is layer
    assert set(layer.state_dict()) == {"weight", "bias", "lora_A.x", "lora_B.x"}


def test_new_factors_are_frozen_copies():
    A_RI, B_OR = factors(2, 6, 4)
    layer = edited(nn.Linear(6, 4), LoraSite)
    layer.add("x", options(2), A_RI, B_OR)
    A_RI.zero_()
    assert layer.lora_A["x"].abs().sum() > 0
    assert not layer.lora_A["x"].requires_grad
    assert not layer.lora_B["x"].requires_grad


@pytest.mark.parametrize("name", ["train", "keys", "type", "weight", "0", "a-b"])
def test_any_plain_name_will_do(name):
    """Names of stages become names of adapters, and nn.ParameterDict itself refuses 'train'."""
    layer = edited(nn.Linear(6, 4), LoraSite)
    layer.add(name, options(2), *factors(2, 6, 4))
    assert f"lora_A.{name}" in dict(layer.named_parameters())
    twin = copy.deepcopy(layer)
    inputs = torch.randn(3, 6)
    assert torch.equal(twin(inputs), layer(inputs))
    twin.load_state_dict(layer.state_dict())
    assert layer.to(torch.float64).lora_A[name].dtype is torch.float64


def test_dropout_acts_on_the_update_while_training_only():
    layer = edited(nn.Linear(60, 40), LoraSite)
    A_RI, B_OR = factors(2, 60, 40)
    layer.add("x", options(2, dropout=0.5), A_RI, B_OR)
    inputs = torch.randn(3, 60)
    plain = F.linear(inputs, layer.weight, layer.bias)
    layer.eval()
    assert torch.allclose(layer(inputs), plain + 2 * inputs @ A_RI.T @ B_OR.T, atol=1e-4)
    layer.train()
    torch.manual_seed(0)
    dropped = layer(inputs)
    torch.manual_seed(0)
    assert torch.allclose(dropped, plain + 2 * F.dropout(inputs, 0.5) @ A_RI.T @ B_OR.T, atol=1e-4)


def test_products_are_bf16_and_gradients_fp32_under_autocast():
    layer = edited(nn.Linear(16, 16), LoraSite)
    layer.add("x", options(2), *factors(2, 16, 16))
    layer.lora_A["x"].requires_grad_()
    inputs = torch.randn(4, 16)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = layer(inputs)
    assert outputs.dtype is torch.bfloat16
    assert torch.allclose(outputs.float(), layer(inputs), rtol=0.05, atol=0.5)
    outputs.float().sum().backward()
    assert layer.lora_A["x"].grad.dtype is torch.float32
    assert layer.lora_B["x"].grad is None


def test_first_factors_are_uniform_within_the_kaiming_bound():
    A_RI = initial((64, 100), seed=5)
    assert A_RI.abs().max() <= 1 / math.sqrt(100)
    assert A_RI.std().item() == pytest.approx(1 / math.sqrt(3 * 100), rel=0.02)
    assert torch.equal(A_RI, initial((64, 100), seed=5))
    assert not torch.equal(A_RI, initial((64, 100), seed=6))


def test_initial_values_depend_on_seed_name_and_path_only(toy):
    def drawn(seed, adapter, path):
        sites = maps(toy)
        Lora().install(sites, sites.site(path), LoraRule(rank=2), adapter=adapter, seed=seed)
        return sites.module(path).lora_A[adapter].detach()

    torch.manual_seed(1)
    first = drawn(0, "one", "layers.0.attention.query")
    torch.manual_seed(2)
    assert torch.equal(first, drawn(0, "one", "layers.0.attention.query"))
    for other in ((1, "one", "layers.0"), (0, "two", "layers.0"), (0, "one", "layers.1")):
        assert not torch.equal(first, drawn(other[0], other[1], f"{other[2]}.attention.query"))


@given(
    width_in=st.integers(1, 9), width_out=st.integers(1, 9), rank=st.integers(1, 4), kind=st.sampled_from(["linear", "conv1d"])
)  # fmt: skip
def test_merging_is_the_formula_and_repeatable(width_in, width_out, rank, kind):
    A_RI, B_OR = factors(rank, width_in, width_out)
    shape = (width_in, width_out) if kind == "conv1d" else (width_out, width_in)
    weight = torch.randn(shape)
    before = weight.clone()
    state = AdapterState(
        "x", "lora", {"sites": {"s": options(rank, kind=kind)}}, {"s.lora_A.x": A_RI, "s.lora_B.x": B_OR}
    )
    merged = Lora().merged({"s.weight": weight, "s.bias": torch.zeros(1)}, state)
    delta = 2.0 * (B_OR @ A_RI)
    assert torch.equal(merged["s.weight"], weight + (delta.T if kind == "conv1d" else delta))
    assert torch.equal(weight, before)
    assert torch.equal(merged["s.weight"], Lora().merged({"s.weight": weight}, state)["s.weight"])
    assert widths(shape, SiteKind(kind)) == (width_in, width_out)


def test_merging_keeps_the_dtype_and_works_in_fp32():
    A_RI, B_OR = factors(2, 8, 8)
    weight = torch.randn(8, 8).bfloat16()
    state = AdapterState("x", "lora", {"sites": {"s": options(2)}}, {"s.lora_A.x": A_RI, "s.lora_B.x": B_OR})
    merged = Lora().merged({"s.weight": weight}, state)["s.weight"]
    expected = (weight.float() + update(A_RI, B_OR, scale=2.0, kind=SiteKind.LINEAR)).bfloat16()
    assert merged.dtype is torch.bfloat16
    assert torch.equal(merged, expected)


def test_merging_into_the_wrong_weights_is_refused():
    A_RI, B_OR = factors(2, 8, 4)
    state = AdapterState("x", "lora", {"sites": {"s": options(2)}}, {"s.lora_A.x": A_RI, "s.lora_B.x": B_OR})
    with pytest.raises(StrategyError, match=r"s\.weight: must be given"):
        Lora().merged({}, state)
    with pytest.raises(StrategyError, match=r"s\.weight: must have the shape \(4, 8\)"):
        Lora().merged({"s.weight": torch.zeros(8, 4)}, state)


def installed(toy, rule=None):
    sites = maps(toy)
    for path in ("layers.0.attention.query", "layers.1.ffn.down"):
        Lora().install(sites, site_at(sites, path), rule or LoraRule(rank=2), adapter="one", seed=0)
    return SiteMap(sites.network, toy.describe(sites.network))


def test_the_options_are_what_the_rule_says(toy):
    (state,) = extract(installed(toy, LoraRule(rank=4, alpha=3, dropout=0.1)), ["one"])
    assert state.config == {
        "sites": {
            "layers.0.attention.query": options(4, alpha=3.0, dropout=0.1),
            "layers.1.ffn.down": options(4, alpha=3.0, dropout=0.1, kind="conv1d"),
        }
    }
    assert set(state.tensors) == {f"{s}.lora_{f}.one" for s in state.config["sites"] for f in "AB"}


def test_what_is_extracted_does_not_follow_the_network(toy):
    sites = installed(toy)
    (state,) = extract(sites, ["one"])
    before = {path: tensor.clone() for path, tensor in state.tensors.items()}
    for _, parameter in sites.parameters():
        parameter.data.add_(1)
    assert all(torch.equal(tensor, before[path]) for path, tensor in state.tensors.items())


def test_one_name_once_a_site(toy):
    sites = installed(toy)
    (state,) = extract(sites, ["one"])
    with pytest.raises(StrategyError, match="has 'one' already"):
        restore(sites, state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: replace(s, tensors={}), "must have shape (16, 2)|must have shape"),
        (lambda s: replace(s, tensors={**s.tensors, "extra": torch.zeros(1)}), "extra must have shape none"),
        (lambda s: replace(s, tensors={p: t[:1] for p, t in s.tensors.items()}), "must have shape"),
        (
            lambda s: replace(s, config={"sites": {"nowhere": options(2)}}),
            "nowhere must be a conv1d or embedding or linear site",
        ),
        (lambda s: replace(s, config={"sites": {"layers.0.norm.ffn": options(2)}}), "but is norm"),
        (
            lambda s: replace(s, config={"sites": {"layers.0.attention.query": options(2, kind="conv1d")}}),
            "must be conv1d, but is linear",
        ),
        (lambda s: replace(s, method="nora"), "must be a method, but is unknown"),
        (lambda s: replace(s, method="full"), "must bring an adapter"),
        (lambda s: replace(s, name="../one"), "must be 1-64 letters"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(toy, change, said):
    (state,) = extract(installed(toy), ["one"])
    sites = maps(toy)
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(")", r"\)")):
        restore(sites, change(state))
    assert toy.describe(sites.network) == sites.view


def test_joined_adapters_do_what_they_did_one_on_the_other():
    site = {"one": (2, 5.0), "two": (3, 4.0)}
    states = [
        AdapterState(
            name,
            "lora",
            {"sites": {"s": options(rank, alpha=alpha)} | ({"only": options(rank)} if name == "two" else {})},
            {
                f"{path}.lora_{letter}.{name}": tensor
                for path in (("s", "only") if name == "two" else ("s",))
                for letter, tensor in zip("AB", factors(rank, 6, 4, seed=rank), strict=True)
            },
        )
        for name, (rank, alpha) in site.items()
    ]
    both = joined(states, name="both")
    assert (both.name, both.method, both.config["sites"]["s"]["rank"]) == ("both", "lora", 5)
    weights = {"s.weight": torch.randn(4, 6), "only.weight": torch.zeros(4, 6)}
    apart = merged(weights, states)
    for path, value in merged(weights, [both]).items():
        assert torch.allclose(value, apart[path], atol=1e-5)
    assert both.config["sites"]["only"] == states[1].config["sites"]["only"]


def test_one_adapter_joined_only_changes_its_name(toy):
    (state,) = extract(installed(toy), ["one"])
    renamed = joined([state], name="other")
    assert renamed.config == state.config
    for path, tensor in state.tensors.items():
        assert torch.equal(renamed.tensors[path.removesuffix("one") + "other"], tensor)
    sites = maps(toy)
    restore(sites, renamed)
    assert sites.module("layers.0.attention.query").lora_options == {"other": options(2)}


def test_what_cannot_be_joined_is_refused(toy):
    (state,) = extract(installed(toy), ["one"])
    wet = replace(
        state, config={"sites": {p: {**o, "dropout": 0.1} for p, o in state.config["sites"].items()}}
    )
    with pytest.raises(StrategyError, match="one dropout"):
        joined([state, wet], name="x")
    with pytest.raises(StrategyError, match="of one method"):
        joined([state, replace(state, method="other")], name="x")
    with pytest.raises(StrategyError, match="none"):
        joined([], name="x")
    with pytest.raises(ValueError, match="1-64 letters"):
        joined([state], name="../x")
