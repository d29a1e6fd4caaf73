"""The optimizer holds exactly the trained rows, keeps its state by path, and skips without anybody looking."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from weft.core.table import ParamTable
from weft.errors import CheckpointError
from weft.native import eight_bit
from weft.recipe.spec import Moments
from weft.train.optimizer import load_optimizer_state, make_optimizer, optimizer_state


def take_steps(optimizer, sites, count, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for _, parameter in sites.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_groups_are_the_tables_groups_and_hold_every_trained_row_once(toy):
    sites = toy.make_network()
    table = toy.make_table(sites, frozen="embeddings")
    optimizer = make_optimizer(table, sites, decay=0.1)
    named = {id(parameter): path for path, parameter in sites.parameters()}
    seen = []
    for group, ((lr, has_decay), rows) in zip(optimizer.param_groups, table.groups().items(), strict=True):
        assert group["paths"] == [row.path for row in rows] == [named[id(p)] for p in group["params"]]
        assert (group["lr"], group["peak_lr"], group["weight_decay"]) == (lr, lr, 0.1 if has_decay else 0.0)
        assert group["fused"]
        seen += group["paths"]
    assert sorted(seen) == sorted(row.path for row in table.trained())
    assert "embeddings.word.weight" not in seen
    assert len(optimizer.param_groups) == 4


def test_a_table_that_is_not_the_networks_is_refused(toy):
    sites = toy.make_network()
    table = toy.make_table(sites)
    sites.module("layers.0.mix").weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"layers\.0\.mix\.weight: table and network must agree"):
        make_optimizer(table, sites, decay=0.0)
    sites = toy.make_network()
    missing = ParamTable(toy.make_table(sites).rows[1:])
    with pytest.raises(ValueError, match=r"embeddings\.word\.weight: table and network must agree"):
        make_optimizer(missing, sites, decay=0.0)
    with pytest.raises(ValueError, match="all are frozen"):
        make_optimizer(toy.make_table(sites, frozen=""), sites, decay=0.0)


def test_it_is_torchs_adamw(toy):
    ours, theirs = toy.make_network(), toy.make_network()
    optimizer = make_optimizer(toy.make_table(ours, lr=0.01, head_lr=0.01), ours, decay=0.1)
    parameters = dict(theirs.parameters())
    reference = torch.optim.AdamW(
        [
            {"params": [p for p in parameters.values() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in parameters.values() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=0.01,
        foreach=False,
        fused=False,
    )
    take_steps(optimizer, ours, 5)
    toy.make_table(theirs)
    take_steps(reference, theirs, 5)
    for path, value in toy.copy_of(ours).items():
        assert torch.allclose(value, parameters[path], rtol=1e-5, atol=1e-7), path


def test_state_goes_out_and_in_by_path_and_training_goes_on_as_if_unbroken(toy):
    unbroken = toy.make_network()
    optimizer = make_optimizer(toy.make_table(unbroken), unbroken, decay=0.1)
    take_steps(optimizer, unbroken, 3)
    saved = {key: tensor.clone() for key, tensor in optimizer_state(optimizer).items()}
    weights = toy.copy_of(unbroken)
    take_steps(optimizer, unbroken, 2, seed=1)

    resumed = toy.make_network()
    for path, parameter in resumed.parameters():
        parameter.data.copy_(weights[path])
    # other rates, hence other groups in another order: paths, not indices, must decide
    table = toy.make_table(resumed, head_lr=0.01)
    again = make_optimizer(toy.make_table(resumed), resumed, decay=0.1)
    load_optimizer_state(again, saved)
    assert {key: tensor.tolist() for key, tensor in optimizer_state(again).items()} == {
        key: tensor.tolist() for key, tensor in saved.items()
    }
    take_steps(again, resumed, 2, seed=1)
    for path, value in toy.copy_of(unbroken).items():
        assert torch.equal(value, toy.copy_of(resumed)[path]), path

    other = make_optimizer(table, resumed, decay=0.1)
    load_optimizer_state(other, saved)
    state = optimizer_state(other)
    assert sorted(state) == sorted(saved)
    assert all(torch.equal(state[key], saved[key]) for key in saved)


def test_loading_copies(toy):
    sites = toy.make_network()
    optimizer = make_optimizer(toy.make_table(sites), sites, decay=0.1)
    take_steps(optimizer, sites, 1)
    saved = {key: tensor.clone() for key, tensor in optimizer_state(optimizer).items()}
    load_optimizer_state(optimizer, saved)
    before = {key: tensor.clone() for key, tensor in saved.items()}
    take_steps(optimizer, sites, 1)
    assert all(torch.equal(saved[key], before[key]) for key in saved)


def test_what_never_had_a_gradient_has_no_state(toy):
    sites = toy.make_network()
    optimizer = make_optimizer(toy.make_table(sites), sites, decay=0.1)
    assert optimizer_state(optimizer) == {}
    sites.module("layers.0.mix").bias.grad = torch.ones(toy.WIDTH)
    optimizer.step()
    path = "layers.0.mix.bias"
    assert sorted(optimizer_state(optimizer)) == [f"{path}/exp_avg", f"{path}/exp_avg_sq", f"{path}/step"]
    load_optimizer_state(optimizer, {})
    assert optimizer_state(optimizer) == {}


def test_state_that_does_not_fit_is_refused_whole(toy):
    sites = toy.make_network()
    optimizer = make_optimizer(toy.make_table(sites), sites, decay=0.1)
    take_steps(optimizer, sites, 1)
    good = {key: tensor.clone() for key, tensor in optimizer_state(optimizer).items()}
    path = "layers.0.mix.bias"
    stranger = {key.replace("layers.0", "layers.7"): tensor for key, tensor in good.items()}
    with pytest.raises(
        CheckpointError, match=r"layers\.7\.mix\.bias: optimizer state must belong to a trained"
    ):
        load_optimizer_state(optimizer, stranger)
    with pytest.raises(
        CheckpointError, match=r"layers\.0\.mix\.bias/exp_avg: must be \(8,\) of torch.float32, but is \(9,\)"
    ):
        load_optimizer_state(optimizer, {**good, f"{path}/exp_avg": torch.zeros(9)})
    with pytest.raises(CheckpointError, match=r"layers\.0\.mix\.bias: optimizer state must be exp_avg"):
        load_optimizer_state(optimizer, {key: value for key, value in good.items() if key != f"{path}/step"})
    state = optimizer_state(optimizer)
    assert all(torch.equal(state[key], good[key]) for key in good)


def test_partial_loading_leaves_out_what_is_not_trained_any_more(toy):
    sites = toy.make_network()
    optimizer = make_optimizer(toy.make_table(sites), sites, decay=0.1)
    take_steps(optimizer, sites, 1)
    saved = dict(optimizer_state(optimizer))
    fewer = toy.make_network()
    smaller = make_optimizer(toy.make_table(fewer, frozen="heads."), fewer, decay=0.1)
    load_optimizer_state(smaller, saved, partial=True)
    assert sorted(optimizer_state(smaller)) == sorted(key for key in saved if not key.startswith("heads."))


def wide_network(toy):
    """Return the toy network with one matrix that is large enough for moments in bytes."""
    sites = toy.make_network()
    sites.module("layers.0.mix").weight.data = torch.ones(eight_bit.LEAST_VALUES, 1)
    return sites


def table_of(toy, sites):
    rows = toy.make_table(sites).rows
    shapes = {path: tuple(parameter.shape) for path, parameter in sites.parameters()}
    return ParamTable(tuple(replace(row, shape=shapes[row.path]) for row in rows))


def eight_bits(toy, sites):
    return make_optimizer(table_of(toy, sites), sites, decay=0.1, moments=Moments.EIGHT_BIT)


def one_step(optimizer, sites, step):
    generator = torch.Generator().manual_seed(step)
    for _, parameter in sites.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    torch.manual_seed(step)
    return optimizer.apply(None, objective=torch.zeros(()), clip=1.0, lr_factor=1.0)


def test_eight_bit_moments_of_large_tensors_go_out_and_in_by_path_bit_by_bit(toy):
    unbroken = wide_network(toy)
    optimizer = eight_bits(toy, unbroken)
    for step in range(3):
        one_step(optimizer, unbroken, step)
    saved = {key: tensor.clone() for key, tensor in optimizer_state(optimizer).items()}
    coded = {key.rpartition("/")[0] for key, tensor in saved.items() if tensor.dtype is torch.uint8}
    assert coded == {"layers.0.mix.weight"}
    weights = toy.copy_of(unbroken)
    one_step(optimizer, unbroken, 3)

    resumed = wide_network(toy)
    for path, parameter in resumed.parameters():
        parameter.data.copy_(weights[path])
    again = eight_bits(toy, resumed)
    load_optimizer_state(again, saved)
    one_step(again, resumed, 3)
    assert all(
        torch.equal(value, toy.copy_of(resumed)[path]) for path, value in toy.copy_of(unbroken).items()
    )


def test_state_moves_between_fp32_and_eight_bits(toy):
    sites = wide_network(toy)
    narrow, wide = eight_bits(toy, sites), make_optimizer(table_of(toy, sites), sites, decay=0.1)
    one_step(narrow, sites, 0)
    load_optimizer_state(wide, optimizer_state(narrow))
    held = optimizer_state(wide)
    assert all(tensor.dtype is torch.float32 for tensor in held.values())
    load_optimizer_state(narrow, held)
    back = optimizer_state(narrow)
    assert {key: t.tolist() for key, t in back.items()} == {
        key: t.tolist() for key, t in optimizer_state(narrow).items()
    }
    path = "layers.0.mix.weight/exp_avg"
    assert back[path].dtype is torch.uint8
    assert torch.allclose(
        eight_bit.decode(back[path].flatten(), back[path + "_scale"], eight_bit.CODES["exp_avg"]),
        held[path].flatten(),
    )


def test_eight_bits_skip_what_is_not_finite_and_clip(toy):
    sites = wide_network(toy)
    optimizer = eight_bits(toy, sites)
    norm, skipped = one_step(optimizer, sites, 0)
    assert (float(norm) > 1.0, float(skipped)) == (True, 0.0)
    before = toy.copy_of(sites)
    sites.module("layers.0.mix").bias.grad = torch.full((toy.WIDTH,), float("nan"))
    _, skipped = optimizer.apply(None, objective=torch.zeros(()), clip=1.0, lr_factor=1.0)
    assert float(skipped) == 1.0
    assert all(torch.equal(value, toy.copy_of(sites)[path]) for path, value in before.items())


def test_coded_state_that_does_not_fit_is_refused(toy):
    sites = wide_network(toy)
    optimizer = eight_bits(toy, sites)
    one_step(optimizer, sites, 0)
    good = {key: tensor.clone() for key, tensor in optimizer_state(optimizer).items()}
    scale = "layers.0.mix.weight/exp_avg_scale"
    with pytest.raises(CheckpointError, match=r"exp_avg_scale: must be \(16,\)"):
        load_optimizer_state(optimizer, good | {scale: torch.ones(3)})
    with pytest.raises(CheckpointError, match="optimizer state must be"):
        load_optimizer_state(optimizer, {key: t for key, t in good.items() if key != scale})
