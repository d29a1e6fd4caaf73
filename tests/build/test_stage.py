"""Entering and leaving a stage by the way: heads, optimizer, refusals, and what training then moves."""

from __future__ import annotations

import pytest
import torch

from weft.build.network import head_values, load_values, values_of
from weft.build.order import order_of
from weft.core.parts import HeadState, Parts
from weft.core.table import Role
from weft.errors import HandOverError, ModelError, RecipeError, SiteError
from weft.train.optimizer import make_optimizer

ONE = [{"name": "one", "length": "2 steps", "batch": 4}]
SHARED = {
    "kind": "classification",
    "train": "scores.csv[:8]",
    "dev": "dev.csv",
    "columns": {"label": "score"},
}


def values(entered, prefix=""):
    return {
        path: value.detach().clone() for path, value in entered.sites.parameters() if path.startswith(prefix)
    }


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[path], b[path]) for path in a)


# ---------------------------------------------------------------------------------------- refusals


def problems(opened):
    with pytest.raises(RecipeError) as caught:
        opened.rehearse()
    return caught.value.problems


def test_a_misspelt_strategy_is_answered_with_its_neighbours(open_kit):
    (line,) = problems(open_kit([{"name": "one", "strategy": "lroa"}]))
    assert line.startswith(
        "stages.0 (one): strategy: must be a name, a selector or a list of rules, but is 'lroa'."
    )
    assert "Did you mean 'lora'?" in line


def test_all_stages_that_cannot_be_entered_are_said_at_once_without_their_children(open_kit):
    stages = [
        {"name": "a", "strategy": "layers[0:9]"},
        {"name": "b"},
        {"name": "c", "parent": "base", "strategy": [{"train": "full", "sites": "atention.query"}]},
        {"name": "d", "parent": "base"},
    ]
    first, second = problems(open_kit(stages))
    assert first.startswith("stages.0 (a): layers[0:9]: must lie within the 2 layers")
    assert second.startswith("stages.2 (c): atention.query: must match something")


def test_rehearsing_reads_no_weights(open_kit, monkeypatch):
    opened = open_kit([*ONE, {"name": "two", "strategy": "lora"}])
    monkeypatch.setattr("weft.build.network.load_trunk", None)
    states = [state for _, state in opened.rehearse()]
    assert {value.device.type for state in states for _, value in state.sites.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (
            {"strategy": "top 1"},
            r"'continue' needs the same trained parameters .* but 2\d differ \(embeddings\.",
        ),
        ({"tasks": "mood"}, r"2 differ \(heads\.names\.out\.bias"),
        ({"carry": {"heads": "new"}}, "but heads are new"),
    ],
)
def test_an_optimizer_continues_only_on_the_same_parameters(open_kit, second, reason):
    carry = {"trunk": "continue", "optimizer": "continue", **second.pop("carry", {})}
    opened = open_kit([{"name": "one"}, {"name": "two", "carry": carry, **second}])
    (line,) = problems(opened)
    assert line.startswith("stages.1 (two): carry.optimizer: 'continue' needs")
    with pytest.raises(RecipeError, match=reason):
        opened.rehearse()


def test_an_optimizer_may_continue_a_lora(open_kit):
    carry = {"trunk": "continue", "optimizer": "continue"}
    stages = [{"name": "one", "strategy": "lora"}, {"name": "two", "strategy": "lora", "carry": carry}]
    (_, one), (_, two) = open_kit(stages).rehearse()
    assert {row.path for row in one.table.trained()} == {row.path for row in two.table.trained()}


def test_a_kept_head_must_have_its_task_and_its_labels(open_kit):
    opened = open_kit(ONE)
    head = opened.enter("one").leave().heads["mood"]
    changed = {**head.config, "labels": ["neg", "pos", "so-so"]}
    with pytest.raises(
        HandOverError, match=r"heads\.mood: .* labels changed: now without so-so\. Use carry\.heads: new"
    ):
        opened.enter("one", Parts(heads={"mood": HeadState("mood", head.kind, changed, head.tensors)}))
    with pytest.raises(HandOverError, match=r"heads\.other: a kept head needs its task in the recipe"):
        opened.enter("one", Parts(heads={"other": head}))


