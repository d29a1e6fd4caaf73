"""Every registered method on every kind of site keeps the promises of the protocol.

A cell passes, or is impossible by a declared capability (``kinds``, ``edits``, ``routes``, ``is_alone``, ``lr``), and then
the refusal is what is tested. A cell that fails says its method, site and check, what was expected and what was found.
"""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from pydantic import ValidationError

from weft.build.network import load_values
from weft.core.layout import Layout
from weft.core.routing import Routing, routed
from weft.core.sites import SiteMap
from weft.core.table import ParamTable, Role
from weft.core.view import SiteKind
from weft.errors import StrategyError
from weft.recipe.spec import Rule
from weft.strategy import adapter_layout
from weft.strategy.adapters import extract, merged, restore
from weft.strategy.apply import apply
from weft.strategy.base import Edits
from weft.strategy.bottleneck import BottleneckRule, Form
from weft.strategy.dora import DoraRule
from weft.strategy.full import FullRule
from weft.strategy.fusion import FusionRule
from weft.strategy.gated_lora import GatedLoraRule
from weft.strategy.ia3 import Ia3Rule
from weft.strategy.lisa import LisaRule
from weft.strategy.lora import LoraInit, LoraRule
from weft.strategy.mtl_lora import MtlLoraRule
from weft.strategy.none import NoneRule
from weft.strategy.peft import PeftRule
from weft.strategy.plan import CarriedAdapter, plan
from weft.strategy.prefix import PrefixRule
from weft.strategy.prompt import PromptRule
from weft.strategy.registry import METHODS, adapter_method
from weft.train.optimizer import load_optimizer_state, make_optimizer, optimizer_state

SITES = {
    "linear": "layers.0.attention.query",
    "fused": "layers.0.attention.qkv",  # query, key and value in one transposed matrix
    "conv1d": "layers.0.ffn.down",
    "embedding": "embeddings.position",
    "tied": "embeddings.word",  # to the output embedding
    "norm": "layers.0.norm.ffn",
    "other": "layers.0.gain",
}
# Every registered method needs a rule here, and every form that computes otherwise.
RULES = {
    "none": lambda sites: NoneRule(sites=sites),
    "full": lambda sites: FullRule(sites=sites),
    "lisa": lambda sites: LisaRule(sites=sites),
    "lora": lambda sites: LoraRule(sites=sites, rank=2),
    "lora, rank-stable": lambda sites: LoraRule(sites=sites, rank=2, rslora=True),
    "lora, dropout": lambda sites: LoraRule(sites=sites, rank=2, dropout=0.3),
    "lora, pissa": lambda sites: LoraRule(sites=sites, rank=2, init=LoraInit.PISSA),
    "dora": lambda sites: DoraRule(sites=sites, rank=2),
    "mtl-lora": lambda sites: MtlLoraRule(sites=sites, rank=2),
    "mtl-lora, dropout": lambda sites: MtlLoraRule(sites=sites, rank=2, dropout=0.3),
    "gated-lora": lambda sites: GatedLoraRule(sites=sites, rank=6),
    "gated-lora, dropout": lambda sites: GatedLoraRule(sites=sites, rank=6, dropout=0.3),
    "ia3": lambda sites: Ia3Rule(sites=sites),
    "adapter": lambda sites: BottleneckRule(sites=sites, size=3),
    "fusion": lambda sites: FusionRule(sites=sites),
    "adapter, gated": lambda sites: BottleneckRule(sites=sites, size=3, gate=True),
    "adapter, by row": lambda sites: BottleneckRule(sites=sites, size=3, gate="row"),
    "adapter, parallel": lambda sites: BottleneckRule(sites=sites, size=3, form=Form.PARALLEL),
    "peft, LOHA": lambda sites: PeftRule(sites=sites, method="LOHA", options={"r": 2}),
    "peft, VERA": lambda sites: PeftRule(sites=sites, method="VERA", options={"r": 16, "d_initial": 1.0}),
    "peft, OFT": lambda sites: PeftRule(sites=sites, method="OFT", options={"oft_block_size": 4}),
    "peft, HRA": lambda sites: PeftRule(sites=sites, method="HRA", options={"r": 2}),
    "peft, LN_TUNING": lambda sites: PeftRule(sites=sites, method="LN_TUNING"),
    "prompt": lambda sites: PromptRule(sites=sites, tokens=2),
    "prefix": lambda sites: PrefixRule(sites=sites, tokens=2),
    "prefix, projected": lambda sites: PrefixRule(sites=sites, tokens=2, projection=5),
    "prefix, gated": lambda sites: PrefixRule(sites=sites, tokens=2, gate=True),
    "prefix, by row": lambda sites: PrefixRule(sites=sites, tokens=2, gate="row"),
}
ONLY_AT = {"adapter, parallel": "conv1d", "prompt": "tied", "prefix": "fused"}
"""Where alone a method can stand: behind a block, at the tokens' embeddings, where keys and values are made."""
KINDS = {
    "linear": SiteKind.LINEAR,
    "fused": SiteKind.CONV1D,
    "conv1d": SiteKind.CONV1D,
    "embedding": SiteKind.EMBEDDING,
    "tied": SiteKind.EMBEDDING,
    "norm": SiteKind.NORM,
    "other": SiteKind.OTHER,
}
ROUNDS = {"lora, pissa"}  # the weight is taken apart and put together: equal up to rounding
NEAR = {"peft, HRA"}  # reflections in pairs undo one another up to rounding
PEFT_ACTS_ON = {
    "LOHA": {"linear"},
    "OFT": {"linear", "embedding"},
    "HRA": {"linear"},
    "VERA": {"linear", "conv1d"},
}
CHECKS: dict[str, object] = {}
OF_ROWS = {"disabled", "two_in_one_batch"}
OF_ADAPTERS = OF_ROWS | {"merge_equals_forward", "save_and_load", "on_disk", "two_adapters_stacked"}
CELLS = [(name, site) for name, site in product(RULES, SITES)]
TOKENS_BL = torch.arange(22).reshape(2, 11) % 11


