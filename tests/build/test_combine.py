"""Branches into one: soups and sums of what each changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from weft.build.combine import combined
from weft.build.stage import parts_from
from weft.core.parts import AdapterState, Parts
from weft.errors import HandOverError
from weft.recipe.spec import Combine

PATH = "layers.0.attention.query.weight"
OTHER = "layers.1.ffn.up.bias"


@pytest.fixture
def sites(open_kit):
    opened = open_kit([{"name": "one"}])
    return opened.base.sites(opened.base.network({}, device=torch.device("cpu")))


def values(sites):
    return {path: parameter.detach().clone() for path, parameter in sites.parameters()}


def branch(sites, seed, *paths):
    generator = torch.Generator().manual_seed(seed)
    base = values(sites)
    return Parts(
        delta={path: base[path] + 0.1 * torch.randn(base[path].shape, generator=generator) for path in paths}
    )


def test_a_soup_is_the_mean_of_the_weights_and_what_is_unchanged_counts(sites):
    base = values(sites)
    branches = {"a": branch(sites, 1, PATH, OTHER), "b": branch(sites, 2, PATH)}
    found = combined(branches, sites, Combine(), seed=0)
    assert set(found.delta) == {PATH, OTHER}
    mean = (branches["a"].delta[PATH] + branches["b"].delta[PATH]) / 2
    torch.testing.assert_close(found.delta[PATH], mean)
    torch.testing.assert_close(found.delta[OTHER], (branches["a"].delta[OTHER] + base[OTHER]) / 2)


def test_weights_of_an_average_come_to_one(sites):
    branches = {"a": branch(sites, 1, PATH), "b": branch(sites, 2, PATH)}
    found = combined(branches, sites, Combine(weights={"a": 3.0}), seed=0)
    expected = 0.75 * branches["a"].delta[PATH] + 0.25 * branches["b"].delta[PATH]
    torch.testing.assert_close(found.delta[PATH], expected)


def test_task_arithmetic_adds_what_each_changed(sites):
    base = values(sites)[PATH]
    branches = {"a": branch(sites, 1, PATH), "b": branch(sites, 2, PATH)}
    found = combined(branches, sites, Combine(method="arithmetic", weights={"b": 0.5}), seed=0)
    expected = base + (branches["a"].delta[PATH] - base) + 0.5 * (branches["b"].delta[PATH] - base)
    torch.testing.assert_close(found.delta[PATH], expected)


def test_ties_keeps_large_changes_whose_signs_agree(sites):
    base = values(sites)
    up, down = torch.zeros(64), torch.zeros(64)
    up[:4], down[:4] = torch.tensor([1.0, 1.0, -1.0, 0.1]), torch.tensor([0.5, -2.0, -0.5, 0.0])
    branches = {name: Parts(delta={OTHER: base[OTHER] + one}) for name, one in (("a", up), ("b", down))}
    found = combined(branches, sites, Combine(method="ties", density=3 / 64), seed=0)
    move = found.delta[OTHER] - base[OTHER]
    torch.testing.assert_close(move[:4], torch.tensor([0.75, -2.0, -0.75, 0.0]))
    assert not move[4:].any()


@pytest.mark.parametrize("method", ["dare", "dare_ties"])
def test_dare_drops_by_a_seed_and_keeps_the_mean(sites, method):
    base = values(sites)[PATH]
    branches = {"a": branch(sites, 1, PATH), "b": branch(sites, 2, PATH)}
    how = Combine(method=method, density=0.5, weights={"a": 0.5, "b": 0.5})
    state = torch.get_rng_state()
    once, again, other = (combined(branches, sites, how, seed=seed).delta[PATH] for seed in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert 0.15 < ((once - base) == 0).float().mean() < 0.35  # both dropped: a quarter


def test_heads_of_one_branch_stay_and_those_of_two_are_averaged(open_kit, kit):
    tasks = {"mood": kit.MOOD, "names": kit.NAMES}
    opened = open_kit([{"name": "one"}, {"name": "two", "parent": "base", "tasks": "mood"}], tasks)
    first, second = opened.enter("one"), opened.enter("two")
    for entered, name in ((first, "one"), (second, "two")):
        opened.trained(entered, name)
    branches = {"one": first.leave(), "two": second.leave()}
    sites = opened.base.sites(opened.base.network({}, device=torch.device("cpu")))
    found = combined(branches, sites, Combine(), seed=0)
    torch.testing.assert_close(found.heads["names"].tensors, branches["one"].heads["names"].tensors)
    mood = [one.heads["mood"].tensors["out.weight"] for one in branches.values()]
    torch.testing.assert_close(found.heads["mood"].tensors["out.weight"], (mood[0] + mood[1]) / 2)


def test_heads_that_differ_in_what_was_fitted_to_dev_rows_are_averaged(open_kit, kit):
    opened = open_kit([{"name": "one", "strategy": "head"}], {"mood": kit.MOOD})
    parts = opened.enter("one").leave()
    head = parts.heads["mood"]
    doubled = {path: 2 * tensor for path, tensor in head.tensors.items()}
    other = type(head)(head.task, head.kind, {**head.config, "temperature": 2.5}, doubled)
    sites = opened.base.sites(opened.base.network({}, device=torch.device("cpu")))
    branches = {"a": parts, "b": replace(parts, heads={"mood": other})}
    found = combined(branches, sites, Combine(), seed=0).heads["mood"]
    assert found.config == head.config
    torch.testing.assert_close(found.tensors["out.weight"], 1.5 * head.tensors["out.weight"])


def test_heads_of_another_form_are_refused(open_kit, kit):
    opened = open_kit([{"name": "one", "strategy": "head"}], {"mood": kit.MOOD})
    parts = opened.enter("one").leave()
    head = parts.heads["mood"]
    other = type(head)(head.task, head.kind, {**head.config, "labels": ["x", "y"]}, head.tensors)
    sites = opened.base.sites(opened.base.network({}, device=torch.device("cpu")))
    with pytest.raises(HandOverError, match=r"heads\.mood: heads must be of one form"):
        combined({"a": parts, "b": Parts(heads={"mood": other})}, sites, Combine(), seed=0)


def test_adapters_are_folded_in_before_and_some_cannot_be(open_kit, kit):
    rules = {"lora": "lora", "adapter": "pfeiffer"}
    stages = [{"name": name, "parent": "base", "strategy": rule} for name, rule in rules.items()]
    opened = open_kit([*stages, {"name": "soup", "parent": ["lora", "adapter"]}], {"mood": kit.MOOD})
    sites = opened.base.sites(opened.base.network({}, device=torch.device("cpu")))
    left = {}
    for name in rules:
        entered = opened.enter(name)
        opened.trained(entered, name)
        left[name] = entered.leave()
    found = combined({"a": left["lora"], "b": left["lora"]}, sites, Combine(), seed=0)
    assert not found.adapters
    assert any(path.endswith("attention.query.weight") for path in found.delta)
    with pytest.raises(HandOverError, match="only methods that edit weights can be merged"):
        combined(left, sites, Combine(), seed=0)
    with pytest.raises(Exception, match=r"soup.*only methods that edit weights can be merged"):
        opened.rehearse()


def adapter(name, value):
    return AdapterState(
        name, "adapter", {"sites": {}}, {f"x.bottleneck_up.{name}": torch.full((2, 2), value)}
    )


def test_a_union_keeps_the_adapters_of_all_branches_beside_each_other(sites):
    shared = branch(sites, 1, PATH)
    below = adapter("below", 1.0)
    one = replace(shared, adapters=(below, adapter("a", 2.0)))
    two = replace(shared, adapters=(below, adapter("b", 3.0)))
    found = combined({"a": one, "b": two}, sites, Combine(method="union"), seed=0)
    assert [state.name for state in found.adapters] == ["below", "a", "b"]
    assert found.delta == shared.delta


def test_a_union_needs_one_trunk_and_each_name_once(sites):
    one, two = branch(sites, 1, PATH), branch(sites, 2, PATH)
    with pytest.raises(
        HandOverError, match="adapters side by side need one trunk, but b has changed it otherwise"
    ):
        combined({"a": one, "b": two}, sites, Combine(method="union"), seed=0)
    with pytest.raises(HandOverError, match="need one trunk"):
        combined({"a": one, "b": Parts()}, sites, Combine(method="union"), seed=0)
    branches = {"a": Parts(adapters=(adapter("x", 1.0),)), "b": Parts(adapters=(adapter("x", 2.0),))}
    with pytest.raises(HandOverError, match="an adapter must be one, but x of b differs"):
        combined(branches, sites, Combine(method="union"), seed=0)


def test_adapters_of_two_stages_are_fused_in_a_third(open_kit):
    rule = {"train": "adapter", "size": 3}
    opened = open_kit(
        [
            {"name": "a", "parent": "base", "tasks": "mood", "strategy": [rule], "lr": 0.1},
            {"name": "b", "parent": "base", "tasks": "names", "strategy": [rule], "lr": 0.1},
            {"name": "c", "parent": ["a", "b"], "combine": "union", "carry": {"trunk": "stack"}, "strategy": [{"train": "fusion"}]},
        ]
    )  # fmt: skip
    assert [stage.name for stage, _ in opened.rehearse()] == ["a", "b", "c"]
    branches = {}
    for name in ("a", "b"):
        entered = opened.enter(name)
        opened.trained(entered, name, num_steps=4)
        branches[name] = entered.leave()
    stage = opened.recipe.stage("c")
    parts = parts_from(opened.recipe, stage, branches, base=opened.base, device=torch.device("cpu"))
    assert set(parts.heads) == {"mood", "names"}
    entered = opened.enter("c", parts)
    before = {state.name: state for state in parts.adapters}
    assert {row.owner for row in entered.table.trained()} == {"adapter:c", "head:mood", "head:names"}
    opened.trained(entered, "c")
    left = entered.leave().adapters
    assert [(state.name, state.method) for state in left] == [
        ("a", "adapter"),
        ("b", "adapter"),
        ("c", "fusion"),
    ]
    for state in left[:2]:
        assert all(
            torch.equal(before[state.name].tensors[path], value) for path, value in state.tensors.items()
        )
    (at, *_) = left[2].config["sites"].values()
    assert at["adapters"] == ["a", "b"]
