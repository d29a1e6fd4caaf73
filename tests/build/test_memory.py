"""Memory of a stage: what is estimated of virtual positions and of choosing modules, beside what a pass really keeps."""

from __future__ import annotations

import pytest
import torch

from weft.build.estimate import Machine, plan_stage
from weft.build.memory import PROCESS_BYTES
from weft.task.batching import are_distinct, make_batch

MACHINE = Machine(flops=1e9, dtype=torch.float32)
LORA = {"train": "lora", "sites": "linear", "rank": 2}
PROMPT, PREFIX = {"train": "prompt", "tokens": 12}, {"train": "prefix", "tokens": 12}
BUDGET = 64
WIDTH, LAYERS, VALUE_BYTES = 32, 2, 4


def opened_with(open_kit, kit, *rules, **keys):
    stage = {"name": "one", "strategy": list(rules), "budget": BUDGET, "batch": 1000, **keys}
    return open_kit([stage], {"mood": kit.MOOD})


def estimated(opened):
    """Return the bytes that a plan takes for activations: neither process, weights, gradients nor moments."""
    stage = opened.recipe.stage("one")
    plan = plan_stage(opened.recipe, stage, opened.enter("one"), opened.data, MACHINE)
    return plan.memory_bytes - PROCESS_BYTES - 4 * plan.num_values - 12 * plan.num_trained


def kept(opened):
    """Return the bytes that one pass of a full batch keeps for its gradient, and the batch's layout."""
    entered, rows = opened.enter("one"), opened.data.tasks["mood"].train
    chosen, room = [], BUDGET
    for row in rows:
        if len(row.tokens) <= room:
            chosen, room = [*chosen, row], room - len(row.tokens)
    assert are_distinct(chosen)
    tasks = {"mood": opened.data.tasks["mood"].task}
    batch = make_batch([("mood", row) for row in chosen], tasks, pad=0, packed=True)
    own = {parameter.untyped_storage().data_ptr() for parameter in entered.network.parameters()}
    found = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = (
                storage.nbytes(),
                tensor,
            )  # the tensor: or its memory is another's soon
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = entered.network.features(batch).hidden
    assert outputs.requires_grad
    return sum(size for size, _ in found.values()), batch.layout


def test_virtual_tokens_keep_what_tokens_keep(open_kit, kit):
    plain, more = (opened_with(open_kit, kit, *rules) for rules in ((LORA,), (LORA, PROMPT)))
    (before, layout), (after, _) = kept(plain), kept(more)
    assert after / before == pytest.approx(1 + 12 * layout.num_rows / layout.num_tokens, rel=0.1)
    assert estimated(more) / estimated(plain) == pytest.approx(after / before, rel=0.15)


def test_virtual_keys_keep_four_values_a_layer(open_kit, kit):
    plain, more = (opened_with(open_kit, kit, *rules) for rules in ((LORA,), (LORA, PREFIX)))
    (before, layout), (after, _) = kept(plain), kept(more)
    a_position = LAYERS * 4 * WIDTH * VALUE_BYTES
    assert (after - before) / (12 * layout.num_rows) == pytest.approx(a_position, rel=0.2)
    positions = (estimated(more) - estimated(plain)) / a_position / 12
    assert positions == pytest.approx(layout.num_rows, abs=2), "rows of a full batch, by their mean length"


def test_what_layers_compute_again_keeps_virtual_keys_of_one_layer(open_kit, kit):
    def increase(**keys):
        found = [estimated(opened_with(open_kit, kit, *rules, **keys)) for rules in ((LORA,), (LORA, PREFIX))]
        return found[1] - found[0]

    assert increase(activations="keep") == pytest.approx(LAYERS * increase(activations="recompute"), abs=2)


def test_rows_with_adapters_of_their_own_have_the_most_of_any_task(open_kit, kit):
    def memory(*tokens):
        rules = [{"train": "prompt", "tokens": count, "per_task": True} for count in tokens]
        return estimated(opened_with(open_kit, kit, *rules))

    assert memory(12) == estimated(opened_with(open_kit, kit, PROMPT))
    assert memory(12) > memory(4)


def test_choosing_modules_takes_a_gradient_of_all_of_them(open_kit, kit):
    hybrid = opened_with(open_kit, kit, {"train": "hybrid-lora", "rank": 1, "batches": 1})
    full = opened_with(open_kit, kit, {"sites": "all", "train": "full"})
    found, other = (
        plan_stage(one.recipe, one.recipe.stage("one"), one.enter("one"), one.data, MACHINE)
        for one in (hybrid, full)
    )
    candidates = 2 * (4 * 32 * 32 + 2 * 32 * 64) + 32 * 32  # the pooler too
    without_state = other.memory_bytes - 12 * other.num_trained
    assert found.memory_bytes == without_state + 4 * (candidates + found.num_values - other.num_values)


def test_gradients_of_candidates_are_handed_out_and_not_copied(open_kit, kit):
    opened = opened_with(open_kit, kit, {"train": "hybrid-lora", "rank": 1, "batches": 1})
    sites = opened.base.sites(opened.base.network(opened.data.fitted, device=torch.device("cpu")))
    parameters = dict(sites.parameters())
    paths = [f"layers.{layer}.ffn.up" for layer in range(LAYERS)]
    made = {}
    for path in paths:
        weight = parameters[f"{path}.weight"]
        weight.requires_grad_()
        weight.register_post_accumulate_grad_hook(
            lambda one, path=path: made.update({path: one.grad.data_ptr()})
        )
    found = opened.chooser(opened.recipe.stage("one")).gradients(sites, paths, num_steps=1)
    assert {path: gradient.data_ptr() for path, gradient in found.items()} == made
    assert all(parameter.grad is None for parameter in parameters.values())
