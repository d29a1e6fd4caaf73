"""Bottleneck adapters with a gate: each token's output times a sigmoid of what the adapter is given there."""

from __future__ import annotations

import pytest
import torch
from tests.strategy.test_low_rank import drawn, made

from weft.core import linear
from weft.core.layout import Layout
from weft.core.routing import Routing, routed
from weft.core.sites import SiteMap
from weft.strategy.adapters import extract
from weft.strategy.apply import apply
from weft.strategy.bottleneck import GATES, BottleneckRule, BottleneckSite, Form
from weft.strategy.edit import edited
from weft.strategy.plan import plan

SHAPES = ((3, 6), (3,), (6, 3), (6,), (1, 6), (1,))


def site(kind="linear", **gates):
    """Return a site with one adapter for each of ``gates``, which says whether it has a gate."""
    layer = edited(made(kind, 8, 6).requires_grad_(requires_grad=False), BottleneckSite)
    for at, (name, is_gated) in enumerate(gates.items()):
        options = {"form": "pfeiffer", "size": 3, "activation": "relu", "scale": 2.0, "kind": kind}
        tensors = {
            table: drawn(*shape, seed=10 * at + index)
            for index, (table, shape) in enumerate(zip(BottleneckSite.tables, SHAPES, strict=True))
            if is_gated or table not in GATES
        }
        layer.put(name, {**options, **({"gate": True} if is_gated else {})}, tensors, edit=BottleneckSite)
    return layer


def added(layer, outputs, name, *, is_gated):
    narrow = torch.relu(outputs @ layer.bottleneck_down[name].T + layer.bottleneck_down_bias[name])
    wide = 2.0 * (narrow @ layer.bottleneck_up[name].T + layer.bottleneck_up_bias[name])
    if not is_gated:
        return wide
    logits = outputs @ layer.bottleneck_gate[name][0] + layer.bottleneck_gate_bias[name]
    return wide / (1 + (-logits).exp())[..., None]


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_each_token_has_its_gate_and_adapters_without_one_have_none(kind):
    layer, inputs = site(kind, plain=False, gated=True), drawn(2, 5, 8, seed=3)
    weight, bias = linear.values(layer)
    base = inputs @ (weight if kind == "conv1d" else weight.T)
    base = base if bias is None else base + bias
    first = base + added(layer, base, "plain", is_gated=False)
    expected = first + added(layer, first, "gated", is_gated=True)
    assert torch.allclose(layer(inputs), expected, rtol=1e-5, atol=1e-5)
    with routed(layer, Routing.of([("plain",), ("gated",)], [1, 0], Layout.padded([5, 5]))):
        outputs = layer(inputs)
    assert torch.allclose(
        outputs[0], (base + added(layer, base, "gated", is_gated=True))[0], rtol=1e-5, atol=1e-5
    )
    assert torch.allclose(
        outputs[1], (base + added(layer, base, "plain", is_gated=False))[1], rtol=1e-5, atol=1e-5
    )


def test_a_token_does_not_see_others_through_the_gate():
    layer, inputs = site(gated=True), drawn(1, 5, 8, seed=3)
    changed = inputs.clone()
    changed[0, 3:] += 1.0
    assert torch.equal(layer(inputs)[0, :3], layer(changed)[0, :3])


@pytest.mark.parametrize("form", [Form.PFEIFFER, Form.PARALLEL])
def test_a_gate_starts_half_open_and_learns(toy, form):
    network = toy.network()
    sites = SiteMap(network, toy.describe(network))
    before = toy.outputs(network)
    made_ = plan(
        sites.view, [BottleneckRule(form=form, size=2, gate=True)], tasks=["a"], stage_lr=None, adapter="one"
    )
    sites, table = apply(sites, made_, describe=toy.describe, seed=0)
    assert torch.equal(toy.outputs(network), before)
    parameters = dict(sites.parameters())
    gates = [path for path in parameters if "bottleneck_gate" in path]
    assert len(gates) == 2 * 2
    assert not any(parameters[path].any() for path in gates)  # sigmoid(0) is a half
    optimizer = torch.optim.AdamW([parameters[row.path] for row in table.trained()], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        toy.outputs(network).square().sum().backward()
        optimizer.step()
    assert all(parameters[path].any() for path in gates)
    (state,) = extract(sites, ["one"])
    assert set(gates) < set(state.tensors)


def test_rows_are_found_while_the_weight_is_laid_out_elsewhere():
    layer = site(plain=False, gated=True)
    layer._parameters["weight"] = torch.nn.Parameter(torch.empty(6, 8, device="meta"), requires_grad=False)
    with routed(layer, Routing.of([("plain",), ("gated",)], [1, 0], Layout.padded([2, 2]))):
        found = dict(layer.acting(BottleneckSite, (2, 2)))
    assert {name: positions.tolist() for name, positions in found.items()} == {
        "plain": [2, 3],
        "gated": [0, 1],
    }
