"""The stage matrix: whatever a stage hands on and however the next one takes it, the function stays the same.

Every ``carry`` x strategy A -> strategy B on a real BERT. A cell keeps the function, or is refused by ``rehearse`` before
any weight is read, for a reason that follows from what both bring. Names are those of the registry: new ones join by
themselves. Each strategy comes once a carry before and behind another in the fast cells; the others are slow. A cell that
fails has its carry, A and B in its name, and says whose outputs or which parameter.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch

from weft.build.network import META
from weft.core.parts import AdapterState, Parts
from weft.core.table import Role
from weft.errors import RecipeError, WeftError
from weft.export.parts import load_parts, save_parts
from weft.recipe.spec import HeadCarry, TrunkCarry
from weft.run.probe import EVERYBODY, check_entry, difference, probe
from weft.strategy.base import Edits
from weft.strategy.named import STRATEGIES as NAMED
from weft.strategy.registry import adapter_method

MIXED = [
    {"sites": "layers[0].attention", "train": "lora", "rank": 4},
    {"sites": "top 1", "train": "full", "lr": 1e-4},
    {"sites": "embeddings", "train": "none"},
]
OWN = [
    {"sites": "attention", "train": "lora", "rank": 4, "per_task": True},
    {"train": "adapter", "form": "parallel", "size": 4, "per_task": True},
]
STRATEGIES = {**{name: name for name in NAMED}, "top": "top 1", "mixed": MIXED, "own pair": OWN}
TASKS = ("mood", "names")

UNMERGED = "only methods that edit weights can be merged"
APART = "cannot be merged for|has a part for each of mood, names"
OPTIONS = "must keep the options of adapter"
WHOSE = "must go on with adapter .* as it is"
SEEN = "entering a stage must not change what its parent computes"
STAYS = "must leave .* as it is, as adapter 'first.*' .* acts on all of it"
ALONE = "must be the only adapter that edits this weight"

PAIRS = list(product(STRATEGIES, STRATEGIES))
CELLS = list(product(TrunkCarry, STRATEGIES, STRATEGIES))


def is_fast(carry, a, b):
    """Return whether a cell is one of those that bring each strategy before and behind another under each carry."""
    names = list(STRATEGIES)
    step = 1 + list(TrunkCarry).index(carry)
    return a == b or names[(names.index(a) + step) % len(names)] == b


def marked(cells):
    return [pytest.param(*cell, marks=() if is_fast(*cell[:3]) else pytest.mark.slow) for cell in cells]


@dataclass(frozen=True)
class First:
    """A strategy as a first stage: what it installs and leaves as foreseen; what it leaves and computes in truth."""

    planned: dict[
        tuple[str, str], tuple[bool, dict]
    ]  # by site and method: whether tasks have their own, options
    trained: frozenset[str]
    seen: frozenset[tuple[str, str]]  # of these, what changes the function as soon as it is there
    adapters: tuple[AdapterState, ...]
    parts: Parts
    states: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def with_stages(kit, open_kit, tiny_bert, quick_trunks):
    """Return a function from stages to a kit; model and data are opened once for all of them."""
    opened = open_kit([{"name": "first"}])
    tasks = {"mood": kit.MOOD, "names": kit.NAMES}
    return lambda *stages: replace(opened, recipe=kit.make_recipe(tiny_bert, stages, tasks))


@pytest.fixture(scope="module")
def first_stages(with_stages):
    """Return a function from a strategy to what a first stage leaves behind, all of it moved."""
    known = {}

    def first(name):
        if name not in known:
            known[name] = _first(with_stages({"name": "first", "strategy": STRATEGIES[name]}))
        return known[name]

    return first


def _first(opened):
    ((_, foreseen),) = opened.rehearse()
    planned, seen = {}, set()
    for install in foreseen.plan.installs:
        options = adapter_method(install.method).options(foreseen.sites.site(install.site), install.rule)
        planned[install.site, install.method] = (bool(getattr(install.rule, "per_task", False)), options)
        if not adapter_method(install.method).keeps_function(install.rule):
            seen.add((install.site, install.method))
    entered = opened.enter("first")
    move(entered)
    trained = frozenset(row.path for row in foreseen.table.trained())
    return First(
        planned, trained, frozenset(seen), foreseen.leave().adapters, entered.leave(), probe(entered.sites)
    )


@pytest.fixture(scope="module")
def last_stage(with_stages):
    """Return a recipe whose last stage takes over everything as it is and adds nothing."""
    return with_stages({"name": "first"}, {"name": "last", "strategy": "head", "carry": {"trunk": "stack"}})


@pytest.fixture(scope="module")
def base_states(with_stages):
    return probe(with_stages({"name": "first", "strategy": "head"}).enter("first").sites)[EVERYBODY]


def is_alone(adapter):
    how = adapter_method(adapter.method)
    return how.edits is Edits.WEIGHT and how.is_alone


def reasons(carry, before, after):
    """Return why what ``before`` left cannot be taken over by ``after`` so: patterns of messages, by what both bring."""
    found = set()
    adapters = before.adapters
    if carry is TrunkCarry.MERGE:
        found |= {UNMERGED for one in adapters if adapter_method(one.method).edits is not Edits.WEIGHT}
        found |= {APART for one in adapters if one.tasks}
    if carry in (TrunkCarry.CONTINUE, TrunkCarry.STACK):
        for one, (site, method) in product(adapters, after.planned):
            if site not in one.config["sites"]:
                continue
            hows = [adapter_method(name) for name in (one.method, method)]
            if carry is TrunkCarry.CONTINUE and one.method == method:
                is_own, options = after.planned[site, method]
                found |= {WHOSE} if is_own != (bool(one.tasks) and not one.parts) else set()
                found |= {OPTIONS} if options != dict(one.config["sites"][site]) else set()
            elif all(how.edits is Edits.WEIGHT for how in hows) and any(how.is_alone for how in hows):
                found.add(ALONE)
        alone = [site for one in adapters if is_alone(one) for site in one.config["sites"]]
        found |= {STAYS for site in alone if f"{site}.weight" in after.trained}
    going_on = {(site, one.method) for one in adapters for site in one.config["sites"]}
    new = after.seen - going_on if carry is TrunkCarry.CONTINUE else after.seen
    return found | {SEEN} if new and carry is not TrunkCarry.DROP else found


def move(entered) -> None:
    """Change every trained parameter, as training would."""
    generator = torch.Generator().manual_seed(1)
    parameters = dict(entered.sites.parameters())
    with torch.no_grad():
        for row in entered.table.trained():
            parameter = parameters[row.path]
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def shape_of(parts: Parts):
    """Return what parts are but for their values."""
    adapters = [(one.name, one.tasks, one.stage, set(one.tensors)) for one in parts.adapters]
    return list(parts.delta), adapters, list(parts.heads)


def hold_heads(parts: Parts, entered) -> None:
    """Hold the heads of an entered stage against those that were handed on, bit by bit."""
    values = dict(entered.sites.parameters())
    for name, head in parts.heads.items():
        for path, tensor in head.tensors.items():
            found = values[f"heads.{name}.{path}"]
            assert torch.equal(found, tensor), (
                f"heads.{name}.{path}: off by {(found - tensor).abs().max():.3g}"
            )


@pytest.mark.parametrize(("carry", "a", "b"), marked(CELLS), ids=str)
def test_entering_keeps_the_function_or_is_refused(
    with_stages, first_stages, last_stage, base_states, tmp_path, carry, a, b
):
    opened = with_stages(
        {"name": "first", "strategy": STRATEGIES[a]},
        {"name": "second", "strategy": STRATEGIES[b], "carry": {"trunk": carry}},
    )
    before = first_stages(a)
    if why := reasons(carry, before, first_stages(b)):
        with pytest.raises(RecipeError, match="|".join(why)) as refused:
            opened.rehearse()
        assert all(problem.startswith("stages.") for problem in refused.value.problems)
        return
    (_, first), (_, planned) = opened.rehearse()
    is_foreseen = not (first.choices or planned.choices)  # what is chosen by gradients is not

    entered = opened.enter("second", before.parts)
    if is_foreseen:
        assert entered.table == planned.table  # row by row, without weights
        assert entered.plan == planned.plan
    states = {EVERYBODY: base_states} if carry is TrunkCarry.DROP else before.states
    if first_stages(b).seen and carry is TrunkCarry.DROP:  # what is dropped may be another function
        with pytest.raises(WeftError, match="entering must not change what the network computes"):
            check_entry("second", states, probe(entered.sites), tasks=TASKS)
    else:
        assert check_entry("second", states, probe(entered.sites), tasks=TASKS) <= 1e-5
    hold_heads(before.parts, entered)
    roles = {row.path: row.role for row in entered.table}
    for path, parameter in entered.sites.parameters():
        assert parameter.requires_grad == (roles.pop(path) is Role.TRAINED), path
    assert not roles, "rows of the table without a parameter"

    move(entered)
    after, left = probe(entered.sites), entered.leave()
    if is_foreseen:
        assert shape_of(left) == shape_of(planned.leave())
    view = opened.base.sites(opened.base.network({}, device=META)).view
    save_parts(tmp_path, left, view, base="tiny")
    third = last_stage.enter("last", load_parts(tmp_path, view))
    found = probe(third.sites)
    assert after.keys() == found.keys()
    off = {whose: difference(after[whose], found[whose]) for whose in after}
    assert max(off.values()) <= 1e-5, off
    hold_heads(left, third)


def test_counts(first_stages, record_property):
    assert set(NAMED) < set(STRATEGIES)
    for carry in TrunkCarry:
        why = [reasons(carry, first_stages(a), first_stages(b)) for a, b in PAIRS]
        words = {UNMERGED: "edits no weights", APART: "of one task each", STAYS: "the weight stays"}
        words |= {
            OPTIONS: "other options",
            WHOSE: "whose it is",
            ALONE: "must be alone",
            SEEN: "seen by all of a row",
        }
        counts = Counter(words[one] for found in why for one in sorted(found)[:1])
        kept = why.count(set())
        assert kept + counts.total() == len(PAIRS)
        told = ", ".join(f"{count} {word}" for word, count in sorted(counts.items())) or "none"
        record_property("counts", f"stage matrix, {carry}: {kept} keep the function, refused: {told}")
        assert kept > len(PAIRS) // 2
    fast = [cell for cell in CELLS if is_fast(*cell)]
    for carry, name in product(TrunkCarry, STRATEGIES):
        assert any(cell[:2] == (carry, name) and cell[2] != name for cell in fast)
        assert any((cell[0], cell[2]) == (carry, name) and cell[1] != name for cell in fast)
    record_property("counts", f"stage matrix in all: {len(CELLS)} cells of carry, A, B")


OPTIMIZER_CELLS = [
    (carry, name, name, heads) for carry, name, heads in product(TrunkCarry, STRATEGIES, HeadCarry)
]


@pytest.mark.parametrize(
    ("carry", "a", "b", "heads"),
    [
        pytest.param(*cell, marks=() if cell[0] is TrunkCarry.CONTINUE else pytest.mark.slow)
        for cell in OPTIMIZER_CELLS
    ],
    ids=str,
)
def test_the_optimizer_goes_on_with_the_same_parameters_or_is_refused(
    with_stages, first_stages, carry, a, b, heads
):
    """Its state is by path: where ``b``, the same strategy again, trains other paths, or heads are new, it is refused."""
    if reasons(carry, first_stages(a), first_stages(b)):
        return  # refused whatever becomes of the optimizer: a cell of the matrix above
    stages = (
        {"name": "first", "strategy": STRATEGIES[a]},
        {"name": "second", "strategy": STRATEGIES[b], "carry": {"trunk": carry, "heads": heads}},
    )
    opened = with_stages(*stages)
    (_, first), (_, second) = opened.rehearse()
    trained = [{row.path for row in one.table.trained()} for one in (first, second)]
    carried = with_stages(
        stages[0], {**stages[1], "carry": {"trunk": carry, "heads": heads, "optimizer": "continue"}}
    )
    if heads is HeadCarry.NEW or second.choices or trained[0] != trained[1]:
        with pytest.raises(RecipeError, match=r"stages\.1 \(second\): carry.optimizer: 'continue' needs the"):
            carried.rehearse()
    else:
        assert carried.rehearse()[1][1].table == second.table
    if carry is TrunkCarry.CONTINUE:
        assert trained[0] == trained[1], "what goes on goes on whole"


def test_the_matrix_can_fail(with_stages, first_stages):
    """A hand-over that loses an adapter shows."""
    stages = [{"name": "first", "strategy": "lora"}, {"name": "second", "carry": {"trunk": "stack"}}]
    before = first_stages("lora")
    entered = with_stages(*stages).enter("second", replace(before.parts, adapters=()))
    with pytest.raises(WeftError, match="entering must not change what the network computes"):
        check_entry("second", before.states, probe(entered.sites), tasks=TASKS)