def can_stand(name, site):
    """Return whether the declared capabilities of a method let it act there."""
    how, kind = METHODS[name.partition(",")[0]], KINDS[site]
    if name == "fusion":  # it stands on adapters, and there are none here: see test_fusion.py
        return False
    if kind not in how.kinds or (site == "tied" and how.edits is Edits.WEIGHT):
        return False
    if kind not in PEFT_ACTS_ON.get(name.removeprefix("peft, "), how.kinds):
        return False  # what the tuner of PEFT says itself
    if name == "lora, pissa" and kind is SiteKind.EMBEDDING:
        return False
    return ONLY_AT.get(name, ONLY_AT.get(name.partition(",")[0], site)) == site


def refusal(name, site, what):
    """Return the test that a capability forbids a cell, None for a cell that must pass."""
    how = METHODS[name.partition(",")[0]]
    if not can_stand(name, site):
        return refuses_the_site
    if how.edits is Edits.NOTHING:
        if what == "accumulation" and how.lr == 0:
            return moves_no_weight
        return brings_no_adapter if what in OF_ADAPTERS else None
    if what == "merge_equals_forward" and how.edits is not Edits.WEIGHT:
        return refuses_to_merge
    if what in OF_ROWS and not how.routes:
        return refuses_a_task_of_its_own
    return refuses_company if what == "two_adapters_stacked" and how.is_alone else None


def refuses_the_site(cell: Cell):
    with pytest.raises(StrategyError):
        cell.apply()


def moves_no_weight(cell: Cell):
    trained = {row.path for row in cell.apply().trained() if not row.owner.startswith("head:")}
    cell.equal(trained, set(), "what is trained beside heads")


def brings_no_adapter(cell: Cell):
    cell.equal(extract(cell.sites, cell.apply()), (), "adapters")
    with pytest.raises(
        StrategyError, match="must bring an adapter, but only freezes or trains what is there"
    ):
        adapter_method(cell.method.name)


def refuses_to_merge(cell: Cell):
    with pytest.raises(StrategyError, match="only methods that edit weights can be merged"):
        merged(cell.fresh().values(), extract(cell.sites, cell.apply()))


def refuses_a_task_of_its_own(cell: Cell):
    with pytest.raises(ValidationError, match="all rows of a batch share"):
        type(cell.rule)(**{**cell.rule.model_dump(), "per_task": True})


