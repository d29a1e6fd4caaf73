"""The stage matrix: whatever a stage hands on and however the next one takes it, the function stays the same.

Every ``carry.trunk`` x strategy A -> strategy B on a real BERT. A cell keeps the function, or is refused by ``rehearse``
before any weight is read; which cells those are is written down here.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from weft.core.parts import Parts
from weft.core.table import Role
from weft.errors import RecipeError
from weft.export.parts import load_parts, save_parts
from weft.recipe.spec import TrunkCarry
from weft.run.probe import EVERYBODY, difference
from weft.run.probe import probe as probe_all

HYBRID = [
    {"sites": "layers[0].attention", "train": "lora", "rank": 4},
    {"sites": "top 1", "train": "full", "lr": 1e-4},
    {"sites": "embeddings", "train": "none"},
]
STRATEGIES = {
    "full": "full",
    "head": "head",
    "lora": "lora",
    "bias": "bias",
    "hybrid": HYBRID,
    "top": "top 1",
}


def probe(sites):
    """Return the states that all rows get."""
    return probe_all(sites)[EVERYBODY]


CELLS = list(product(TrunkCarry, STRATEGIES, STRATEGIES))
# An adapter that goes on keeps its rank at each of its sites: 4 in the hybrid, 8 under the name lora.
REFUSED = {("continue", "lora", "hybrid"), ("continue", "hybrid", "lora")}


def test_the_matrix_is_whole() -> None:
    assert len(CELLS) == 4 * 6 * 6 == 144
    assert {(str(carry), a, b) for carry, a, b in CELLS} > REFUSED


@pytest.fixture(scope="module")
def with_stages(kit, open_kit, tiny_bert, quick_trunks):
    """Return a function from stages to a kit; model and data are opened once for all of them."""
    opened = open_kit([{"name": "first"}])
    tasks = {"mood": kit.MOOD, "names": kit.NAMES}
    return lambda *stages: replace(opened, recipe=kit.make_recipe(tiny_bert, stages, tasks))


@pytest.fixture(scope="module")
def first_stages(with_stages):
    """Return for each strategy the parts and probe states that a first stage leaves behind, all of it moved."""
    left = {}
    for name, strategy in STRATEGIES.items():
        opened = with_stages({"name": "first", "strategy": strategy})
        entered = opened.enter("first")
        move(entered)
        left[name] = (entered.leave(), probe(entered.sites))
    return left


@pytest.fixture(scope="module")
def last_stage(with_stages):
    """Return a recipe whose last stage takes over everything as it is and adds nothing."""
    return with_stages({"name": "first"}, {"name": "last", "strategy": "head", "carry": {"trunk": "stack"}})


@pytest.fixture(scope="module")
def base_states(with_stages):
    return probe(with_stages({"name": "first", "strategy": "head"}).enter("first").sites)


def move(entered) -> None:
    """Change every trained parameter, as training would."""
    generator = torch.Generator().manual_seed(1)
    parameters = dict(entered.sites.parameters())
    with torch.no_grad():
        for row in entered.table.trained():
            parameter = parameters[row.path]
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def moved_heads_equal(parts: Parts, entered) -> bool:
    values = dict(entered.sites.parameters())
    return all(
        torch.equal(values[f"heads.{name}.{path}"], tensor)
        for name, head in parts.heads.items()
        for path, tensor in head.tensors.items()
    )


@pytest.mark.parametrize(("carry", "a", "b"), CELLS, ids=lambda value: str(value))
def test_entering_keeps_the_function_or_is_refused(
    with_stages, first_stages, last_stage, base_states, tmp_path, carry, a, b
):
    opened = with_stages(
        {"name": "first", "strategy": STRATEGIES[a]},
        {"name": "second", "strategy": STRATEGIES[b], "carry": {"trunk": carry}},
    )
    parts, states = first_stages[a]
    if (str(carry), a, b) in REFUSED:
        with pytest.raises(
            RecipeError, match=r"stages\.1 \(second\): .* must keep the options of adapter 'first'"
        ):
            opened.rehearse()
        return
    planned = opened.rehearse()[1][1]

    entered = opened.enter("second", parts)
    assert entered.table == planned.table  # row by row what was foreseen without weights
    assert entered.plan == planned.plan
    if carry is TrunkCarry.DROP:
        assert torch.equal(probe(entered.sites), base_states)
    else:
        assert difference(states, probe(entered.sites)) <= 1e-5
    assert moved_heads_equal(parts, entered)
    roles = {row.path: row.role for row in planned.table}
    for path, parameter in entered.sites.parameters():
        assert parameter.requires_grad == (roles.pop(path) is Role.TRAINED)
    assert not roles

    move(entered)
    after, left = probe(entered.sites), entered.leave()
    meta_left = planned.leave()
    assert list(left.delta) == list(meta_left.delta)
    assert [(one.name, set(one.tensors)) for one in left.adapters] == [
        (one.name, set(one.tensors)) for one in meta_left.adapters
    ]
    view = opened.base.sites(opened.base.network({}, device=torch.device("meta"))).view
    save_parts(tmp_path, left, view, base="tiny")
    third = last_stage.enter("last", load_parts(tmp_path, view))
    assert difference(after, probe(third.sites)) <= 1e-5
    assert moved_heads_equal(left, third)
