"""Every registered method on every kind of site keeps the promises of the protocol.

A cell passes, or is impossible by a declared capability (``kinds``, ``edits``), and then the refusal is what is tested.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch

from weft.core.sites import SiteMap
from weft.core.table import Role
from weft.core.view import SiteKind
from weft.errors import StrategyError
from weft.recipe.spec import Rule
from weft.strategy.adapters import extract, merged, restore
from weft.strategy.apply import apply
from weft.strategy.base import Edits
from weft.strategy.full import FullRule
from weft.strategy.lora import LoraRule
from weft.strategy.none import NoneRule
from weft.strategy.plan import CarriedAdapter, plan
from weft.strategy.registry import METHODS

# A site of each kind in the toy network; every registered method needs a rule here.
SITES = {
    SiteKind.LINEAR: "layers.0.attention.query",
    SiteKind.CONV1D: "layers.0.attention.qkv",
    SiteKind.EMBEDDING: "embeddings.word",
    SiteKind.NORM: "layers.0.norm.ffn",
    SiteKind.OTHER: "layers.0.gain",
}
RULES = {
    "none": lambda sites: NoneRule(sites=sites),
    "full": lambda sites: FullRule(sites=sites),
    "lora": lambda sites: LoraRule(sites=sites, rank=2),
}
CHECKS: dict[str, object] = {}
CELLS = [(name, kind) for name, kind in product(METHODS, SiteKind)]


def check(function):
    CHECKS[function.__name__] = function
    return function


class Cell:
    """One method at one site of a fresh network."""

    def __init__(self, toy, method, kind):
        self.toy, self.method, self.kind = toy, METHODS[method], kind
        self.path = SITES[kind]
        self.network = toy.network()
        self.sites = SiteMap(self.network, toy.describe(self.network))

    @property
    def rule(self) -> Rule:
        return RULES[self.method.name](self.path)

    def apply(self, *, adapter="one", carried=(), tasks=("a",), seed=0):
        made = plan(
            self.sites.view, [self.rule], tasks=tasks, stage_lr=1e-2, adapter=adapter, carried=carried
        )
        self.sites, table = apply(self.sites, made, describe=self.toy.describe, seed=seed)
        assert table == made.table
        assert [row.path for row in table] == [path for path, _ in self.sites.parameters()]
        assert {row.path: row.shape for row in table} == {
            p: tuple(v.shape) for p, v in self.sites.parameters()
        }
        return table

    def values(self):
        return {path: parameter.detach().clone() for path, parameter in self.sites.parameters()}

    def outputs(self):
        with torch.no_grad():
            return self.toy.outputs(self.network)

    def train(self, table, *, steps=3):
        """Take AdamW steps on the rows that are trained."""
        parameters = dict(self.sites.parameters())
        optimizer = torch.optim.AdamW([parameters[row.path] for row in table.trained()], lr=1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            self.toy.outputs(self.network).square().sum().backward()
            for row in table:
                assert (parameters[row.path].grad is None) == (row.role is Role.FROZEN), row.path
            optimizer.step()


@check
def identity_at_start(cell: Cell):
    before = cell.outputs()
    cell.apply()
    assert torch.equal(cell.outputs(), before)


@check
def frozen_rows_stay_bitwise(cell: Cell):
    table = cell.apply()
    before = cell.values()
    cell.train(table)
    after = cell.values()
    frozen = [row.path for row in table if row.role is Role.FROZEN]
    assert frozen
    assert all(torch.equal(after[path], before[path]) for path in frozen)


@check
def trained_rows_move(cell: Cell):
    table = cell.apply()
    before = cell.values()
    cell.train(table)
    after = cell.values()
    moved = {path for path in after if not torch.equal(after[path], before[path])}
    assert moved == {row.path for row in table.trained()}
    is_site_trained = any(path.startswith(f"{cell.path}.") for path in moved)
    assert is_site_trained == (cell.method.lr > 0)


@check
def merge_equals_forward(cell: Cell):
    table = cell.apply()
    cell.train(table)
    states = extract(cell.sites, table)
    if cell.method.edits is not Edits.WEIGHT:
        assert (states == ()) == (cell.method.edits is Edits.NOTHING)
        return
    adapted, weights = cell.outputs(), cell.values()
    folded = merged(weights, states)
    assert set(folded) == {f"{cell.path}.weight"}
    assert all(torch.equal(weights[path], value) for path, value in cell.values().items())  # nothing in place
    plain = Cell(cell.toy, cell.method.name, cell.kind)
    assert not torch.allclose(plain.outputs(), adapted, atol=1e-3)
    for path, parameter in plain.sites.parameters():
        parameter.data.copy_(folded.get(path, weights[path]))
    assert torch.allclose(plain.outputs(), adapted, rtol=1e-5, atol=1e-5)


@check
def save_and_load(cell: Cell):
    table = cell.apply()
    cell.train(table)
    states, values, adapted = extract(cell.sites, table), cell.values(), cell.outputs()
    other = Cell(cell.toy, cell.method.name, cell.kind)
    for state in states:
        restore(other.sites, state)
    other.sites = SiteMap(other.network, cell.toy.describe(other.network))
    own = dict(other.sites.parameters())
    assert set(own) == set(values)
    for state in states:
        assert all(torch.equal(own[path], values[path]) for path in state.tensors)
    for path, parameter in own.items():
        parameter.data.copy_(values[path])
    assert torch.equal(other.outputs(), adapted)
    again = extract(other.sites, table)
    assert [(one.name, one.method, one.config) for one in again] == [
        (s.name, s.method, s.config) for s in states
    ]
    assert all(
        torch.equal(two.tensors[p], one.tensors[p])
        for one, two in zip(states, again, strict=True)
        for p in one.tensors
    )


@check
def two_adapters_stacked(cell: Cell):
    first = cell.apply(adapter="one")
    cell.train(first)
    states, before = extract(cell.sites, first), cell.outputs()
    carried = [CarriedAdapter.of(state, Role.FROZEN) for state in states]
    second = cell.apply(adapter="two", carried=carried, seed=1)
    assert torch.equal(cell.outputs(), before)
    cell.train(second)
    names = {row.owner for row in second if row.owner.startswith("adapter:")}
    assert names == (set() if cell.method.edits is Edits.NOTHING else {"adapter:one", "adapter:two"})
    for old, new in zip(states, extract(cell.sites, [state.name for state in states]), strict=True):
        assert all(torch.equal(old.tensors[path], new.tensors[path]) for path in old.tensors)
    if cell.method.edits is Edits.WEIGHT:
        both = extract(cell.sites, second)
        plain = Cell(cell.toy, cell.method.name, cell.kind)
        folded = {**cell.values(), **merged(cell.values(), both)}
        for path, parameter in plain.sites.parameters():
            parameter.data.copy_(folded[path])
        assert torch.allclose(plain.outputs(), cell.outputs(), rtol=1e-5, atol=1e-5)


def test_the_matrix_covers_the_registry():
    assert set(RULES) == set(METHODS), "a registered method needs a rule in this matrix"
    assert set(SITES) == set(SiteKind)
    assert len(CHECKS) == 6
    assert len(CELLS) == 5 * len(METHODS)
    possible = sum(kind in METHODS[name].kinds for name, kind in CELLS)
    assert (possible, len(CELLS) - possible) == (12, 3)  # lora cannot act on embeddings, norms and others


def test_the_toy_has_a_site_of_every_kind(toy):
    network = toy.network()
    sites = SiteMap(network, toy.describe(network))
    assert {kind: sites.site(path).kind for kind, path in SITES.items()} == {kind: kind for kind in SiteKind}


@pytest.mark.parametrize("what", sorted(CHECKS))
@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_conformance(toy, name, kind, what):
    cell = Cell(toy, name, kind)
    if kind in METHODS[name].kinds:
        CHECKS[what](cell)
    else:
        with pytest.raises(StrategyError, match=f"-> {name}"):
            cell.apply()