def refuses_company(cell: Cell):
    first = cell.apply(adapter="one")
    carried = [CarriedAdapter.of(state, Role.FROZEN) for state in extract(cell.sites, first)]
    with pytest.raises(StrategyError, match="must be the only adapter that edits this weight"):
        cell.apply(adapter="two", carried=carried, seed=1)


def check(function):
    CHECKS[function.__name__] = function
    return function


class Cell:
    """One method at one site of a fresh network, and the check that it is put to."""

    def __init__(self, toy, name, site, what):
        self.toy, self.name, self.site, self.what = toy, name, site, what
        self.method = METHODS[name.partition(",")[0]]
        self.path = SITES[site]
        self.network = toy.network()
        self.sites = SiteMap(self.network, toy.describe(self.network))
        self.network.eval()

    @property
    def rule(self) -> Rule:
        return RULES[self.name](self.path)

    @property
    def keeps_function(self) -> bool:
        return self.method.edits is Edits.NOTHING or self.method.keeps_function(self.rule)

    def fresh(self):
        return Cell(self.toy, self.name, self.site, self.what)

    def handed_on(self, states):
        """Return a fresh network with ``states`` in it, as a stage that comes next finds it."""
        other = self.fresh()
        for state in states:
            restore(other.sites, state)
            other.sites = SiteMap(other.network, self.toy.describe(other.network))
        return other

    def fail(self, of, expected, found):
        pytest.fail(f"{self.name} at {self.site}, {self.what}: {of} must be {expected}, but {found}")

    def equal(self, found, expected, of):
        """Hold values, sets or records against each other; of sets say only what is in one of both."""
        if found != expected:
            if isinstance(found, set):
                found, expected = found - expected or "none more", expected - found or "no others"
            self.fail(of, expected, f"found {found}")

    def near(self, found, expected, of, *, rtol=1e-5, atol=1e-5):
        """Hold tensors against each other: bit by bit where both tolerances are zero."""
        if found.shape != expected.shape:
            self.fail(of, f"of shape {tuple(expected.shape)}", f"has {tuple(found.shape)}")
        if torch.allclose(found, expected, rtol=rtol, atol=atol):
            return
        wrong, worst = (
            ~torch.isclose(found, expected, rtol=rtol, atol=atol),
            (found - expected).abs().argmax(),
        )
        one, other = (values.flatten()[worst].item() for values in (expected, found))
        where = f"is {other:.8g} at {worst.item()} ({wrong.sum().item()} of {wrong.numel()} are off)"
        self.fail(of, f"{one:.8g} within {rtol:g} and {atol:g}", where)

    def same(self, found, expected):
        """Hold tensors by path against each other, bit by bit; ``found`` may have more."""
        for path, tensor in expected.items():
            self.near(found[path], tensor, path, rtol=0.0, atol=0.0)

    def keeps(self, found, expected, of="outputs"):
        """Hold outputs against each other: the same bits, or where a method rounds, the same to six digits."""
        room = 1e-5 if self.name in ROUNDS | NEAR else 0.0
        self.near(found, expected, of, rtol=room, atol=room)

    def differs(self, found, other, of="outputs"):
        far = (found - other).abs().max().item()
        if far <= 1e-3:
            self.fail(of, "more than 0.001 away from what they were", f"differ by at most {far:.3g}")

    def rows(self):
        """Return the logits of each row."""
        with torch.no_grad():
            return self.network.trunk.model(TOKENS_BL)[1]

    def apply(self, *, adapter="one", carried=(), tasks=("a",), seed=0):
        made = plan(
            self.sites.view, [self.rule], tasks=tasks, stage_lr=1e-2, adapter=adapter, carried=carried
        )
        self.sites, table = apply(self.sites, made, describe=self.toy.describe, seed=seed)
        self.equal(table, made.table, "the table after applying, as planned,")
        actual = [(path, tuple(value.shape)) for path, value in self.sites.parameters()]
        self.equal([(row.path, row.shape) for row in table], actual, "rows and shapes of the table")
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
            reached = {row.path for row in table if parameters[row.path].grad is not None}
            self.equal(reached, {row.path for row in table.trained()}, "what has a gradient")
            optimizer.step()


