"""The optimizer holds exactly the trained rows, keeps its state by path, and skips without anybody looking."""

from __future__ import annotations

import pytest
import torch

from weft.core.table import ParamTable
from weft.errors import CheckpointError
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
        CheckpointError, match=r"layers\.0\.mix\.bias/exp_avg: must have the parameter's shape \(8,\)"
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
