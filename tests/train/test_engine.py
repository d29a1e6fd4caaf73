"""One step: denominators, weights, clipping, skipping; on a network small enough to know everything."""

from __future__ import annotations

import math

import pytest
import torch

from weft.core.loss import Loss
from weft.train.engine import denominators_of, summary
from weft.train.optimizer import optimizer_state


@pytest.fixture
def items(toy):
    """Sixteen rows of two tasks, lengths 1 to 9, some texts shared."""
    classify = toy.make_rows("classify", 8, source="shared")
    score = toy.make_rows("score", 5, source="shared") + toy.make_rows("score", 3)
    return [("classify", row) for row in classify] + [("score", row) for row in score]


def gradients(toy, micro_batches, *, weights=None, losses=None):
    """Return the gradient of a step by path, unclipped, as the optimizer gets it."""
    sites = toy.make_network()
    engine = toy.make_engine(sites, weights=weights, losses=losses, clip=1e30)
    seen = {}
    apply = engine.optimizer.apply

    def recorded(*args, **rest):
        seen.update({path: p.grad.clone() for path, p in sites.parameters() if p.grad is not None})
        return apply(*args, **rest)

    engine.optimizer.apply = recorded
    result = engine.step(micro_batches, step=0, lr_factor=1.0)
    assert seen
    return seen, result


