"""Gates of rows: a LoRA, an adapter and a prefix behind one, against the formula and against what has no gate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from weft.core.layout import Layout
from weft.core.routing import NONE, Routing, routed
from weft.core.sites import SiteMap
from weft.errors import StrategyError
from weft.strategy.bottleneck import GATES, BottleneckRule, BottleneckSite
from weft.strategy.edit import edited
from weft.strategy.fusion import FusionRule
from weft.strategy.gated_lora import GatedLora, GatedLoraRule, GatedLoraSite
from weft.strategy.lora_layer import initial
from weft.strategy.named import resolve
from weft.strategy.plan import plan
from weft.strategy.prefix import ROW_GATE, PrefixRule
from weft.strategy.registry import adapter_method

WIDTH, OUT, RANK = 6, 5, 2


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gated(names=("x",), *, dropout=0.0):
    torch.manual_seed(0)
    layer = edited(nn.Linear(WIDTH, OUT), GatedLoraSite)
    for seed, name in enumerate(names):
        tensors = {
            "gated_A": drawn(RANK, WIDTH, seed=seed),
            "gated_B": drawn(OUT, RANK, seed=10 + seed),
            "gated_gate": drawn(1, WIDTH, seed=20 + seed),
            "gated_gate_bias": drawn(1, seed=30 + seed),
        }
        layer.put(name, {"rank": RANK, "dropout": dropout, "kind": "linear"}, tensors, edit=GatedLoraSite)
    return layer


def by_formula(layer, row_TI, name):
    """As the authors' code has it: the mean over the row of a sigmoid takes the place of alpha / rank."""
    outputs = F.linear(row_TI, layer.weight, layer.bias)
    if name is None:
        return outputs
    gate = torch.sigmoid(F.linear(row_TI, layer.gated_gate[name], layer.gated_gate_bias[name])).mean(0)
    return outputs + row_TI @ layer.gated_A[name].t() @ layer.gated_B[name].t() * gate


@pytest.mark.parametrize("packs", [True, False])
def test_rows_of_several_adapters_are_as_each_alone(packs):
    layer, lengths, own = gated(("x", "y")), [3, 1, 4], ["y", None, "x"]
    texts = [drawn(length, WIDTH, seed=50 + length) for length in lengths]
    places = [{"x": 0, "y": 1, None: NONE}[name] for name in own]
    if packs:
        layout, given = Layout.packed(lengths), torch.cat(texts)[None]
    else:
        layout, given = Layout.padded(lengths), torch.full((3, 4, WIDTH), 7.0)
        for row, text in enumerate(texts):
            given[row, : len(text)] = text
    with routed(layer, Routing.of(("x", "y"), places, layout)):
        outputs = layer(given)
    rows = outputs[0].split(lengths) if packs else [o[:n] for o, n in zip(outputs, lengths, strict=True)]
    for found, text, name in zip(rows, texts, own, strict=True):
        torch.testing.assert_close(found, by_formula(layer, text, name))


def test_dropout_is_the_updates_and_not_the_gates():
    layer = gated(dropout=0.5)
    inputs = drawn(1, 8, WIDTH, seed=3)
    assert torch.allclose(layer.eval()(inputs)[0], by_formula(layer, inputs[0], "x"), atol=1e-5)
    torch.manual_seed(1)
    found = layer.train()(inputs)[0] - F.linear(inputs[0], layer.weight, layer.bias)
    torch.manual_seed(1)
    dropped = F.dropout(inputs, 0.5)[0]
    gate = torch.sigmoid(F.linear(inputs[0], layer.gated_gate["x"], layer.gated_gate_bias["x"])).mean()
    torch.testing.assert_close(found, dropped @ layer.gated_A["x"].t() @ layer.gated_B["x"].t() * gate)


def put(toy, rule, path, name="one", seed=0):
    network = toy.network()
    sites = SiteMap(network, toy.describe(network))
    made = adapter_method(rule.train)
    made.install(sites, sites.site(path), rule, adapter=name, seed=seed)
    return SiteMap(network, toy.describe(network))


def test_a_new_one_starts_closed_below_and_half_open(toy):
    sites = put(toy, GatedLoraRule(rank=2), "layers.0.attention.query")
    tensors = {path.split(".")[-2]: value for path, value in sites.parameters() if path.endswith(".one")}
    assert tensors["gated_A"].shape == (2, 8)
    assert torch.equal(tensors["gated_A"].detach(), tensors["gated_A"])
    assert not tensors["gated_B"].any()
    assert tensors["gated_gate"].abs().max() < 0.1
    assert not tensors["gated_gate_bias"].any()
    assert initial((2, 8), seed=0).abs().max() <= 8**-0.5
    assert sites.network.sees_rows
    assert not put(toy, BottleneckRule(gate=True), "layers.0.ffn.down").network.sees_rows