@check
def identity_at_start(cell: Cell):
    before = cell.outputs()
    cell.apply()
    if cell.keeps_function:
        cell.keeps(cell.outputs(), before)
    else:  # as declared, so that it is refused behind a parent stage
        share = ((cell.outputs() - before).norm() / before.norm()).item()
        cell.equal(share > 1e-3, True, f"that outputs change, by {share:.3g} of their length,")


@check
def frozen_rows_stay_bitwise(cell: Cell):
    table = cell.apply()
    before = cell.values()
    cell.train(table)
    frozen = {row.path: before[row.path] for row in table if row.role is Role.FROZEN}
    assert frozen
    cell.same(cell.values(), frozen)


@check
def trained_rows_move(cell: Cell):
    table = cell.apply()
    before = cell.values()
    cell.train(table)
    after = cell.values()
    moved = {path for path in after if not torch.equal(after[path], before[path])}
    cell.equal(moved, {row.path for row in table.trained()}, "what moved")
    is_site_trained = any(path.startswith(f"{cell.path}.") for path in moved)
    cell.equal(is_site_trained, cell.method.lr > 0, "whether something at the site moved")


@check
def merge_equals_forward(cell: Cell):
    base = cell.fresh().values()
    table = cell.apply()
    cell.train(table)
    states = extract(cell.sites, table)
    adapted, copies = cell.outputs(), {path: value.clone() for path, value in base.items()}
    folded = merged(base, states)
    for _ in range(9):  # pure: nothing drifts, however often it is done
        cell.same(merged(base, states), folded)
    own = {f"{cell.path}.weight", f"{cell.path}.bias"} & ({f"{cell.path}.weight"} | set(folded))
    cell.equal(set(folded), own, "what is folded into")
    cell.same(base, copies)
    plain = cell.fresh()
    cell.differs(adapted, plain.outputs())
    trained = cell.values()
    for path, parameter in plain.sites.parameters():
        is_own = path.startswith(f"{cell.path}.")
        parameter.data.copy_(folded.get(path, base[path] if is_own else trained[path]))
    cell.near(plain.outputs(), adapted, "outputs with folded weights")


@check
def save_and_load(cell: Cell):
    table = cell.apply()
    cell.train(table)
    states, values, adapted = extract(cell.sites, table), cell.values(), cell.outputs()
    assert states
    other = cell.handed_on(states)
    own = dict(other.sites.parameters())
    cell.equal(set(own), set(values), "parameters")
    of_adapters = {path for state in states for path in state.tensors}
    for path, parameter in own.items():
        if path not in of_adapters and not (cell.name in ROUNDS and path == f"{cell.path}.weight"):
            parameter.data.copy_(values[path])
    cell.keeps(other.outputs(), adapted)
    again = extract(other.sites, [state.name for state in states])
    for one, two in zip(states, again, strict=True):
        cell.equal((two.name, two.method, two.config), (one.name, one.method, one.config), "an adapter")
        cell.same(two.tensors, one.tensors)


@check
def on_disk(cell: Cell):
    table = cell.apply()
    cell.train(table)
    states = extract(cell.sites, table)
    assert states
    for state in states:
        with TemporaryDirectory() as folder:
            adapter_layout.write(Path(folder) / state.name, state)
            read = adapter_layout.read(Path(folder) / state.name)
        found = (read.name, read.method, read.config)
        cell.equal(found, (state.name, state.method, state.config), "what was read")
        cell.same(read.tensors, state.tensors)


@check
def disabled(cell: Cell):
    """A row that takes no adapter gets what the base gives, also where the base gave something up while it was trained."""
    before = cell.rows()
    cell.train(only_adapters(cell.apply()))
    other = cell.handed_on(extract(cell.sites, ["one"]))
    with routed(other.network.trunk, Routing.of(["one"], [-1, 0], Layout.padded([11, 11]))):
        mixed = other.rows()
    cell.near(mixed[0], before[0], "logits of the row without an adapter", rtol=0.0, atol=1e-6)
    cell.differs(mixed[1], before[1], "logits of the row with one")
    cell.near(mixed[1], cell.rows()[1], "logits of the row with one")


