"""AdapterFusion: an attention over what trained adapters would add, which themselves stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.strategy.test_low_rank import drawn

from weft.core import linear
from weft.core.layout import Layout
from weft.core.routing import Routing, routed
from weft.core.sites import SiteMap
from weft.core.table import Role
from weft.errors import StrategyError
from weft.strategy import adapter_layout
from weft.strategy.adapters import extract, restore
from weft.strategy.apply import apply
from weft.strategy.bottleneck import BottleneckRule, BottleneckSite, Form
from weft.strategy.fusion import FusionRule, FusionSite
from weft.strategy.lora import LoraRule
from weft.strategy.plan import CarriedAdapter, plan

TOKENS_BL = torch.arange(22).reshape(2, 11) % 11
BLOCK = "layers.0.ffn.down"


def put(toy, sites, rule, name, *, below=(), tasks=("a",)):
    """Return the map with the adapters of ``rule`` put on those of ``below``, and the table."""
    carried = [CarriedAdapter.of(state, Role.FROZEN) for state in below]
    made = plan(sites.view, [rule], tasks=tasks, stage_lr=None, adapter=name, carried=carried)
    return apply(sites, made, describe=toy.describe, seed=0)


def shake(sites, word):
    for index, (path, parameter) in enumerate(sites.parameters()):
        if word in path:
            parameter.data.add_(drawn(*parameter.shape, seed=index), alpha=0.3)


def trained(toy, **rules):
    """Return a network with an adapter of random weights for each of ``rules``, and their states."""
    network, states = toy.network(), []
    sites = SiteMap(network, toy.describe(network))
    for name, rule in rules.items():
        sites, _ = put(toy, sites, rule, name, below=states)
        shake(sites, f".{name}")
        states = list(extract(sites, list(rules)[: len(states) + 1]))
    return sites, states


def base(module, inputs):
    weight, bias = linear.values(module)
    assert bias is not None
    return inputs @ weight + bias


def two(toy):
    return trained(toy, x=BottleneckRule(size=3), y=BottleneckRule(size=2, activation="tanh"))


def rows(sites, routes=None, places=()):
    with torch.no_grad():
        if routes is None:
            return sites.network.trunk.model(TOKENS_BL)[1]
        with routed(sites.network.trunk, Routing.of(routes, places, Layout.padded([11, 11]))):
            return sites.network.trunk.model(TOKENS_BL)[1]


def test_it_is_the_attention_of_the_paper(toy):
    sites, states = two(toy)
    sites, _ = put(toy, sites, FusionRule(), "f", below=states)
    shake(sites, "fusion_")
    module, inputs = sites.module(BLOCK), drawn(2, 5, 16, seed=1)
    h = base(module, inputs)
    each = [module.added(h, name, module.bottleneck_options[name]) for name in ("x", "y")]
    query = h @ module.fusion_query["f"].T
    keys, values = (
        [one @ table["f"].T for one in each] for table in (module.fusion_key, module.fusion_value)
    )
    scores = torch.stack([(query * key).sum(-1) for key in keys], -1).softmax(-1)
    expected = h + sum(scores[..., at, None] * value for at, value in enumerate(values))
    assert torch.allclose(module(inputs), expected, rtol=1e-4, atol=1e-5)
    assert scores.std(-1).max() > 0.05


def test_it_starts_near_the_mean_and_adapters_stay(toy):
    sites, states = two(toy)
    alone = rows(sites)
    sites, table = put(toy, sites, FusionRule(), "f", below=states)
    assert not torch.allclose(rows(sites), alone, atol=1e-3), (
        "the function changes: adapters act no more by themselves"
    )
    module, inputs = sites.module(BLOCK), drawn(1, 5, 16, seed=1)
    h = base(module, inputs)
    mean = sum(module.added(h, name, module.bottleneck_options[name]) for name in ("x", "y")) / 2
    assert torch.allclose(module(inputs) - h, mean, rtol=0.1, atol=0.02 * float(mean.abs().max()))
    assert {row.owner for row in table.trained()} == {"adapter:f", "head:a"}
    assert len([row for row in table.trained() if row.owner == "adapter:f"]) == 2 * 3
    parameters = dict(sites.parameters())
    before = {path: value.detach().clone() for path, value in parameters.items()}
    optimizer = torch.optim.AdamW([parameters[row.path] for row in table.trained()], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        toy.outputs(sites.network).square().sum().backward()
        optimizer.step()
    moved = {path for path, value in parameters.items() if not torch.equal(value, before[path])}
    assert moved == {row.path for row in table.trained()}


def test_a_round_trip_keeps_what_it_fuses(toy, tmp_path):
    sites, states = two(toy)
    sites, table = put(toy, sites, FusionRule(), "f", below=states)
    shake(sites, "fusion_")
    found = extract(sites, table)
    assert [(state.name, state.method) for state in found] == [
        ("x", "adapter"),
        ("y", "adapter"),
        ("f", "fusion"),
    ]
    assert found[2].config["sites"][BLOCK] == {"adapters": ["x", "y"], "kind": "conv1d"}
    network = toy.network()
    fresh = SiteMap(network, toy.describe(network))
    for state in found:
        adapter_layout.write(Path(tmp_path) / state.name, state)
        restore(fresh, adapter_layout.read(Path(tmp_path) / state.name))
        fresh = SiteMap(network, toy.describe(network))
    assert torch.equal(toy.outputs(network), toy.outputs(sites.network))
    lonely = toy.network()
    with pytest.raises(StrategyError, match="adapter x must be there to be fused by f, but is not"):
        restore(SiteMap(lonely, toy.describe(lonely)), found[2])


def test_each_task_may_have_a_fusion_of_its_own_over_the_same_adapters(toy):
    sites, states = two(toy)
    network = toy.network()
    bare = rows(SiteMap(network, toy.describe(network)))
    sites, _ = put(toy, sites, FusionRule(per_task=True), "f", below=states, tasks=("a", "b"))
    assert sites.network.routes == {"a": ("f-a",), "b": ("f-b",)}
    shake(sites, "fusion_")
    groups = [("f-a",), ("f-b",)]
    mixed, swapped = rows(sites, groups, [0, 1]), rows(sites, groups, [1, 0])
    assert not torch.allclose(mixed, swapped, atol=1e-3)
    assert torch.allclose(mixed[0], rows(sites, groups, [0, 0])[0], rtol=1e-5, atol=1e-5)
    assert torch.allclose(mixed[1], rows(sites, groups, [1, 1])[1], rtol=1e-5, atol=1e-5)
    assert torch.allclose(rows(sites, groups, [-1, 0])[0], bare[0], atol=1e-6), (
        "without a fusion nothing is added"
    )


def test_other_adapters_act_beside_it(toy):
    sites, states = two(toy)
    sites, table = put(toy, sites, FusionRule(), "f", below=states)
    before = rows(sites)
    below = extract(sites, table)
    sites, _ = put(toy, sites, LoraRule(rank=2), "later", below=below)
    assert torch.equal(rows(sites), before)
    assert sites.module(BLOCK).taken == {"x", "y"}
    assert type(sites.module(BLOCK)).edits[:2] == (FusionSite, BottleneckSite)
    third, _ = put(toy, sites, BottleneckRule(size=2), "z", below=extract(sites, ["x", "y", "f", "later"]))
    shake(third, ".z")
    assert not torch.allclose(rows(third), before, atol=1e-3)


def test_it_goes_on_over_the_same_adapters(toy):
    sites, states = two(toy)
    sites, table = put(toy, sites, FusionRule(), "f", below=states)
    before, found = rows(sites), extract(sites, table)
    roles = {"x": Role.FROZEN, "y": Role.FROZEN, "f": Role.TRAINED}
    carried = [CarriedAdapter.of(state, roles[state.name]) for state in found]
    made = plan(sites.view, [FusionRule()], tasks=["a"], stage_lr=None, adapter="f", carried=carried)
    assert made.installs == ()
    sites, table = apply(sites, made, describe=toy.describe, seed=1)
    assert {row.owner for row in table.trained()} == {"adapter:f", "head:a"}
    assert torch.equal(rows(sites), before)


@pytest.mark.parametrize("case", ["none", "one", "lora", "parallel", "elsewhere", "taken"])
def test_where_there_are_not_two_it_is_refused(toy, case):
    pfeiffer = BottleneckRule(size=2)
    rules = {
        "none": {},
        "one": {"x": pfeiffer},
        "lora": {"x": pfeiffer, "y": LoraRule(rank=2)},
        "parallel": {"x": pfeiffer, "y": BottleneckRule(size=2, form=Form.PARALLEL)},
        "elsewhere": {"x": pfeiffer, "y": pfeiffer},
        "taken": {"x": pfeiffer, "y": pfeiffer, "f": FusionRule()},
    }
    sites, states = trained(toy, **rules[case])
    with pytest.raises(StrategyError, match="there must be two trained bottleneck adapters behind a block"):
        put(
            toy,
            sites,
            FusionRule(sites="attention" if case == "elsewhere" else "all"),
            "g",
            below=states,
        )
