"""Rows that wait for their updates end where rows that do not wait end: bit for bit, whenever anybody looks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from weft import native
from weft.core.sites import SiteMap
from weft.core.table import ParamRow, ParamTable, Role
from weft.core.twins import Twins
from weft.core.view import ModelView, ParamInfo, Site, SiteKind
from weft.train.lazy import LazyRows, summed
from weft.train.optimizer import FusedAdamW, load_optimizer_state, make_optimizer, optimizer_state

pytestmark = pytest.mark.skipif(
    not native.available(), reason="compiled kernels are needed for rows that wait"
)
ROWS, WIDTH = 30, 8


class Net(nn.Module):
    """A table of words and a linear layer; ``lazy`` decides how the table is updated."""

    def __init__(self, *, rows: int = ROWS) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.words = nn.Embedding(rows, WIDTH, padding_idx=0)
        self.out = nn.Linear(WIDTH, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)

    def forward(self, tokens):
        return self.out(self.words(tokens)).float().square().mean()


def optimizer_of(net, *, lazy, decay=0.01):
    from weft.train.optimizer import PATHS, PEAK

    groups = [
        {"params": [net.words.weight, net.out.weight], PATHS: ["w", "o"], PEAK: 0.1, "weight_decay": decay},
        {"params": [net.out.bias], PATHS: ["b"], PEAK: 0.05, "weight_decay": 0.0},
    ]
    return FusedAdamW(groups, lazy=[LazyRows(net.words)] if lazy else [])


def run(texts, *, lazy, bf16, settle_after=(), clip=0.5):
    net = Net()
    optimizer = optimizer_of(net, lazy=lazy)
    twins = Twins(net, torch.bfloat16) if bf16 else None
    losses = []
    for step, tokens in enumerate(texts):
        if twins is None:
            loss = net(torch.tensor(tokens))
            loss.backward()
        else:
            with twins.standing_in():
                loss = net(torch.tensor(tokens))
                loss.backward()
        optimizer.apply(twins, objective=loss.detach(), clip=clip, lr_factor=1 / (step + 1))
        losses.append(loss.item())
        if step in settle_after:
            optimizer.settle()
    optimizer.settle()
    return (
        losses,
        {name: p.detach().clone() for name, p in net.named_parameters()},
        optimizer_state(optimizer),
    )


texts = st.lists(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=1), min_size=1, max_size=25)


@settings(max_examples=30)
@given(texts, st.booleans(), st.sets(st.integers(0, 20)))
def test_waiting_changes_no_bit(texts, bf16, settle_after):
    # One token a step: no two gradients of a row are added up, so dense and sparse gradients have the same bits.
    there = run(texts, lazy=True, bf16=bf16, settle_after=settle_after)
    plain = run(texts, lazy=False, bf16=bf16)
    assert there[0] == plain[0]
    for name, value in plain[1].items():
        assert torch.equal(there[1][name], value), name
    for key, value in plain[2].items():
        assert torch.equal(there[2][key], value), key


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.booleans())
def test_gradients_of_a_row_are_summed_in_fp32(tokens, bf16):
    table = nn.Embedding(10, 4, sparse=True).to(torch.bfloat16 if bf16 else torch.float32)
    weights = torch.randn(len(tokens), 4, generator=torch.Generator().manual_seed(1)).to(table.weight.dtype)
    (table(torch.tensor(tokens)) * weights).sum().backward()
    rows_R, sums_RD = summed(table.weight.grad)
    expected = torch.zeros(10, 4).index_add_(0, torch.tensor(tokens), weights.float())
    assert rows_R.tolist() == sorted(set(tokens))
    assert sums_RD.dtype is torch.float32
    torch.testing.assert_close(sums_RD, expected[rows_R])


def test_a_look_up_brings_rows_up_to_date_also_when_nothing_is_trained():
    net, other = Net(), Net()
    optimizer, plain = optimizer_of(net, lazy=True), optimizer_of(other, lazy=False)
    for tokens in ([3], [4], [5], [5]):
        for model, own in ((net, optimizer), (other, plain)):
            loss = model(torch.tensor(tokens))
            loss.backward()
            own.apply(None, objective=loss.detach(), clip=1.0, lr_factor=1.0)
    assert not torch.equal(net.words.weight[3], other.words.weight[3]), "row 3 waits"
    with torch.inference_mode():
        assert torch.equal(net.words(torch.tensor([3, 4])), other.words(torch.tensor([3, 4])))
    assert torch.equal(net.words.weight[3], other.words.weight[3])
    assert not torch.equal(net.words.weight[9], other.words.weight[9]), "decay waits too"
    optimizer.settle()
    assert torch.equal(net.words.weight, other.words.weight)


def test_saved_and_taken_up_again_it_goes_on_bitwise():
    whole = run([[1], [2], [1], [7], [2]], lazy=True, bf16=True)
    net = Net()
    first = optimizer_of(net, lazy=True)
    twins = Twins(net, torch.bfloat16)

    def steps(net, optimizer, twins, texts, start):
        for step, tokens in enumerate(texts, start):
            with twins.standing_in():
                loss = net(torch.tensor(tokens))
                loss.backward()
            optimizer.apply(twins, objective=loss.detach(), clip=0.5, lr_factor=1 / (step + 1))

    steps(net, first, twins, [[1], [2], [1]], 0)
    state = {key: value.clone() for key, value in optimizer_state(first).items()}
    again = Net()
    again.load_state_dict(net.state_dict())
    second = optimizer_of(again, lazy=True)
    load_optimizer_state(second, state)
    steps(again, second, Twins(again, torch.bfloat16), [[7], [2]], 3)
    second.settle()
    for name, value in again.named_parameters():
        assert torch.equal(value, whole[1][name]), name


def test_a_step_that_is_not_finite_moves_nothing():
    net = Net()
    optimizer = optimizer_of(net, lazy=True)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    (net(torch.tensor([2])) * float("inf")).backward()
    norm, skipped = optimizer.apply(None, objective=torch.tensor(1.0), clip=1.0, lr_factor=1.0)
    assert not torch.isfinite(norm)
    assert skipped.item() == 1.0
    optimizer.settle()
    for name, value in net.named_parameters():
        assert torch.equal(value, before[name])
        assert value.grad is None
    assert optimizer_state(optimizer) == {}


@pytest.mark.parametrize(
    ("rows", "tied", "waits"), [(4096, False, True), (64, False, False), (4096, True, False)]
)
def test_only_large_tables_that_are_looked_up_and_nothing_else_wait(rows, tied, waits):
    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Net(rows=rows)
            if tied:
                self.model.head = nn.Linear(WIDTH, rows, bias=False)
                self.model.head.weight = self.model.words.weight

    network = nn.Module()
    network.trunk = Trunk()
    info = ParamInfo("embeddings.word.weight", (rows, WIDTH))
    sites = [Site("embeddings.word", SiteKind.EMBEDDING, "words", (info,))]
    if tied:
        alias = ParamInfo("lm_head.weight", (rows, WIDTH), tied_to="embeddings.word.weight")
        sites.append(Site("lm_head", SiteKind.LINEAR, "head", (alias,)))
    table = ParamTable((ParamRow(info.path, info.shape, Role.TRAINED, "trunk", "test", lr=0.1, decay=True),))
    network.trunk.model.out.requires_grad_(False)
    make_optimizer(table, SiteMap(network, ModelView("bert", tuple(sites), {"": 1})), decay=0.01)
    assert network.trunk.model.words.sparse is waits
