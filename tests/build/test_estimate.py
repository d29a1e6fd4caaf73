"""Plans: steps, passes, tokens, parameters, memory and time, from shapes alone."""

from __future__ import annotations

import pytest
import torch

from weft.build.estimate import Machine, measure, plan_stage, stage_plans
from weft.build.memory import PROCESS_BYTES
from weft.report.records import StagePlan

MACHINE = Machine(flops=1e9, dtype=torch.float32)
MIB = 2**20


def plans(opened, machine=MACHINE) -> tuple[StagePlan, ...]:
    return stage_plans(opened.recipe, opened.rehearse(), opened.data, machine)


def only(opened, machine=MACHINE) -> StagePlan:
    (plan,) = plans(opened, machine)
    return plan


def seconds_of(plan: StagePlan) -> float:
    assert plan.seconds is not None
    return plan.seconds


@pytest.mark.parametrize(
    ("length", "steps", "examples"),
    [
        ("2 epochs", 2 * 5, 36),
        ("0.5 epochs", 3, 12),
        ("7 steps", 7, 18 + 8),
        ("21 examples", 6, 22),
        ("1 step", 1, 4),
    ],
)
def test_steps_and_examples(open_kit, length, steps, examples):
    plan = only(open_kit([{"name": "one", "length": length, "batch": 4}]))
    assert (plan.steps, plan.examples) == (steps, examples)
    assert sum(plan.passes[name] * size for name, size in {"mood": 12, "names": 6}.items()) == examples


def test_tokens_are_those_that_pass_the_trunk(kit, open_kit):
    one_task = open_kit([{"name": "one", "length": "1 epoch", "batch": 64}], {"mood": kit.MOOD})
    rows = one_task.data.tasks["mood"].train
    assert only(one_task).tokens == sum(len(row.tokens) for row in rows)
    both = {"mood": kit.MOOD, "length": kit.LENGTH}
    shared = open_kit([{"name": "one", "length": "1 epoch", "batch": 64}], both)
    assert only(shared).tokens == only(one_task).tokens  # the same texts, in one step
    assert only(shared).examples == 24
    least = only(open_kit([{"name": "one", "length": "100 tokens", "batch": 2}]))
    assert least.tokens in range(100, 125)


def test_passes_follow_the_rates(open_kit):
    plan = only(open_kit([{"name": "one", "tasks": {"mood": 1, "names": 2}, "length": "3 epochs"}]))
    assert plan.tasks == {"mood": pytest.approx(1 / 3), "names": pytest.approx(2 / 3)}
    assert plan.passes == {"mood": 18 / 12, "names": 36 / 6}


def test_a_task_of_rate_zero_is_in_no_plan(open_kit):
    plan = only(open_kit([{"name": "one", "tasks": {"mood": 1, "names": 0}}]))
    assert plan.tasks == {"mood": 1.0}
    assert plan.passes == {"mood": 3.0}
    assert not any("names" in row.owner for row in plan.table)


def test_minutes_leave_the_rest_open(open_kit):
    plan = only(open_kit([{"name": "one", "length": "5 minutes"}]))
    assert (plan.steps, plan.examples, plan.tokens, plan.seconds, plan.passes) == (None, None, None, None, {})


def test_parameters_are_counted_and_condensed(open_kit):
    plan = only(open_kit([{"name": "one", "strategy": "head"}]))
    # pos/neg: 2 x 32 + 2; tags O and B-, I- of LOC, ORG, PER: 7 x 32 + 7
    assert plan.num_trained == 66 + 231
    assert sum(row.num_values for row in plan.table) == plan.num_values
    assert sum(row.num_values for row in plan.table if row.role == "trained") == plan.num_trained
    assert plan.strategy == "head"
    assert plan.carry == {}, "there is nothing to take over from the base model"