def test_values_must_fit_the_network(open_kit):
    entered = open_kit(ONE).enter("one")
    with pytest.raises(HandOverError, match=r"pooler\.wait: must be a parameter of this network"):
        load_values(entered.sites, {"pooler.wait": torch.zeros(1)})
    with pytest.raises(
        HandOverError, match=r"pooler\.bias: must have shape \(32,\), but the saved value has \(3,\)"
    ):
        load_values(entered.sites, {"pooler.bias": torch.zeros(3)})


def test_a_model_that_is_not_there_is_an_error_of_the_model(kit, tmp_path):
    with pytest.raises(ModelError, match="is no folder"):
        kit.open_kit(kit.make_recipe(tmp_path / "none", ONE, {"mood": kit.MOOD}), root=tmp_path)


def test_generation_wants_a_causal_model_and_gets_its_output_embedding(kit, files, stories260k, open_kit):
    tasks = {"say": kit.SAY}
    assert not open_kit(ONE).base.wants_lm_head
    causal = kit.open_kit(kit.make_recipe(stories260k, ONE, tasks), root=files)
    assert causal.base.wants_lm_head
    parts = causal.enter("one").leave()
    assert parts.heads["say"].tensors == {}
    assert open_kit(ONE, {"mood": kit.MOOD}).enter("one").leave().heads["mood"].tensors.keys() == {
        "out.weight",
        "out.bias",
    }
    with pytest.raises((ModelError, RecipeError), match="causal"):
        open_kit(ONE, tasks).rehearse()


# ------------------------------------------------------------------------------------------- heads


@pytest.fixture
def parts_of_both(open_kit):
    """Return the parts of a stage that has moved trunk and both heads."""
    opened = open_kit(ONE)
    entered = opened.enter("one")
    opened.trained(entered, "one")
    return entered.leave()


def second(open_kit, **stage):
    return open_kit([*ONE, {"name": "two", **stage}])


def test_heads_are_kept_bitwise_also_those_that_the_stage_does_not_train(open_kit, parts_of_both):
    entered = second(open_kit, tasks="mood").enter("two", parts_of_both)
    assert list(entered.tasks) == ["mood", "names"]
    kept = {path: value for head in parts_of_both.heads.values() for path, value in head_values(head).items()}
    assert equal(values(entered, "heads."), kept)
    roles = {row.path: row.role for row in entered.table if row.path.startswith("heads.")}
    assert roles["heads.mood.out.weight"] is Role.TRAINED
    assert roles["heads.names.out.weight"] is Role.FROZEN


def test_new_heads_are_those_of_the_beginning(open_kit, parts_of_both):
    entered = second(open_kit, tasks="mood", carry={"heads": "new"}).enter("two", parts_of_both)
    fresh = values(open_kit(ONE).enter("one"), "heads.mood.")
    assert equal(values(entered, "heads.mood."), fresh)
    assert equal(values(entered, "heads.names."), head_values(parts_of_both.heads["names"]))
    assert not equal(fresh, head_values(parts_of_both.heads["mood"]))


def test_dropped_heads_are_gone_but_for_the_stage_s_own(open_kit, parts_of_both):
    entered = second(open_kit, tasks="mood", carry={"heads": "drop"}).enter("two", parts_of_both)
    assert list(entered.tasks) == list(entered.leave().heads) == ["mood"]
    assert equal(values(entered, "heads."), head_values(parts_of_both.heads["mood"]))


def test_a_dropped_trunk_may_keep_its_heads(open_kit, parts_of_both):
    entered = second(open_kit, carry={"trunk": "drop"}).enter("two", parts_of_both)
    start = open_kit(ONE).enter("one")
    assert entered.changed == frozenset()
    for path, value in values(entered).items():
        if not path.startswith("heads."):
            assert torch.equal(value, dict(start.sites.parameters())[path])
    assert equal(values(entered, "heads.names."), head_values(parts_of_both.heads["names"]))


