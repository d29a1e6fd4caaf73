"""Adapters as values: by table or by name, one on the other, bit by bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from weft.core.parts import AdapterState
from weft.core.sites import SiteMap
from weft.core.table import Role
from weft.errors import StrategyError
from weft.strategy.adapters import adapter_names, extract, given_back, joined, merged, restore
from weft.strategy.apply import apply
from weft.strategy.lora import LoraInit, LoraRule
from weft.strategy.plan import CarriedAdapter, plan


def stacked(toy):
    """Return a map and table of a network with adapters ``one`` (frozen) and ``two``, both with random factors."""
    network = toy.network()
    sites = SiteMap(network, toy.describe(network))
    table = None
    carried: list[CarriedAdapter] = []
    for name, rule in (("one", LoraRule(rank=2)), ("two", LoraRule(sites="attention", rank=3, alpha=1))):
        made = plan(sites.view, [rule], tasks=["a"], stage_lr=None, adapter=name, carried=carried)
        sites, table = apply(sites, made, describe=toy.describe, seed=0)
        generator = torch.Generator().manual_seed(len(name))
        for path, parameter in sites.parameters():
            if path.endswith(f".lora_B.{name}"):
                parameter.data.normal_(std=0.3, generator=generator)
        carried = [CarriedAdapter.of(state, Role.FROZEN) for state in extract(sites, table)]
    assert table is not None
    return sites, table


def test_names_come_in_stacking_order(toy):
    sites, table = stacked(toy)
    assert adapter_names(table) == ("one", "two")
    assert [state.name for state in extract(sites, table)] == ["one", "two"]
    assert [state.name for state in extract(sites, ["two"])] == ["two"]
    assert [len(state.config["sites"]) for state in extract(sites, table)] == [8, 4]


def test_a_round_trip_is_bitwise(toy):
    sites, table = stacked(toy)
    states = extract(sites, table)
    network = toy.network()
    fresh = SiteMap(network, toy.describe(network))
    for state in states:
        restore(fresh, state)
    fresh = SiteMap(network, toy.describe(network))
    assert fresh.view == sites.view
    again = extract(fresh, ["one", "two"])
    for one, two in zip(states, again, strict=True):
        assert (one.name, one.method, one.config) == (two.name, two.method, two.config)
        assert one.tensors.keys() == two.tensors.keys()
        assert all(torch.equal(one.tensors[path], two.tensors[path]) for path in one.tensors)
    assert torch.equal(toy.outputs(network), toy.outputs(sites.network))
    assert not any(p.requires_grad for path, p in fresh.parameters() if "lora" in path)


def test_the_stack_folds_into_the_weights(toy):
    sites, table = stacked(toy)
    states = extract(sites, table)
    weights = {path: p.detach().clone() for path, p in sites.parameters()}
    folded = merged(weights, states)
    assert set(folded) == {f"{site}.weight" for site in states[0].config["sites"]}
    path = "layers.0.attention.query"
    by_hand = weights[f"{path}.weight"].clone()
    for state in states:
        options = state.config["sites"][path]
        a, b = state.tensors[f"{path}.lora_A.{state.name}"], state.tensors[f"{path}.lora_B.{state.name}"]
        by_hand = by_hand + options["alpha"] / options["rank"] * (b @ a)
    assert torch.equal(folded[f"{path}.weight"], by_hand)
    network = toy.network()
    plain = SiteMap(network, toy.describe(network))
    for name, parameter in plain.parameters():
        parameter.data.copy_(folded.get(name, weights[name]))
    assert torch.allclose(toy.outputs(network), toy.outputs(sites.network), atol=1e-5)
    assert merged(weights, ()) == {}


def test_an_absent_name_is_answered_with_what_there_is(toy):
    sites, _ = stacked(toy)
    with pytest.raises(StrategyError, match=r"three: must be an adapter.*Choices: one, two\."):
        extract(sites, ["three"])


def test_what_has_no_weights_is_not_merged(toy):
    sites, table = stacked(toy)
    state = replace(extract(sites, table)[0], method="none")
    with pytest.raises(StrategyError, match="none: must bring an adapter"):
        merged({}, [state])


def test_a_weight_leaves_with_what_it_gave_up(toy):
    network = toy.network()
    sites = SiteMap(network, toy.describe(network))
    path = "layers.0.attention.query.weight"
    before = dict(sites.parameters())[path].detach().clone()
    rule = LoraRule(sites="attention", rank=2, init=LoraInit.PISSA)
    made = plan(sites.view, [rule], tasks=["a"], stage_lr=None, adapter="one")
    sites, _ = apply(sites, made, describe=toy.describe, seed=0)
    values = {name: parameter.detach().clone() for name, parameter in sites.parameters()}
    assert (values[path] - before).abs().max() > 0.1
    back = given_back(sites, {path: values[path], "layers.0.norm.ffn.weight": torch.ones(8)})
    assert torch.allclose(back[path], before, rtol=1e-5, atol=1e-6)
    assert torch.equal(back["layers.0.norm.ffn.weight"], torch.ones(8))


def of_ia3(name, **factors):
    sites = {path.replace("_", "."): {"side": "output", "kind": "linear"} for path in factors}
    tensors = {f"{path.replace('_', '.')}.ia3_l.{name}": torch.tensor(own) for path, own in factors.items()}
    return AdapterState(name, "ia3", {"sites": sites}, tensors)


def test_factors_one_on_the_other_are_their_products():
    one = joined([of_ia3("p", a_x=[2.0, 3.0], b=[5.0]), of_ia3("q", a_x=[0.5, 1.0])], name="both")
    assert (one.name, one.method, set(one.config["sites"])) == ("both", "ia3", {"a.x", "b"})
    assert {path: tensor.tolist() for path, tensor in one.tensors.items()} == {
        "a.x.ia3_l.both": [1.0, 3.0],
        "b.ia3_l.both": [5.0],
    }


def test_doras_stand_apart_and_join_as_they_are():
    def state(name, *paths):
        tensors = {f"{path}.dora_A.{name}": torch.ones(1) for path in paths}
        return AdapterState(name, "dora", {"sites": {path: {"kind": "linear"} for path in paths}}, tensors)

    one = joined([state("p", "a"), state("q", "b", "c")], name="both")
    assert set(one.tensors) == {"a.dora_A.both", "b.dora_A.both", "c.dora_A.both"}
    assert list(one.config["sites"]) == ["a", "b", "c"]
    with pytest.raises(StrategyError, match=r"both: adapters of dora must stand apart .* two are at b\."):
        joined([state("p", "a", "b"), state("q", "b")], name="both")
