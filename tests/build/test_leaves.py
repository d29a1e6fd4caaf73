"""What several branches come to: one trunk, each task with its own branch's adapters and head, or a reason why not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from weft.build.leaves import owners, shipped
from weft.core.parts import AdapterState, HeadState, Parts
from weft.errors import HandOverError, RecipeError
from weft.export.bundle import put_parts
from weft.run.probe import probe

STACK = {"trunk": "stack"}
SHARED = {"name": "shared", "strategy": "lora"}


def expert(name, task, strategy="lora", **rest):
    return {"name": name, "parent": "shared", "tasks": task, "strategy": strategy, "carry": STACK, **rest}


def entered(opened):
    """Return what each stage leaves, all of it moved, and its probe."""
    parts, states = {}, {}
    for number, stage in enumerate(opened.recipe.stages):
        (parent,) = opened.recipe.parents_of(stage) or (None,)
        one = opened.enter(stage.name, parts[parent.name] if parent else None)
        generator = torch.Generator().manual_seed(number)
        values = dict(one.sites.parameters())
        with torch.no_grad():
            for row in one.table.trained():
                values[row.path] += 0.05 * torch.randn(values[row.path].shape, generator=generator)
        parts[stage.name], states[stage.name] = one.leave(), probe(one.sites)
    return parts, states


def network_of(opened, parts):
    network = opened.base.network({t: opened.data.fitted[t] for t in parts.heads}, device=torch.device("cpu"))
    return put_parts(opened.base, network, parts)


def test_the_last_branch_that_trained_a_task_answers_it(open_kit):
    chain = open_kit([SHARED, {"name": "two", "tasks": "mood"}])
    assert owners(chain.recipe) == {"mood": "two"}
    experts = open_kit([SHARED, expert("a", "mood"), expert("b", "names"), expert("c", "mood")])
    assert owners(experts.recipe) == {"mood": "c", "names": "b"}
    assert owners(open_kit([{"name": "only"}]).recipe) == {"mood": "only", "names": "only"}


@pytest.mark.parametrize(
    ("carry", "methods"),
    [
        ("stack", ("lora", "pfeiffer")),
        ("stack", ("pissa", "ia3")),
        ("merge", ("lora", "lora")),
        ("continue", ("lora", "lora")),
    ],
)
def test_each_task_gets_what_its_own_branch_computes(open_kit, carry, methods):
    stages = [
        expert(name, task, method, carry={"trunk": carry})
        for (name, task), method in zip((("a", "mood"), ("b", "names")), methods, strict=True)
    ]
    opened = open_kit([SHARED, *stages])
    assert len(opened.rehearse()) == 3
    left, states = entered(opened)
    parts = shipped(opened.recipe, left)
    assert list(parts.heads) == ["mood", "names"]
    network = network_of(opened, parts)
    found = probe(network)
    for stage, task in (("a", "mood"), ("b", "names")):
        expected = states[stage].get(task, states[stage][""])
        assert torch.allclose(found[task], expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(
            dict(network.parameters())[f"heads.{task}.out.weight"],
            left[stage].heads[task].tensors["out.weight"],
        )
    assert not torch.allclose(found["mood"], found["names"], atol=1e-3)
    if carry == "continue":
        assert [one.name for one in parts.adapters] == ["shared", "shared-b"]
        assert {one.stage for one in parts.adapters} == {"shared"}


def test_a_task_of_no_branch_takes_what_all_share(open_kit, kit):
    tasks = {"mood": kit.MOOD, "names": kit.NAMES, "length": kit.LENGTH}
    opened = open_kit([SHARED, expert("a", "mood"), expert("b", "names")], tasks)
    left, states = entered(opened)
    parts = shipped(opened.recipe, left)
    assert [(one.name, one.tasks) for one in parts.adapters] == [
        ("shared", ()),
        ("a", ("mood",)),
        ("b", ("names",)),
    ]
    found = probe(network_of(opened, parts))
    assert torch.allclose(found[""], states["shared"][""], atol=1e-6)


def test_parts_of_one_adapter_are_kept_for_their_tasks(open_kit):
    opened = open_kit([{**SHARED, "strategy": "mtl-lora"}, expert("a", "mood"), expert("b", "names")])
    left, states = entered(opened)
    parts = shipped(opened.recipe, left)
    assert (parts.adapters[0].tasks, parts.adapters[0].parts) == (("mood", "names"),) * 2
    found = probe(network_of(opened, parts))
    for stage, task in (("a", "mood"), ("b", "names")):
        assert torch.allclose(found[task], states[stage][task], atol=1e-5)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([expert("a", "mood", "full"), expert("b", "names", "full")], "must have one trunk to be one bundle"),
        (
            [expert("a", "mood", "lora"), expert("b", "names", "top 1")],
            "must have one trunk to be one bundle",
        ),
        (
            [
                expert("a", "mood", "lora", carry={"trunk": "drop"}),
                expert("b", "names", carry={"trunk": "merge"}),
            ],
            r"stages a, b: .*let a last stage start from all of them \(parent: \[a, b\]\)",
        ),
        (
            [
                expert("a", "mood", "dora", carry={"trunk": "merge"}),
                expert("b", "names", "lora", carry={"trunk": "merge"}),
            ],
            r"adapter a \(dora\) acts on all rows, but only those of mood",
        ),
    ],
)
def test_branches_that_cannot_be_one_are_refused_before_they_are_trained(open_kit, stages, words):
    with pytest.raises(RecipeError, match=words):
        open_kit([SHARED, *stages]).rehearse()


def test_branches_that_nobody_ships_may_be_anything(open_kit):
    stages = [expert("a", "mood", "full"), expert("b", ["mood", "names"], "top 1")]
    opened = open_kit([SHARED, *stages])
    assert len(opened.rehearse()) == 3
    left, _ = entered(opened)
    assert shipped(opened.recipe, left) is left["b"]


def test_values_that_differ_are_refused_at_the_end_too(open_kit):
    opened = open_kit([SHARED, expert("a", "mood"), expert("b", "names")])
    left, _ = entered(opened)
    spoilt = {**left, "b": replace(left["b"], delta={"layers.0.ffn.up.bias": torch.ones(64)})}
    with pytest.raises(HandOverError, match=r"layers\.0\.ffn\.up\.bias differs"):
        shipped(opened.recipe, spoilt)
    rounded = {"layers.0.ffn.up.bias": torch.ones(64) + 1e-7}
    close = {**spoilt, "a": replace(left["a"], delta=rounded)}
    assert shipped(opened.recipe, close).delta is rounded


def test_heads_come_from_the_branch_that_trained_them_or_kept_them(open_kit):
    recipe = open_kit([SHARED, expert("a", "mood"), expert("b", "names")]).recipe

    def head(task, value):
        return HeadState(task, "classification", {"from": value}, {})

    state = AdapterState("a", "lora", {"sites": {}}, {}, stage="a")
    left = {
        "a": Parts(adapters=(state,), heads={"mood": head("mood", "a"), "names": head("names", "a")}),
        "b": Parts(heads={"names": head("names", "b")}),
    }
    parts = shipped(recipe, left)
    assert {task: one.config["from"] for task, one in parts.heads.items()} == {"mood": "a", "names": "b"}
    assert [(one.name, one.tasks, one.stage) for one in parts.adapters] == [("a", ("mood",), "a")]