CUTS = {
    "one": [range(16)],
    "two": [range(7), range(7, 16)],
    "interleaved": [range(0, 16, 3), range(1, 16, 3), range(2, 16, 3)],
    "single rows": [[i] for i in range(16)],
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("packed", [False, True])
def test_gradient_does_not_depend_on_the_cut(toy, items, cut, packed):
    whole, result = gradients(toy, [toy.make_batch(items)])
    parts, other = gradients(
        toy, [toy.make_batch([items[i] for i in part], packed=packed) for part in CUTS[cut]]
    )
    assert whole.keys() == parts.keys()
    for path, grad in whole.items():
        assert (parts[path] - grad).norm() <= 1e-5 * grad.norm(), path
    assert other.weights == result.weights
    for name in result.totals:
        assert other.totals[name].item() == pytest.approx(result.totals[name].item(), rel=1e-5)


def test_gradient_is_that_of_the_sum_of_weighted_means(toy, items):
    seen, _ = gradients(
        toy, [toy.make_batch(items[:9]), toy.make_batch(items[9:])], weights={"classify": 3.0, "score": 0.5}
    )
    sites = toy.make_network()
    batch = toy.make_batch(items)
    outputs = sites.network(batch)
    mean = {name: toy.TASKS[name].loss(outputs[name], batch.targets[name]) for name in outputs}
    objective = (
        3.0 * mean["classify"].total / 8 + 0.5 * mean["score"].total / denominators_of([batch])["score"]
    )
    objective.backward()
    for path, parameter in sites.parameters():
        assert torch.allclose(seen[path], parameter.grad, rtol=1e-5, atol=1e-8), path


def test_weight_2_means_twice(toy, items):
    only = items[:8]
    once, _ = gradients(toy, [toy.make_batch(only)], weights={"classify": 1.0})
    twice, _ = gradients(toy, [toy.make_batch(only)], weights={"classify": 2.0})
    assert all(torch.equal(twice[path], 2 * once[path]) for path in once)


def test_a_task_of_weight_0_is_measured_and_trains_nothing(toy, items):
    weights = {"classify": 1.0, "score": 0.0}
    seen, result = gradients(toy, [toy.make_batch(items)], weights=weights)
    alone, _ = gradients(toy, [toy.make_batch(items[:8])], weights=weights)
    assert not any(path.startswith("heads.score") for path in seen)
    assert set(seen) == set(alone)
    for path in alone:
        assert torch.allclose(seen[path], alone[path], rtol=1e-5, atol=1e-9)
    assert result.totals["score"].item() > 0
    assert result.examples == {"classify": 8, "score": 8}


def test_a_weight_0_task_that_diverges_does_not_stop_the_others(toy, items):
    losses = {"score": lambda outputs, target: Loss(outputs.sum() * math.nan, target.weight)}
    seen, result = gradients(
        toy, [toy.make_batch(items)], weights={"classify": 1.0, "score": 0.0}, losses=losses
    )
    assert result.skipped.item() == 0
    assert all(grad.isfinite().all() for grad in seen.values())
    assert math.isnan(result.totals["score"].item())


def test_a_step_without_a_task_leaves_its_head_and_its_state_alone(toy, items):
    sites = toy.make_network()
    engine = toy.make_engine(sites)
    before = toy.copy_of(sites)
    engine.step([toy.make_batch(items[:8])], step=0, lr_factor=1.0)
    after = toy.copy_of(sites)
    moved = {path for path in before if not torch.equal(before[path], after[path])}
    assert moved == {path for path in before if not path.startswith("heads.score")}
    assert not any(key.startswith("heads.score") for key in optimizer_state(engine.optimizer))


def test_a_step_that_nothing_trained_takes_part_in_does_nothing(toy, items):
    sites = toy.make_network()
    before = toy.copy_of(sites)
    engine = toy.make_engine(sites, weights={"classify": 0.0, "score": 0.0})
    result = engine.step([toy.make_batch(items)], step=0, lr_factor=1.0)
    assert (result.grad_norm.item(), result.skipped.item()) == (0.0, 0.0)
    assert all(torch.equal(before[path], value) for path, value in toy.copy_of(sites).items())

    sites = toy.make_network()
    rows = toy.make_table(sites).rows
    for path, parameter in sites.parameters():
        parameter.requires_grad_(path.startswith("heads.score"))
    table = toy.ParamTable(tuple(row for row in rows if row.path.startswith("heads.score")))
    engine = toy.make_engine(sites, table=table)
    result = engine.step([toy.make_batch(items[:8])], step=0, lr_factor=1.0)  # rows of the other task only
    assert (result.grad_norm.item(), result.skipped.item()) == (0.0, 0.0)


def test_frozen_rows_do_not_move_a_bit(toy, items):
    sites = toy.make_network()
    engine = toy.make_engine(sites, table=toy.make_table(sites, frozen="embeddings"))
    before = toy.copy_of(sites)
    for step in range(5):
        engine.step([toy.make_batch(items[:9]), toy.make_batch(items[9:])], step=step, lr_factor=1.0)
    after = toy.copy_of(sites)
    assert torch.equal(before["embeddings.word.weight"], after["embeddings.word.weight"])
    assert all(not torch.equal(before[path], after[path]) for path in before if not path.startswith("emb"))


@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_clipping_is_torchs_clipping(toy, items, clip):
    ours, theirs = toy.make_network(), toy.make_network()
    engine = toy.make_engine(ours, clip=clip)
    result = engine.step([toy.make_batch(items)], step=0, lr_factor=1.0)
    batch = toy.make_batch(items)
    outputs = theirs.network(batch)
    sums = {name: toy.TASKS[name].loss(outputs[name], batch.targets[name]) for name in outputs}
    sum(loss.total / loss.weight for loss in sums.values()).backward()
    parameters = dict(theirs.parameters())
    norm = torch.nn.utils.clip_grad_norm_(parameters.values(), clip)
    assert result.grad_norm.item() == pytest.approx(norm.item(), rel=1e-6)
    state = optimizer_state(engine.optimizer)
    for path, parameter in parameters.items():
        first_moment = 0.1 * parameter.grad
        assert torch.allclose(state[f"{path}/exp_avg"], first_moment, rtol=1e-4, atol=1e-9), path


def test_the_factor_scales_every_groups_peak(toy, items):
    sites = toy.make_network()
    engine = toy.make_engine(sites)
    result = engine.step([toy.make_batch(items)], step=0, lr_factor=0.25)
    assert result.lr == 0.02 * 0.25
    assert sorted({group["lr"] for group in engine.optimizer.param_groups}) == [0.0025, 0.005]
    before = toy.copy_of(sites)
    engine.step([toy.make_batch(items)], step=1, lr_factor=0.0)
    assert all(torch.equal(before[path], value) for path, value in toy.copy_of(sites).items())


def _nan_loss(toy):
    return {"classify": lambda outputs, target: Loss(outputs.sum() * math.nan, target.weight)}


def _inf_loss(toy):
    return {"classify": lambda outputs, target: Loss(outputs.sum() + math.inf, target.weight)}


class _InfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, outputs):
        return outputs.sum()

    @staticmethod
    def backward(ctx, grad):
        return torch.full((8, 3), math.inf)


def _inf_gradient(toy):
    return {"classify": lambda outputs, target: Loss(_InfGradient.apply(outputs), target.weight)}


