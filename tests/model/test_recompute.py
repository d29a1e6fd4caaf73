"""Activations that are computed again: the same bits, less kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from weft.core.batch import Batch
from weft.core.layout import Layout
from weft.core.network import Network
from weft.model.trunk import load_trunk
from weft.recipe.spec import Activations

KINDS = ["bert", "roberta", "modernbert", "llama", "qwen3", "gpt2"]
UNKNOWN = "mpnet"  # no table of names, so no layers
SIZES = [9, 12, 3, 17]
LESS = [Activations.RECOMPUTE, Activations.OFFLOAD]


def batch():
    tokens = torch.randint(3, 60, (sum(SIZES),), generator=torch.Generator().manual_seed(0))
    return Batch(tokens, None, Layout.packed(SIZES), {}, tuple("abcd"))


@pytest.fixture(scope="module")
def trunks(saved):
    def load(kind):
        return load_trunk(saved(kind), wants_lm_head=False, dropout=0.1, device=torch.device("cpu")).train()

    found = {kind: load(kind) for kind in (*KINDS, "distilbert", UNKNOWN)}
    return found.__getitem__


def passed(trunk, one, dtype, how):
    """Return loss, gradients, and bytes that the graph of one pass keeps outside of layers that run again."""
    network = Network(trunk, {})
    trunk.zero_grad()
    trunk.activations, kept = how, 0

    def count(tensor):
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    torch.manual_seed(5)
    try:
        with network.computing(dtype) as twins:
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                features = network.features(one)
            states = features.flat_TD() if one.reads_M is None else features.at_MD(one.reads_M)
            loss = states.float().square().sum()
            loss.backward()
            if twins is not None:
                twins.collect()
    finally:
        trunk.activations = Activations.KEEP
    return loss.item(), {n: p.grad.clone() for n, p in trunk.named_parameters() if p.grad is not None}, kept


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_the_same_bits_dropout_included(trunks, kind, dtype, narrow):
    trunk, one = trunks(kind), batch()
    if narrow:
        one = replace(one, reads_M=one.layout.starts_B)
    expected = passed(trunk, one, dtype, Activations.KEEP)
    for how in LESS:
        found = passed(trunk, one, dtype, how)
        assert found[0] == expected[0]
        assert found[1].keys() == expected[1].keys()
        for name, grad in expected[1].items():
            assert torch.equal(found[1][name], grad), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padded_rows_too(trunks, dtype):
    trunk, one = trunks("distilbert"), batch()
    assert trunk.recomputes
    assert not trunk.packs
    assert not trunks(UNKNOWN).recomputes
    expected = passed(trunk, one, dtype, Activations.KEEP)
    for how in LESS:
        found = passed(trunk, one, dtype, how)
        assert found[0] == expected[0]
        assert all(torch.equal(found[1][name], grad) for name, grad in expected[1].items())
    assert passed(trunk, one, dtype, Activations.RECOMPUTE)[2] < expected[2] / 2


@pytest.mark.parametrize("kind", KINDS)
def test_less_is_kept(trunks, kind):
    trunk, one = trunks(kind), batch()
    everything = passed(trunk, one, torch.float32, Activations.KEEP)[2]
    assert passed(trunk, one, torch.float32, Activations.RECOMPUTE)[2] < everything / 3


def test_nothing_is_done_twice_without_gradients(trunks, monkeypatch):
    def fail(*_args, **_told):
        raise AssertionError("no gradient will be taken")

    monkeypatch.setattr("weft.model.recompute.checkpoint", fail)
    trunk = trunks("bert")
    trunk.activations = Activations.RECOMPUTE
    try:
        with torch.no_grad():
            Network(trunk, {}).features(batch())
    finally:
        trunk.activations = Activations.KEEP