# ----------------------------------------------------------------------------------------- adapters


def test_adapters_stack_in_order_and_only_the_last_goes_on(open_kit):
    stages = [
        {"name": "one", "strategy": "lora"},
        {"name": "two", "strategy": "lora", "carry": {"trunk": "stack"}},
        {"name": "three", "strategy": "lora", "carry": {"trunk": "continue"}},
        {"name": "four", "strategy": "head", "carry": {"trunk": "merge"}},
    ]
    states = [state for _, state in open_kit(stages).rehearse()]
    assert [[one.name for one in state.leave().adapters] for state in states] == [
        ["one"],
        ["one", "two"],
        ["one", "two"],
        [],
    ]
    trained = [
        {row.owner for row in state.table.trained() if row.owner.startswith("adapter")} for state in states
    ]
    assert trained == [{"adapter:one"}, {"adapter:two"}, {"adapter:two"}, set()]
    assert states[3].leave().delta.keys() == {f"{one.site}.weight" for one in states[0].plan.installs}


def test_a_delta_goes_on_through_stages_that_leave_it_alone(open_kit):
    stages = [
        {"name": "one", "strategy": "top 1"},
        {"name": "two", "strategy": "bias", "carry": {"trunk": "continue"}},
        {"name": "three", "strategy": "head"},
    ]
    one, two, three = (state.leave().delta.keys() for _, state in open_kit(stages).rehearse())
    assert one < two == three


# ------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("strategy", ["full", "head", "lora", "bias", "top 1", "norm", "attention"])
def test_training_moves_what_the_table_says_and_nothing_else_bitwise(open_kit, strategy):
    opened = open_kit([{"name": "one", "strategy": strategy, "batch": 8}])
    entered = opened.enter("one")
    before = values(entered)
    results = opened.trained(entered, "one", num_steps=4)
    assert {name for result in results for name in result.examples} == {"mood", "names"}
    after = values(entered)
    seen = {row.path for row in entered.table.trained() if not torch.equal(before[row.path], after[row.path])}
    for row in entered.table:
        if row.role is Role.FROZEN:
            assert torch.equal(before[row.path], after[row.path]), row.path
    assert len(seen) == len(entered.table.trained()) > 0


def test_a_rate_of_zero_is_as_if_the_task_were_not_there(open_kit):
    with_both = open_kit([{"name": "one", "tasks": {"mood": 1, "names": 0}}])
    alone = open_kit([{"name": "one", "tasks": {"mood": 1}}])
    entered, other = with_both.enter("one"), alone.enter("one")
    assert entered.table == other.table
    assert list(entered.tasks) == ["mood"]
    with_both.trained(entered, "one")
    alone.trained(other, "one")
    assert equal(values(entered), values(other))


def test_a_rate_of_zero_leaves_a_carried_head_alone_and_the_rest_as_without_it(open_kit, parts_of_both):
    rated = second(open_kit, tasks={"mood": 1, "names": 0})
    plain = second(open_kit, tasks="mood", mixture="uniform")
    entered, other = rated.enter("two", parts_of_both), plain.enter("two", parts_of_both)
    rated.trained(entered, "two")
    plain.trained(other, "two")
    assert equal(values(entered), values(other))
    assert equal(values(entered, "heads.names."), head_values(parts_of_both.heads["names"]))


def test_a_weight_of_zero_is_drawn_and_trains_nothing(kit, open_kit):
    tasks = {"mood": kit.MOOD, "names": {**kit.NAMES, "weight": 0}}
    opened = open_kit([{"name": "one", "strategy": "head", "batch": 6}], tasks)
    entered = opened.enter("one")
    before = values(entered)
    results = opened.trained(entered, "one")
    assert sum(result.examples.get("names", 0) for result in results) > 0
    after = values(entered)
    assert torch.equal(before["heads.names.out.weight"], after["heads.names.out.weight"])
    assert not torch.equal(before["heads.mood.out.weight"], after["heads.mood.out.weight"])