@pytest.mark.parametrize("fault", [_nan_loss, _inf_loss, _inf_gradient])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_what_is_not_finite_reaches_neither_weights_nor_state(toy, items, fault, steps_before):
    sites = toy.make_network()
    engine = toy.make_engine(sites)
    good = engine.objective
    for step in range(steps_before):
        engine.step([toy.make_batch(items)], step=step, lr_factor=1.0)
    weights = toy.copy_of(sites)
    state = {key: tensor.clone() for key, tensor in optimizer_state(engine.optimizer).items()}
    engine.objective = type(good)({**good.losses, **fault(toy)})
    result = engine.step([toy.make_batch(items[8:]), toy.make_batch(items[:8])], step=9, lr_factor=1.0)
    assert result.skipped.item() == 1
    assert all(torch.equal(weights[path], value) for path, value in toy.copy_of(sites).items())
    for key, tensor in optimizer_state(engine.optimizer).items():
        assert torch.equal(tensor, state[key] if steps_before else torch.zeros_like(tensor)), key

    engine.objective = good  # and the next good step is what it would have been without the bad one
    engine.step([toy.make_batch(items)], step=10, lr_factor=1.0)
    clean = toy.make_network()
    other = toy.make_engine(clean)
    for step in [*range(steps_before), 10]:
        other.step([toy.make_batch(items)], step=step, lr_factor=1.0)
    assert all(torch.equal(value, toy.copy_of(clean)[path]) for path, value in toy.copy_of(sites).items())


def test_dropout_is_a_function_of_seed_stage_and_step(toy, items):
    def weights(seed, step):
        sites = toy.make_network(dropout=0.3)
        toy.make_engine(sites, seed=seed).step([toy.make_batch(items)], step=step, lr_factor=1.0)
        return toy.copy_of(sites)["layers.0.mix.weight"]

    first = weights(0, 5)
    torch.rand(17)  # whatever else drew random numbers
    assert torch.equal(weights(0, 5), first)
    assert not torch.equal(weights(0, 6), first)
    assert not torch.equal(weights(1, 5), first)


def test_bfloat16_is_for_products_only(toy, items):
    sites = toy.make_network()
    seen = []
    sites.module("layers.0.mix").register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    engine = toy.make_engine(sites, dtype=torch.bfloat16)
    result = engine.step([toy.make_batch(items)], step=0, lr_factor=1.0)
    assert seen == [torch.bfloat16]
    assert {parameter.dtype for _, parameter in sites.parameters()} == {torch.float32}
    assert {tensor.dtype for tensor in optimizer_state(engine.optimizer).values()} == {torch.float32}
    assert {total.dtype for total in result.totals.values()} == {torch.float32}


def test_the_step_leaves_no_gradient_and_trains_in_train_mode(toy, items):
    sites = toy.make_network()
    sites.network.eval()
    toy.make_engine(sites).step([toy.make_batch(items)], step=0, lr_factor=1.0)
    assert sites.network.training
    assert all(parameter.grad is None for _, parameter in sites.parameters())


def test_counts_and_report(toy, items):
    engine = toy.make_engine(toy.make_network())
    batches = [toy.make_batch(items[:8]), toy.make_batch(items[8:])]
    results = [engine.step(batches, step=step, lr_factor=1.0) for step in (3, 4)]
    first = results[0]
    texts = [{row.tokens for _, row in part} for part in (items[:8], items[8:])]
    assert first.tokens == sum(len(tokens) for part in texts for tokens in part)
    assert first.padded_tokens == sum(len(part) * max(map(len, part)) for part in texts)
    assert first.ids[0] == "shared.csv:0"
    assert len(first.ids) == sum(map(len, texts))
    assert first.weights == {"classify": 8.0, "score": float(sum(len(row.tokens) for _, row in items[8:]))}

    report = first.report(stage="stage", epoch=0.5, seconds=2.0)
    assert report.losses["classify"] == pytest.approx(first.totals["classify"].item() / 8, rel=1e-6)
    assert (report.step, report.examples, report.skipped, report.seconds, report.lr) == (3, 16, 0, 2.0, 0.02)

    both = summary(results, stage="stage", epoch=0.5, seconds=4.0)
    assert both.step == 4
    assert both.examples == 32
    assert both.tokens == 2 * first.tokens
    total = sum(result.totals["score"].item() for result in results)
    assert both.losses["score"] == pytest.approx(total / (2 * first.weights["score"]), rel=1e-6)
    assert both.grad_norm == pytest.approx(sum(result.grad_norm.item() for result in results) / 2, rel=1e-6)


def test_a_report_does_not_hide_nan(toy, items):
    sites = toy.make_network()
    engine = toy.make_engine(sites, losses=_nan_loss(toy))
    report = engine.step([toy.make_batch(items)], step=0, lr_factor=1.0).report(stage="s", epoch=0, seconds=1)
    assert math.isnan(report.losses["classify"])
    assert math.isfinite(report.losses["score"])
    assert report.skipped == 1