def test_the_strategy_is_said_in_words_and_the_parent_by_name(open_kit):
    rules = [{"sites": "layers[0].attention", "train": "lora"}, {"sites": "top 1", "train": "full"}]
    stages = [{"name": "a"}, {"name": "b", "strategy": rules}, {"name": "c", "parent": "base"}]
    first, second, third = plans(open_kit(stages))
    assert second.carry == {"trunk": "merge", "heads": "keep", "optimizer": "fresh"}
    assert second.strategy == "lora on layers[0].attention + full on top 1"
    assert [first.parent, second.parent, third.parent] == ["base", "a", "base"]


def test_moving_the_trunk_under_a_kept_head_is_noted(open_kit):
    stages = [
        {"name": "a"},
        {"name": "b", "tasks": "mood"},
        {"name": "c", "tasks": "mood", "strategy": "head"},
    ]
    notes = [plan.notes for plan in plans(open_kit(stages))]
    assert notes[0] == notes[2] == ()
    assert notes[1] == ("the trunk moves under the kept heads of names: their scores may change",)


def test_memory_and_time_follow_what_is_trained(open_kit):
    by_strategy = {
        name: only(open_kit([{"name": "one", "strategy": name, "reuse": False}]))
        for name in ("full", "top 1", "lora", "head")
    }
    memory = {name: plan.memory_bytes for name, plan in by_strategy.items()}
    seconds = {name: seconds_of(plan) for name, plan in by_strategy.items()}
    assert memory["full"] > memory["top 1"] > memory["head"]
    assert memory["full"] > memory["lora"] > memory["head"]
    assert seconds["lora"] > seconds["head"]  # at this width factors of rank 8 cost what they spare
    assert seconds["full"] > seconds["top 1"] > seconds["head"]
    assert PROCESS_BYTES < memory["head"] < PROCESS_BYTES + 10 * MIB  # next to nothing beside the process
    assert seconds["full"] == pytest.approx(
        3 * seconds["head"], rel=0.02
    )  # forward, and twice as much backward


@pytest.mark.parametrize(
    ("strategy", "share", "words"),
    [("head", 1.0, "the trunk is frozen"), ("top 1", 0.5, "layers[:1] are frozen"), ("full", 0.0, "")],
)
def test_frozen_layers_are_counted_once_a_text(kit, open_kit, strategy, share, words):
    def plan(**keys):
        stage = {"name": "one", "strategy": strategy, "length": "4 epochs", **keys}
        return only(open_kit([stage], {"mood": kit.MOOD}))

    every, once = plan(reuse=False), plan()
    layers = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    tokens = sum(len(row.tokens) for row in open_kit([{"name": "one"}]).data.tasks["mood"].train)
    spared = 3 * tokens * 2 * share * layers / 1e9  # the pooler is above the store
    assert seconds_of(every) - seconds_of(once) == pytest.approx(spared)
    assert every.ways == ()
    assert [words in way for way in once.ways] == ([True] if words else [])


def test_time_is_that_of_the_matrices(kit, open_kit):
    opened = open_kit([{"name": "one", "strategy": "head", "length": "1 epoch"}], {"mood": kit.MOOD})
    layer = 4 * 32 * 32 + 2 * 32 * 64
    tokens = sum(len(row.tokens) for row in opened.data.tasks["mood"].train)
    assert seconds_of(only(opened)) == pytest.approx(2 * (2 * layer + 32 * 32) * tokens / 1e9)
    faster = Machine(flops=2e9, dtype=torch.bfloat16)
    assert seconds_of(only(opened, faster)) == pytest.approx(seconds_of(only(opened)) / 2)


LAYER = 4 * 32 * 32 + 2 * 32 * 64


def test_virtual_tokens_pass_every_layer(kit, open_kit):
    rule = {"train": "prompt", "tokens": 5}
    opened = open_kit([{"name": "one", "strategy": [rule], "length": "1 epoch"}], {"mood": kit.MOOD})
    rows = opened.data.tasks["mood"].train
    tokens = sum(len(row.tokens) for row in rows) + 5 * len(rows)
    assert seconds_of(only(opened)) == pytest.approx(4 * (2 * LAYER + 32 * 32) * tokens / 1e9)


