"""Gradients at entry: those of the loss on training rows, and nothing of the network is left otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from weft.build.order import order_of
from weft.core.table import Role
from weft.errors import HandOverError, RecipeError
from weft.strategy.adapters import restore
from weft.train.engine import denominators_of

HYBRID = {"name": "one", "strategy": [{"train": "hybrid-lora", "rank": 1, "batches": 2}], "batch": 4}


def entered_bare(opened):
    """Return the map of the stage's network before its strategy touches it, its rule, and the candidates."""
    sites = opened.base.sites(opened.base.network(opened.data.fitted, device=torch.device("cpu")))
    (rule,) = opened.recipe.stages[-1].strategy
    return sites, rule, rule.candidates(sites.view)


def test_gradients_are_those_of_the_stages_first_steps(open_kit):
    opened = open_kit([HYBRID])
    sites, _, candidates = entered_bare(opened)
    paths = [site.path for site in candidates]
    found = opened.chooser(opened.recipe.stage("one")).gradients(sites, paths, num_steps=2)
    assert list(found) == paths
    # by hand: the same rows padded in one batch a step, through autograd alone
    network, spec = sites.network.eval().requires_grad_(), opened.recipe.stage("one")
    order = order_of(opened.recipe, spec, opened.data, by_length=False)  # as the trunk packs
    for step in order.steps(0)[:2]:
        (batch,) = opened.feed(spec, budget=4096)(step)
        weights = denominators_of([batch])
        outputs = network(batch)
        for name, target in batch.targets.items():
            loss = opened.data.tasks[name].task.loss(outputs[name], target)
            (loss.total / weights[name]).backward(retain_graph=True)
    parameters = dict(sites.parameters())
    for path in paths:
        expected = parameters[f"{path}.weight"].grad
        if expected is None:  # the pooler, which no head here reads
            assert not found[path].any()
        else:
            assert torch.allclose(
                found[path], expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max())
            ), path


def test_the_network_is_left_as_it_was_and_the_choice_is_repeated(open_kit):
    opened = open_kit([HYBRID])
    sites, rule, candidates = entered_bare(opened)
    parameters = dict(sites.parameters())
    parameters["pooler.weight"].requires_grad_()
    flags = {path: parameter.requires_grad for path, parameter in parameters.items()}
    before = {path: parameter.detach().clone() for path, parameter in parameters.items()}
    chooser = opened.chooser(opened.recipe.stage("one"))
    for mode in (True, False):
        sites.network.train(mode)
        scores = chooser.scores(sites, rule, candidates)
        assert sites.network.training is sites.network.trunk.training is mode
        assert scores == chooser.scores(sites, rule, candidates)
    assert len(scores) == rule.count(len(candidates))
    assert sorted(scores.values(), reverse=True) == list(scores.values())
    assert min(scores.values()) > 0
    for path, parameter in parameters.items():
        assert parameter.grad is None
        assert parameter.requires_grad is flags[path]
        assert torch.equal(parameter, before[path])


def test_dev_and_test_rows_are_not_looked_at(open_kit):
    opened = open_kit([HYBRID])
    before = opened.enter("one").choices
    for task in opened.data.tasks.values():
        assert task.dev
    tasks = {name: replace(task, dev=None, test=None) for name, task in opened.data.tasks.items()}
    blind = replace(opened, data=replace(opened.data, tasks=tasks))
    assert blind.enter("one").choices == before


def test_a_stage_is_entered_with_what_was_chosen(open_kit):
    opened = open_kit([HYBRID])
    sites, rule, candidates = entered_bare(opened)
    chosen = list(opened.chooser(opened.recipe.stage("one")).scores(sites, rule, candidates))
    entered = opened.enter("one")
    rows = {row.path: row for row in entered.table}
    for site in candidates:
        is_full = site.path in chosen
        assert (rows[f"{site.path}.weight"].role is Role.TRAINED) == is_full
        assert (f"{site.path}.lora_A.one" in rows) != is_full
    (line,) = entered.choices
    assert line.endswith(f"best first: {', '.join(chosen)}")
    parts = entered.leave()
    assert {path.rpartition(".")[0] for path in parts.delta} == set(chosen)
    assert parts.adapters[0].method == "lora"


def test_planning_needs_no_weights_and_says_what_will_be_chosen(open_kit):
    opened = open_kit([HYBRID])
    ((_, foreseen),) = opened.rehearse()
    (line,) = foreseen.choices
    assert line.startswith("rule 1, hybrid-lora: 1 of 13 modules are trained fully")
    assert line.endswith("here the largest stand for them")
    entered = opened.enter("one")
    counts = [sum(row.owner == "trunk" for row in one.table.trained()) for one in (foreseen, entered)]
    assert counts[0] == counts[1]


def test_what_is_carried_in_is_part_of_the_network_that_is_scored(open_kit):
    later = {**HYBRID, "name": "two", "carry": {"trunk": "stack"}}
    opened = open_kit([{"name": "one", "strategy": "lora", "lr": 0.1}, later])
    first = opened.enter("one")
    opened.trained(first, "one", num_steps=8)
    second = opened.enter("two", first.leave())
    assert {adapter.name for adapter in second.leave().adapters} == {"one", "two"}
    sites, rule, candidates = entered_bare(opened)
    chooser = opened.chooser(opened.recipe.stage("two"))
    bare = chooser.scores(sites, rule, candidates)
    restore(sites, first.leave().adapters[0])
    assert chooser.scores(opened.base.sites(sites.network), rule, candidates) != bare


def test_an_optimizer_cannot_continue_into_a_choice(open_kit):
    second = {**HYBRID, "name": "two", "carry": {"trunk": "continue", "optimizer": "continue"}}
    with pytest.raises((HandOverError, RecipeError), match="this stage chooses its own"):
        open_kit([HYBRID, second]).rehearse()


def test_gradients_of_a_network_in_bf16_are_near_and_its_twins_are_forgotten(open_kit):
    opened = open_kit([HYBRID])
    sites, rule, candidates = entered_bare(opened)
    paths = [site.path for site in candidates if site.path != "pooler"]  # which no head here reads
    chooser = opened.chooser(opened.recipe.stage("one"))
    exact = chooser.gradients(sites, paths, num_steps=rule.batches)
    rough = replace(chooser, dtype=torch.bfloat16).gradients(sites, paths, num_steps=rule.batches)
    for path in paths:
        assert rough[path].dtype is torch.float32
        assert (rough[path] - exact[path]).norm() <= 0.1 * exact[path].norm(), path
    with sites.network.computing(torch.bfloat16) as twins:
        assert not any(twin.copy.requires_grad for twin in twins if not twin.master.requires_grad)
