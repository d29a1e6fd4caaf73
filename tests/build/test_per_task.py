"""An adapter for each task: trained together in mixed batches they are what each would be alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from weft.build.order import order_of
from weft.core.routing import Routing, groups_in, routed
from weft.errors import HandOverError, StrategyError
from weft.strategy.adapters import extract

TASKS = ("mood", "names", "length", "again")
METHODS = {
    "lora": {"train": "lora", "rank": 2, "per_task": True},
    "ia3": {"train": "ia3", "per_task": True, "sites": "attention"},
    "adapter": {"train": "adapter", "size": 4, "per_task": True},
    "prompt": {"train": "prompt", "tokens": 2, "per_task": True},
    "prefix": {"train": "prefix", "tokens": 2, "per_task": True},
    "gated-lora": {"train": "gated-lora", "rank": 2, "per_task": True},
    "adapter, by row": {"train": "adapter", "size": 4, "gate": "row", "per_task": True},
    "prefix, by row": {"train": "prefix", "tokens": 2, "gate": "row", "per_task": True},
    "prefix, gated": {"train": "prefix", "tokens": 2, "gate": True, "per_task": True},
}


@pytest.fixture(scope="module")
def tasks(kit):
    return {
        "mood": kit.MOOD,
        "names": kit.NAMES,
        "length": kit.LENGTH,
        "again": {**kit.MOOD, "train": "reviews.csv[2:]"},
    }


def stage(rule, **rest):
    return {
        "name": "one",
        "strategy": [rule],
        "batch": 12,
        "clip": 1e9,
        "lr": 1e-2,
        "decay": 0.0,  # else what a task does not use decays in batches where others do
        "mixture": {"kind": "uniform"},
        **rest,
    }


def steps_of(opened, count=4):
    spec = opened.recipe.stage("one")
    order = order_of(opened.recipe, spec, opened.data, by_length=False)
    return [step for epoch in range(count) for step in order.steps(epoch)][:count]


PAIR = [
    {"train": "lora", "rank": 2, "sites": "attention", "per_task": True},
    {"train": "adapter", "form": "parallel", "size": 4, "per_task": True},
]


def trained(opened, name, draws, *, parts=None, only=None, packed=True):
    """Return stage ``name`` after the steps ``draws``, of which it sees the rows of ``only`` alone if that is given."""
    spec, entered = opened.recipe.stage(name), opened.enter(name, parts)
    engine = opened.engine(entered, spec)
    feed = replace(opened.feed(spec), routes=entered.network.routes, packed=packed)
    for number, step in enumerate(draws):
        own = [draw for draw in step if only in (None, draw[0])]
        if own:
            engine.step(feed(own), step=number, lr_factor=1.0)
    return entered


def assert_each_is_as_alone(opened, name, draws, own, *, parts=None, packed=True):
    """All adapters of a stage (``own``: by task) are what each task's would be if its rows were all there is."""
    start = opened.enter(name, parts)
    together = trained(opened, name, draws, parts=parts, packed=packed)
    for task in TASKS:
        alone = trained(opened, name, draws, parts=parts, packed=packed, only=task)
        before, found, expected = (extract(one.sites, own(task)) for one in (start, together, alone))
        for old, ours, theirs in zip(before, found, expected, strict=True):
            assert ours.tasks == (task,)
            for path, tensor in theirs.tensors.items():
                assert torch.allclose(ours.tensors[path], tensor, rtol=1e-5, atol=1e-5), path
            assert any(not torch.equal(tensor, old.tensors[path]) for path, tensor in ours.tensors.items())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", [*METHODS, "pair"])
def test_together_in_mixed_batches_is_as_each_alone(open_kit, tasks, name, packed):
    strategy = PAIR if name == "pair" else [METHODS[name]]
    lr = 1e-3 if name == "pair" else 1e-2  # AdamW makes much of rounding where gradients are near zero
    opened = open_kit([{**stage({}), "strategy": strategy, "lr": lr}], tasks)
    draws = steps_of(opened)
    assert any(len({task for task, _ in step}) == len(TASKS) for step in draws), "batches are mixed"

    def own(task):
        return (f"one-lora-{task}", f"one-adapter-{task}") if name == "pair" else (f"one-{task}",)

    assert dict(opened.enter("one").network.routes) == {task: own(task) for task in TASKS}
    assert_each_is_as_alone(opened, "one", draws, own, packed=packed)