def test_virtual_keys_are_products_with_each_token_and_their_projection_is_made_once_a_pass(kit, open_kit):
    def seconds(**keys):
        rule = {"train": "prefix", "tokens": 5, **keys}
        opened = open_kit([{"name": "one", "strategy": [rule], "length": "1 epoch"}], {"mood": kit.MOOD})
        return seconds_of(only(opened)), sum(len(row.tokens) for row in opened.data.tasks["mood"].train)

    found, tokens = seconds()
    matrices = (
        4 * (2 * LAYER + 32 * 32) - 2 * 32 * 32
    )  # no gradient comes as far as the first layer's queries
    assert found == pytest.approx((matrices + 6 * 2 * 2 * 5 * 32) * tokens / 1e9)
    assert seconds(projection=16)[0] == found


def test_of_adapters_that_rows_choose_tokens_pass_through_their_own(open_kit):
    def seconds(method, **keys):
        rule = {"train": method, "sites": "attention", "rank": 2, **keys}
        return seconds_of(only(open_kit([{"name": "one", "strategy": [rule]}])))

    assert seconds("lora", per_task=True) == pytest.approx(seconds("lora"))
    assert seconds("lora") < seconds("mtl-lora") < 1.2 * seconds("lora"), "which holds both tasks' parts"


def test_memory_follows_the_pass_not_the_step(open_kit):
    def memory(**stage):
        return only(open_kit([{"name": "one", **stage}])).memory_bytes

    small, large = memory(budget=32, batch=30), memory(budget=8192, batch=30)
    assert small < large
    assert memory(budget=32, batch=3000) == small  # cut into more passes of the same size
    assert memory(budget=8192, batch=60) - large == pytest.approx(
        large - memory(budget=8192, batch=15), rel=1.01
    )


def test_a_vocabulary_costs_logits(kit, files, stories260k):
    tasks = {"say": kit.SAY}
    opened = kit.open_kit(
        kit.make_recipe(stories260k, [{"name": "one", "strategy": "lora"}], tasks), root=files
    )
    plan = only(opened)
    assert PROCESS_BYTES < plan.memory_bytes < PROCESS_BYTES + 30 * MIB
    assert plan.num_values > 260_000 > plan.num_trained > 0


def test_of_two_stacks_each_sees_its_own_tokens(kit, files, tiny_bart):
    tasks = {"say": kit.SAY}
    recipe = kit.make_recipe(tiny_bart, [{"name": "one", "strategy": "full", "length": "1 epoch"}], tasks)
    opened = kit.open_kit(recipe, root=files)
    plan, rows = only(opened), opened.data.tasks["say"].train
    read, written = sum(len(row.tokens) for row in rows), sum(len(row.reply.tokens) for row in rows)
    assert plan.tokens == read + written
    self_attention, feed_forward = 4 * 32 * 32, 2 * 32 * 64
    encoder = 2 * (self_attention + feed_forward)
    decoder = 2 * (2 * self_attention + feed_forward)
    output = (
        32 * opened.base.network({}, device=torch.device("meta")).trunk.info.vocabulary
    )  # trained as a table
    flops = 6 * (encoder * read + decoder * written) + 4 * output * written
    assert seconds_of(plan) == pytest.approx(flops / 1e9)


def test_the_machine_is_measured_without_touching_its_random_numbers():
    before = torch.get_rng_state()
    machine = measure(torch.device("cpu"), torch.float32)
    assert torch.equal(before, torch.get_rng_state())
    assert 1e8 < machine.flops < 1e14
    assert machine.dtype is torch.float32


def test_a_real_and_an_imagined_stage_have_the_same_plan(open_kit):
    opened = open_kit([{"name": "one", "strategy": "lora"}])
    stage = opened.recipe.stages[0]
    real = plan_stage(opened.recipe, stage, opened.enter("one"), opened.data, MACHINE)
    assert real == only(opened)