@check
def two_in_one_batch(cell: Cell):
    alone, states = [], []
    for name, seed in (("one", 0), ("two", 1)):
        single = cell.fresh()
        single.train(only_adapters(single.apply(adapter=name, seed=seed)), steps=2 + seed)
        alone.append(single.rows())
        states += extract(single.sites, [name])
    both = cell.handed_on(states)
    for rows in ([0, 1], [1, 0], [1, 1]):
        with routed(both.network.trunk, Routing.of(["one", "two"], rows, Layout.padded([11, 11]))):
            mixed = both.rows()
        expected = torch.stack([alone[own][row] for row, own in enumerate(rows)])
        cell.near(mixed, expected, f"logits where rows take adapters {rows}")


@check
def in_bf16(cell: Cell):
    """Computed by twins, values are near and gradients reach what is trained, and nothing else."""
    table = cell.apply()
    cell.train(table)
    exact = cell.rows()
    is_moved = any(not row.owner.startswith("head:") for row in table.trained())
    parameters = dict(cell.sites.parameters())
    for parameter in parameters.values():
        parameter.grad = None
    with cell.network.computing(torch.bfloat16) as twins:
        with torch.no_grad():
            rough = cell.network.trunk.model(TOKENS_BL)[1].float()
        if is_moved:
            cell.network.trunk.model(TOKENS_BL)[1].float().square().sum().backward()
        twins.collect()
    share = ((rough - exact).norm() / exact.norm()).item()
    cell.equal(share <= 0.06, True, f"that logits are near, off by {share:.3g} of their length,")
    trunk = [row for row in table if not row.owner.startswith("head:")]
    reached = {row.path for row in trunk if parameters[row.path].grad is not None}
    cell.equal(reached, {row.path for row in trunk if row.role is Role.TRAINED}, "what has a gradient")


@check
def accumulation(cell: Cell):
    """The gradient of two halves is that of the whole."""
    table = cell.apply()
    cell.train(table)
    found = []
    for parts in ([TOKENS_BL], TOKENS_BL.split(1)):
        parameters = dict(cell.sites.parameters())
        for parameter in parameters.values():
            parameter.grad = None
        for part in parts:
            sum(out.square().sum() for out in cell.network.trunk.model(part)).backward()
        moving = [row.path for row in table.trained() if not row.owner.startswith("head:")]
        found.append([parameters[path].grad.clone() for path in moving])
    for path, whole, halves in zip(moving, *found, strict=True):
        off, room = (whole - halves).norm().item(), 1e-5 * whole.norm().item() + 1e-6
        cell.equal(
            off <= room, True, f"the gradient of {path}, which is off by {off:.3g} of {room:.3g}, near"
        )


@check
def checkpoint_and_resume(cell: Cell):
    """Taken up again from values and optimizer state by path, a stage ends with the same bits."""
    ends = []
    for is_broken in (False, True):
        run = cell.fresh()
        table = run.apply()
        optimizer = make_optimizer(table, run.sites, decay=0.01)
        steps(run, optimizer, 2)
        if is_broken:
            values = {row.path: run.values()[row.path] for row in table.trained()}
            state = {path: tensor.clone() for path, tensor in optimizer_state(optimizer).items()}
            run = cell.fresh()
            optimizer = make_optimizer(run.apply(), run.sites, decay=0.01)
            load_values(run.sites, values)
            load_optimizer_state(optimizer, state)
        steps(run, optimizer, 2)
        ends.append(run.values())
    cell.same(ends[1], ends[0])


def steps(cell, optimizer, count):
    for _ in range(count):
        loss = cell.toy.outputs(cell.network).square().sum()
        loss.backward()
        optimizer.apply(None, objective=loss.detach(), clip=1.0, lr_factor=1.0)


def only_adapters(table):
    """Return the rows of adapters: what the base and heads are stays comparable."""
    return ParamTable(tuple(row for row in table if row.owner.startswith("adapter:")))