def test_new_adapters_on_the_frozen_ones_of_each_task_are_as_alone(open_kit, tasks):
    again = {**stage(METHODS["lora"]), "name": "two", "carry": {"trunk": "stack"}}
    opened = open_kit([stage(METHODS["lora"]), again], tasks)
    draws = steps_of(opened)
    parts = trained(opened, "one", draws).leave()
    entered = opened.enter("two", parts)
    assert entered.network.routes == {task: (f"one-{task}", f"two-{task}") for task in TASKS}
    assert_each_is_as_alone(opened, "two", draws, lambda task: (f"two-{task}",), parts=parts)
    left = trained(opened, "two", draws, parts=parts).leave()
    assert [(one.name, one.tasks, one.stage) for one in left.adapters] == [
        (f"{name}-{task}", (task,), name) for name in ("one", "two") for task in TASKS
    ]
    for old, new in zip(parts.adapters, left.adapters, strict=False):
        assert all(torch.equal(new.tensors[path], tensor) for path, tensor in old.tensors.items())


def test_parts_know_whose_they_are_and_a_stage_goes_on_with_them(open_kit, tasks):
    second = {"name": "two", "strategy": [METHODS["lora"]], "carry": {"trunk": "continue"}}
    opened = open_kit([stage(METHODS["lora"]), second], tasks)
    first = opened.enter("one")
    opened.trained(first, "one")
    parts = first.leave()
    assert {adapter.name: adapter.tasks for adapter in parts.adapters} == {
        f"one-{task}": (task,) for task in TASKS
    }
    again = opened.enter("two", parts)
    assert again.network.routes == first.network.routes
    trained = {row.owner for row in again.table.trained() if row.owner.startswith("adapter:")}
    assert trained == {f"adapter:one-{task}" for task in TASKS}


def test_one_task_alone_may_be_merged_several_may_not(open_kit, tasks):
    merge = {"name": "two", "strategy": "full", "tasks": ["mood"]}
    opened = open_kit(
        [stage(METHODS["lora"]), {**merge, "carry": {"trunk": "merge", "heads": "drop"}}], tasks
    )
    first = opened.enter("one")
    opened.trained(first, "one")
    merged = opened.enter("two", first.leave())
    batch = opened.feed(opened.recipe.stage("one"), budget=4096)([("mood", 0), ("mood", 3)])[0]
    with torch.no_grad():
        first.network.eval()
        merged.network.eval()
        adapters = [f"one-{task}" for task in TASKS]
        with routed(first.network.trunk, Routing.of(adapters, [0] * batch.layout.num_rows, batch.layout)):
            expected = first.network.trunk(batch).flat_TD()
        assert torch.allclose(merged.network.features(batch).flat_TD(), expected, atol=1e-5)
    opened = open_kit([stage(METHODS["lora"]), {"name": "two", "strategy": "full"}], tasks)
    with pytest.raises(HandOverError, match="cannot be merged for"):
        opened.enter("two", first.leave())


def test_all_adapters_of_a_stage_go_on_but_those_of_other_tasks(open_kit, tasks):
    second = {**stage({}), "name": "two", "strategy": PAIR, "carry": {"trunk": "continue"}}
    one_task = {**second, "name": "three", "parent": "one", "tasks": ["mood"]}
    opened = open_kit([{**stage({}), "strategy": PAIR}, second, one_task], tasks)
    parts = trained(opened, "one", steps_of(opened)).leave()
    names = [f"one-{method}-{task}" for method in ("lora", "adapter") for task in TASKS]
    for name, expected in (("two", names), ("three", ["one-lora-mood", "one-adapter-mood"])):
        entered = opened.enter(name, parts)
        assert entered.network.routes == {task: (f"one-lora-{task}", f"one-adapter-{task}") for task in TASKS}
        owners = {row.owner for row in entered.table.trained()}
        assert {f"adapter:{adapter}" for adapter in expected} == {o for o in owners if "adapter:" in o}
        assert {one.stage for one in entered.leave().adapters} == {"one"}


def test_a_task_that_comes_later_gets_an_adapter_of_its_own(open_kit, tasks):
    first = {**stage(METHODS["lora"]), "tasks": ["mood", "names"]}
    second = {**stage(METHODS["lora"]), "name": "two", "carry": {"trunk": "continue"}}
    opened = open_kit([first, second], tasks)
    entered = opened.enter("two", opened.enter("one").leave())
    names = ["one-mood", "one-names", "two-length", "two-again"]
    assert list(entered.network.routes.values()) == [(name,) for name in names]
    assert {install.adapter for install in entered.plan.installs} == set(names[2:])
    assert {row.owner for row in entered.table.trained() if "adapter:" in row.owner} == {
        f"adapter:{name}" for name in names
    }
    assert {adapter.stage for adapter in entered.leave().adapters} == {"one"}, "all of them go on next time"


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
def test_what_was_one_tasks_own_is_not_shared_by_going_on(open_kit, tasks, before, after):
    rules = [{**METHODS["lora"], "per_task": is_own} for is_own in (before, after)]
    second = {**stage(rules[1]), "name": "two", "carry": {"trunk": "continue"}}
    opened = open_kit([stage(rules[0]), second], tasks)
    with pytest.raises(
        StrategyError, match=r"must go on with adapter .* as it is, which is for .* but has per_task"
    ):
        opened.enter("two", opened.enter("one").leave())