def test_an_open_gate_is_an_adapter_without_one(toy):
    """A gate that is the same for all rows is a factor: of the adapter's output, of the prefix's keys and values."""
    path, half = "layers.0.ffn.down", 0.5
    by_row = put(toy, BottleneckRule(size=3, gate="row"), path)
    plain = put(toy, BottleneckRule(size=3, scale=half), path)
    for sites in (by_row, plain):
        module = sites.module(path)
        module.bottleneck_up["one"].data.copy_(drawn(8, 3, seed=1))
    by_row.module(path).bottleneck_gate["one"].data.zero_()
    torch.testing.assert_close(toy.outputs(by_row.network), toy.outputs(plain.network))
    path = "layers.0.attention.qkv"
    by_row, plain = put(toy, PrefixRule(tokens=3, gate="row"), path), put(toy, PrefixRule(tokens=3), path)
    by_row.module(path).prefix_row_gate["one"].data.zero_()
    for side in ("prefix_key", "prefix_value"):
        table = getattr(by_row.module(path), side)["one"]
        getattr(plain.module(path), side)["one"].data.copy_(half * table)
    torch.testing.assert_close(toy.outputs(by_row.network), toy.outputs(plain.network))
    assert not vars(by_row.module(path)).get("prefix_noted"), "nothing of a pass stays"


def test_a_rows_gate_is_a_tokens_where_a_row_is_one_token():
    torch.manual_seed(0)
    made = {}
    for gate in (True, "row"):
        layer = edited(nn.Linear(WIDTH, WIDTH), BottleneckSite)
        shapes = {"bottleneck_down": (2, WIDTH), "bottleneck_down_bias": (2,), "bottleneck_up": (WIDTH, 2)}
        shapes |= {"bottleneck_up_bias": (WIDTH,)} | dict(zip(GATES, ((1, WIDTH), (1,)), strict=True))
        tensors = {table: drawn(*shape, seed=at) for at, (table, shape) in enumerate(shapes.items())}
        options = {"form": "pfeiffer", "activation": "tanh", "scale": 2.0, "gate": gate, "kind": "linear"}
        layer.put("x", options, tensors, edit=BottleneckSite)
        layer.load_state_dict(
            {"weight": drawn(WIDTH, WIDTH, seed=8), "bias": drawn(WIDTH, seed=9)}, strict=False
        )
        made[gate] = layer
    grid = drawn(4, 1, WIDTH, seed=7)
    assert torch.equal(made["row"](grid), made[True](grid))
    assert not torch.allclose(made["row"](grid.view(1, 4, WIDTH)), made[True](grid.view(1, 4, WIDTH)))


def test_models_that_write_text_are_refused(bert, llama, t5):
    rules = resolve("unipelt")
    assert plan(bert, rules, tasks=["sentiment"], stage_lr=None, adapter="s").installs
    for view in (replace(llama, is_causal=True), t5):
        for rule in (
            GatedLoraRule(sites="attention"),
            BottleneckRule(gate="row"),
            PrefixRule(gate="row"),
        ):
            method = adapter_method(rule.train)
            sites = [site for site in view.sites if method.stands_at(view, site)]
            with pytest.raises(StrategyError, match="a gate of a row must stand in an encoder"):
                method.check(view, sites, rule)


def test_the_prefixs_gate_lies_with_the_values(bert):
    made = plan(bert, resolve("unipelt"), tasks=["sentiment"], stage_lr=None, adapter="s")
    gates = [row for row in made.table.trained() if row.path.split(".")[-2] in ROW_GATE]
    assert [row.shape for row in gates] == [(1, 8), (1,)] * 12
    assert all(".attention.value." in row.path for row in gates)
    owners = {row.owner for row in made.table.trained() if row.owner.startswith("adapter:")}
    assert owners == {"adapter:s-gated-lora", "adapter:s-prefix", "adapter:s-adapter"}
    assert [adapter_method(rule.train).keeps_function(rule) for rule in resolve("unipelt")] == [
        True,
        False,
        True,
    ]
    assert GatedLora().sees_rows({})


def test_what_follows_from_a_row_is_not_fused(bert):
    method = adapter_method("fusion")
    below = [
        type("Below", (), {"name": name, "method": "adapter", "options": {"layers.0.ffn.down": at}})()
        for name, at in (
            ("a", {"form": "pfeiffer"}),
            ("b", {"form": "pfeiffer", "gate": "row"}),
        )
    ]
    with pytest.raises(StrategyError, match="there must be two trained bottleneck adapters"):
        method.bound(FusionRule(), tasks=(), view=bert, below=below)