def gradient(opened, entered, step, budget):
    engine = opened.engine(entered, opened.recipe.stages[0])
    engine.optimizer.apply = lambda *_, **__: (torch.zeros(()), torch.zeros(()))
    batches = opened.feed(opened.recipe.stages[0], budget=budget)(step)
    engine.step(batches, step=0, lr_factor=0.0)
    grads = {path: value.grad.clone() for path, value in entered.sites.parameters() if value.grad is not None}
    for _, value in entered.sites.parameters():
        value.grad = None
    return len(batches), batches, grads


@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_the_gradient_does_not_depend_on_the_cut_also_where_texts_are_shared(kit, open_kit, strategy):
    tasks = {"mood": kit.MOOD, "names": kit.NAMES, "length": kit.LENGTH}
    opened = open_kit([{"name": "one", "strategy": strategy, "batch": 30}], tasks)
    entered = opened.enter("one")
    if strategy == "lora":  # B is zero at first, and A without gradient
        opened.trained(entered, "one", num_steps=1)
    step = order_of(opened.recipe, opened.recipe.stages[0], opened.data, by_length=True).steps(0)[0]
    assert len(step) == 30
    num_small, small_batches, small = gradient(opened, entered, step, 64)
    num_large, large_batches, large = gradient(opened, entered, step, 100_000)
    assert num_large == 1 < 3 <= num_small
    rows = sum(batch.layout.num_rows for batch in small_batches)
    assert (
        rows == large_batches[0].layout.num_rows == 17
    )  # 12 texts of two tasks each, and 6 sentences, one of them the same
    assert small.keys() == large.keys() == {row.path for row in entered.table.trained()}
    flat = [torch.cat([grads[path].flatten() for path in small]) for grads in (small, large)]
    assert (flat[0] - flat[1]).norm() / flat[1].norm() <= 1e-5


def test_every_trained_row_is_in_the_optimizer_and_none_else(open_kit):
    entered = open_kit([{"name": "one", "strategy": "bias"}]).enter("one")
    optimizer = make_optimizer(entered.table, entered.sites, decay=0.01)
    paths = [path for group in optimizer.param_groups for path in group["paths"]]
    assert sorted(paths) == sorted(row.path for row in entered.table.trained())
    assert equal(values_of(entered.sites, paths), {path: values(entered)[path] for path in paths})


def test_an_unknown_site_in_the_network_is_named(open_kit):
    with pytest.raises(SiteError, match="Did you mean 'pooler'"):
        open_kit(ONE).enter("one").sites.module("poler")


def test_gates_of_rows_are_handed_on_and_learn(open_kit):
    again = {"name": "two", "strategy": "unipelt", "carry": {"trunk": "continue"}, "lr": 1e-3}
    opened = open_kit([{"name": "one", "strategy": "unipelt", "lr": 1e-2}, again])
    first = opened.enter("one")
    before = values(first)
    opened.trained(first, "one")
    gates = [path for path in before if "_gate" in path.split(".")[-2]]
    assert len(gates) == 2 * 2 * (2 + 1 + 1)  # layers, weight and bias, two LoRAs, a prefix and an adapter
    moved = {path for path in gates if not torch.equal(values(first)[path], before[path])}
    assert moved == set(gates)
    second = opened.enter("two", first.leave())
    assert second.network.sees_rows
    feed = opened.feed(opened.recipe.stage("one"), budget=4096)
    for rows in ([("mood", 0), ("mood", 5), ("names", 2)], [("mood", 5)]):
        batch = feed(rows)[0]
        with torch.no_grad():
            one, two = (state.network.eval().features(batch).flat_TD() for state in (first, second))
        assert torch.equal(one, two)
    assert {row.owner for row in second.table.trained() if row.owner.startswith("adapter:")} == {
        f"adapter:one-{method}" for method in ("gated-lora", "prefix", "adapter")
    }