def test_an_adapter_that_a_later_rule_takes_away_has_no_rows(open_kit, tasks):
    opened = open_kit([{**stage({}), "strategy": [*PAIR, {"sites": "attention", "train": "full"}]}], tasks)
    assert opened.enter("one").network.routes == {task: (f"one-adapter-{task}",) for task in TASKS}


def test_a_shared_adapter_acts_on_all_rows_beside_those_of_tasks(open_kit, tasks):
    rules = [{"train": "ia3", "sites": "attention"}, METHODS["adapter"]]
    opened = open_kit([{**stage(METHODS["lora"]), "strategy": rules}], tasks)
    entered = opened.enter("one")
    opened.trained(entered, "one")
    assert entered.network.routes == {task: (f"one-adapter-{task}",) for task in TASKS}
    names = {adapter.name: adapter.tasks for adapter in entered.leave().adapters}
    assert names == {"one-ia3": (), **{f"one-adapter-{task}": (task,) for task in TASKS}}


SHARING = {"train": "mtl-lora", "rank": 2}


def states(network, batch, task):
    """Return the trunk's states of ``batch`` as rows of ``task`` have them."""
    network.eval()
    groups = groups_in(network.routes)
    rows = [groups.index(network.routes[task])] * batch.layout.num_rows
    with torch.no_grad(), routed(network.trunk, Routing.of(groups, rows, batch.layout)):
        return network.trunk(batch).flat_TD()


def test_one_adapter_with_a_part_for_each_task_is_trained_in_mixed_batches(open_kit, tasks):
    opened = open_kit([stage(SHARING)], tasks)
    entered = opened.enter("one")
    before = {path: value.detach().clone() for path, value in entered.sites.parameters()}
    assert entered.network.routes == {task: (f"one/{task}",) for task in TASKS}
    spec = opened.recipe.stage("one")
    engine, feed = opened.engine(entered, spec), replace(opened.feed(spec), routes=entered.network.routes)
    for number, step in enumerate(steps_of(opened)):
        assert {task for batch in feed(step) for task in batch.targets} == {task for task, _ in step}
        engine.step(feed(step), step=number, lr_factor=1.0)
    (state,) = entered.leave().adapters
    assert (state.name, state.tasks, state.parts) == ("one", TASKS, TASKS)
    assert all(not torch.equal(tensor, before[path]) for path, tensor in state.tensors.items())
    mixes = [tensor for path, tensor in state.tensors.items() if ".mtl_mix." in path]
    assert all(not torch.equal(one, other) for mix in mixes for one, other in pairwise(mix))


def test_a_shared_adapter_is_merged_for_one_task_and_carried_for_several(open_kit, tasks):
    ways = {
        "full": {"strategy": "full", "tasks": ["mood"], "carry": {"trunk": "merge", "heads": "drop"}},
        "expert": {"strategy": [SHARING], "tasks": ["mood"], "carry": {"trunk": "continue"}},
        "above": {"strategy": "lora", "carry": {"trunk": "stack"}},
    }
    later = [{"name": name, "parent": "one", **way} for name, way in ways.items()]
    opened = open_kit([stage(SHARING), *later], tasks)
    first = opened.enter("one")
    opened.trained(first, "one")
    parts = first.leave()
    batch = opened.feed(opened.recipe.stage("one"), budget=4096)([("mood", 0), ("mood", 3)])[0]
    expected = states(first.network, batch, "mood")
    assert not torch.allclose(expected, states(first.network, batch, "names"), atol=1e-3)
    with torch.no_grad():
        merged = opened.enter("full", parts).network.eval()
        assert not merged.routes
        assert torch.allclose(merged.features(batch).flat_TD(), expected, atol=1e-5)
    for name in ("expert", "above"):
        entered = opened.enter(name, parts)
        assert torch.equal(states(entered.network, batch, "mood"), expected)
        assert entered.network.routes == first.network.routes
        assert [one.tasks for one in entered.leave().adapters] == [TASKS, *([()] if name == "above" else [])]
    opened = open_kit([stage(SHARING), {"name": "two", "strategy": "full"}], tasks)
    with pytest.raises(HandOverError, match="has a part for each of mood, names, length, again and cannot"):
        opened.enter("two", parts)


def test_adapters_are_handed_on_in_the_order_in_which_they_were_stacked(open_kit, tasks):
    """One that stands further down the layers, but came first, acts first where both stand."""
    above = {"name": "two", "strategy": "houlsby", "carry": {"trunk": "stack"}}
    opened = open_kit([{"name": "one", "strategy": "pfeiffer"}, above], tasks)
    parts = opened.enter("one").leave()
    entered = opened.enter("two", parts)
    assert [one.name for one in entered.leave().adapters] == ["one", "two"]