@check
def two_adapters_stacked(cell: Cell):
    """A new one on a frozen one: nothing changes at first where that is declared, the old one stays, and both are merged."""
    cell.train(only_adapters(cell.apply(adapter="one")))
    (state,) = extract(cell.sites, ["one"])
    after = cell.handed_on([state])
    before = after.outputs()
    cell.keeps(before, cell.outputs())
    second = after.apply(adapter="two", carried=[CarriedAdapter.of(state, Role.FROZEN)], seed=1)
    if cell.keeps_function:
        cell.keeps(after.outputs(), before)
    else:
        cell.differs(after.outputs(), before)
    owners = {row.owner for row in second if "adapter" in row.owner}
    cell.equal(owners, {"adapter:one", "adapter:two"}, "owners of adapters")
    after.train(only_adapters(second))
    both = extract(after.sites, second)
    cell.same(both[0].tensors, state.tensors)
    cell.differs(after.outputs(), before)
    if cell.method.edits is Edits.WEIGHT:
        plain = cell.fresh()
        for path, value in merged(plain.values(), both).items():
            dict(plain.sites.parameters())[path].data.copy_(value)
        cell.near(plain.outputs(), after.outputs(), "outputs with folded weights")


def without_a_rule(methods):
    """Return the methods that the matrix would pass over."""
    return set(methods) - {name.partition(",")[0] for name in RULES}


def test_the_matrix_covers_the_registry(record_property):
    assert not without_a_rule(METHODS), "a registered method needs a rule here"
    assert without_a_rule({**METHODS, "newest": METHODS["lora"]}) == {"newest"}
    assert len(CHECKS) == 12
    counts = {}
    for name in RULES:
        how = [refusal(name, site, what) for site in SITES for what in CHECKS]
        reasons = Counter(one.__name__.replace("_", " ") for one in how if one)
        counts[name] = (how.count(None), sum(reasons.values()))
        words = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        record_property(
            "counts", f"conformance of {name}: {how.count(None)} pass, impossible: {words or 'none'}"
        )
    assert {name for name, (passed, _) in counts.items() if not passed} == {"fusion"}
    assert all(passed + other == 7 * 12 for passed, other in counts.values())
    passed, impossible = (sum(column) for column in zip(*counts.values(), strict=True))
    record_property("counts", f"conformance in all: {passed} pass, {impossible} are impossible")
    assert counts["lora"] == counts["lora, dropout"] == (48, 36)
    assert counts["mtl-lora"] == counts["mtl-lora, dropout"] == (36, 48)
    assert counts["lora, pissa"] == (36, 48)


def test_the_toy_has_a_site_of_every_kind(toy):
    network = toy.network()
    sites = SiteMap(network, toy.describe(network))
    assert {site: sites.site(path).kind for site, path in SITES.items()} == KINDS
    assert set(KINDS.values()) == set(SiteKind)


@pytest.mark.parametrize("what", sorted(CHECKS))
@pytest.mark.parametrize(("name", "site"), CELLS)
def test_conformance(toy, name, site, what):
    cell = Cell(toy, name, site, what)
    (refusal(name, site, what) or CHECKS[what])(cell)


def test_a_cell_that_fails_says_what_was_expected_and_found(toy):
    cell = Cell(toy, "lora, dropout", "fused", "on_disk")
    one, other = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 1.5, 2.25])
    said = r"lora, dropout at fused, on_disk: logits must be 1 within 1e-05 and 1e-05, but is 1.5 at 1 \(2 of 3 are off\)"
    with pytest.raises(pytest.fail.Exception, match=said):
        cell.near(other, one, "logits")
    with pytest.raises(pytest.fail.Exception, match=r"logits must be of shape \(3,\), but has \(2,\)"):
        cell.near(other[:2], one, "logits")
    with pytest.raises(
        pytest.fail.Exception, match=r"x.weight must be 2 within 0 and 0, but is 2.0000002 at 2"
    ):
        cell.same({"x.weight": one.nextafter(other)}, {"x.weight": one})
    with pytest.raises(
        pytest.fail.Exception, match=r"outputs must be more than 0.001 away .* differ by at most 0"
    ):
        cell.differs(one, one)
    with pytest.raises(pytest.fail.Exception, match=r"what moved must be \{'b'\}, but found \{'c'\}"):
        cell.equal({"a", "c"}, {"a", "b"}, "what moved")
    rounded = Cell(toy, "lora, pissa", "linear", "identity_at_start")
    rounded.keeps(one + 1e-6, one)
    with pytest.raises(pytest.fail.Exception, match="lora, pissa at linear"):
        rounded.keeps(other, one)
