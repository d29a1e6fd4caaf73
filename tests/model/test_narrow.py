"""The last layer for the tokens that are read, where rows have adapters of their own: as if all were computed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.model.test_virtual import Model, rows
from torch import nn

from weft.core.batch import Batch, Target
from weft.core.layout import Layout
from weft.core.network import Heads
from weft.recipe.spec import Activations
from weft.strategy.bottleneck import BottleneckRule
from weft.strategy.dora import DoraRule
from weft.strategy.ia3 import Ia3Rule
from weft.strategy.lora import LoraRule
from weft.strategy.mtl_lora import MtlLoraRule
from weft.strategy.prefix import PrefixRule
from weft.strategy.prompt import PromptRule
from weft.strategy.registry import adapter_method

TASKS = ("one", "two")
LORA = LoraRule(sites="linear", rank=3)
METHODS = {
    "lora": (LORA,),
    "lora, dropout": (LoraRule(sites="linear", rank=3, dropout=0.5),),  # in evaluation: the plain way
    "dora below lora": (LORA, DoraRule(sites="ffn.up", rank=2)),
    "mtl-lora": (MtlLoraRule(rank=3),),
    "ia3": (Ia3Rule(),),
    "houlsby": (BottleneckRule(size=4, form="houlsby"),),
    "normed": (BottleneckRule(size=4, form="normed"),),
    "parallel": (BottleneckRule(size=4, form="parallel", gate=True),),
    "prefix": (PrefixRule(tokens=3),),
    "prefix, gated": (PrefixRule(tokens=3, gate=True),),
    "prompt": (PromptRule(tokens=3),),
    "many": (LORA, BottleneckRule(size=4), PrefixRule(tokens=2), PromptRule(tokens=2)),
}
CASES = [
    *(("bert", name) for name in METHODS),
    *(("llama", name) for name in METHODS if name != "normed"),
    ("gpt2", "prefix"),
    ("gpt2", "lora"),
    ("modernbert", "many"),
]
TOLERANCE = 2e-6  # of the norm in fp32; in fp64 it is 3e-16 where no norm casts to fp32


class Reader(nn.Module):
    """A head that reads the positions of its target."""

    def reads(self, target, _layout):
        return target.values["positions"]


class Routed(Model):
    """A trunk whose rows pass through the adapters of their tasks."""

    def __init__(self, folder, rules):
        super().__init__(folder)
        self.network.heads = Heads({task: Reader() for task in TASKS})
        routes = dict.fromkeys(TASKS, ())
        for at, rule in enumerate(rules):
            if rule.train == "dora":  # for all rows
                self.put(f"x{at}", rule)
            elif rule.train == "mtl-lora":
                bound = adapter_method(rule.train).bound(rule, tasks=TASKS, view=self.sites.view, below=())
                self.put(f"x{at}", bound)
                routes = {task: (*own, f"x{at}/{task}") for task, own in routes.items()}
            else:
                for task in TASKS:
                    self.put(f"x{at}-{task}", rule)
                routes = {task: (*own, f"x{at}-{task}") for task, own in routes.items()}
        self.network.routes = routes
        generator = torch.Generator().manual_seed(3)
        for path, parameter in self.sites.parameters():
            if parameter.requires_grad:  # of an adapter: what starts at zero too
                parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.requires_grad_("pooler" not in path)

    def passed(self, batch, reads_M, *, narrow):
        """Return the states at ``reads_M`` and all gradients of one pass; every state weighs differently."""
        self.network.zero_grad()
        features = self.network.features(batch, tasks=TASKS if narrow else None)
        is_narrow, is_few = features.places_T is not None, 4 * len(reads_M) <= 3 * batch.layout.num_tokens
        assert narrow or not is_narrow
        assert is_narrow or not narrow or not is_few  # virtual tokens count too, so more may be few
        states_MD = features.at_MD(reads_M)
        weights = torch.randn(states_MD.shape, generator=torch.Generator().manual_seed(7))
        (states_MD * weights).sum().backward()
        return states_MD.detach(), {
            path: one.grad.clone() for path, one in self.sites.parameters() if one.grad is not None
        }


@pytest.fixture(scope="module")
def models(saved):
    known = {}

    def find(kind, name):
        if (kind, name) not in known:
            known[kind, name] = Routed(saved(kind), METHODS[name])
        return known[kind, name]

    return find


def asked(texts, tasks, reads):
    """Return a packed batch of which row i is of ``tasks[i]`` and its tokens ``reads[i]`` are read, and all of these."""
    layout = Layout.packed([len(text) for text in texts])
    starts = layout.starts_B.tolist()
    targets = {}
    for task in TASKS:
        own = [row for row, name in enumerate(tasks) if name == task]
        positions = [starts[row] + at for row in own for at in reads[row]]
        targets[task] = Target(torch.tensor(own), {"positions": torch.tensor(positions, dtype=torch.int64)}, 1.0, len(own))  # fmt: skip
    names = tuple(map(str, range(len(texts))))
    reads_M = torch.cat([target.values["positions"] for target in targets.values()]).unique()
    return Batch(torch.cat(texts), None, layout, targets, names), reads_M


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-5)
    assert found[1].keys() == expected[1].keys(), "the same parameters have a gradient"
    ours, theirs = (torch.cat([one[1][path].flatten() for path in expected[1]]) for one in (found, expected))
    assert (ours - theirs).norm() <= TOLERANCE * theirs.norm()


@st.composite
def batches(draw):
    """A few rows in any order of tasks, of some no task at all, of which some tokens are read, of some none."""
    kinds = draw(st.lists(st.sampled_from([*TASKS, ""]), min_size=1, max_size=6).filter(any))
    lengths = [draw(st.integers(2, 20)) for _ in kinds]
    reads = [sorted(draw(st.sets(st.integers(0, length - 1), max_size=3))) for length in lengths]
    first = next(row for row, kind in enumerate(kinds) if kind)
    reads[first] = reads[first] or [0]
    return lengths, kinds, reads


@pytest.mark.parametrize(("kind", "name"), CASES)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=batches())
def test_states_and_gradients_are_those_of_all_tokens(models, kind, name, drawn):
    lengths, kinds, reads = drawn
    model = models(kind, name)
    batch, reads_M = asked(rows(lengths), kinds, reads)
    assert_same(
        model.passed(batch, reads_M, narrow=True),
        model.passed(batch, reads_M, narrow=False),
    )


@pytest.mark.parametrize("name", ["many", "mtl-lora"])
def test_recomputed_layers_are_the_same_bits(models, name):
    model = models("bert", name)
    batch, reads_M = asked(rows((7, 5, 9)), ("two", "one", "two"), ((0,), (1, 2), ()))
    kept = model.passed(batch, reads_M, narrow=True)
    model.trunk.activations = Activations.RECOMPUTE
    try:
        again = model.passed(batch, reads_M, narrow=True)
    finally:
        model.trunk.activations = Activations.KEEP
    assert torch.equal(again[0], kept[0])
    assert all(torch.equal(again[1][path], grad) for path, grad in kept[1].items())


@pytest.mark.parametrize("name", ["lora", "parallel"])
def test_adapters_of_the_last_layer_see_the_tokens_that_are_read_alone(models, name):
    model = models("llama", name)
    batch, _ = asked(rows((7, 5, 9)), ("two", "one", "two"), ((0,), (1, 2), (8,)))
    counted = []
    down = model.sites.module("layers.1.ffn.down")
    hook = down.register_forward_hook(lambda _module, given, _out: counted.append(given[0].shape[1]))
    try:
        for tasks in (TASKS, None):
            model.network.features(batch, tasks=tasks)
    finally:
        hook.remove()
    assert counted == [4, 21]
    assert down.routing is None, "a pass leaves no routing behind"
