"""UniPELT on whole models: its gates are those of a row's own tokens, however the rows are laid out."""

from __future__ import annotations

import pytest
import torch
from tests.model.test_virtual import Model, packed, padded, rows, strengthened

from weft.core.batch import Target
from weft.core.network import Heads
from weft.recipe.spec import Activations
from weft.strategy.bottleneck import BottleneckRule
from weft.strategy.gated_lora import GatedLoraRule
from weft.strategy.prefix import PrefixRule
from weft.strategy.prompt import PromptRule

LENGTHS = (5, 1, 9, 3)
LORA = GatedLoraRule(rank=3)
PREFIX = PrefixRule(tokens=3, gate="row")
RULES = {"lora": LORA, "prefix": PREFIX, "adapter": BottleneckRule(size=4, gate="row")}
FORMS = [
    *(("bert", {name: rule}) for name, rule in RULES.items()),
    ("bert", {"adapter": BottleneckRule(size=4, gate="row", form="parallel"), "plain": PrefixRule(tokens=2)}),
    ("bert", RULES | {"words": PromptRule(tokens=2)}),
    ("roberta", RULES),
    ("electra", {"both": PrefixRule(tokens=2, projection=4, gate="row"), "lora": LORA}),
    ("distilbert", {"lora": LORA, "adapter": RULES["adapter"]}),
]


def made(folder, rules):
    return strengthened(Model(folder, **rules))


def states(model, batch):
    return model.network.features(batch).flat_TD()


@pytest.mark.parametrize(("kind", "rules"), FORMS)
def test_padding_packing_and_company_change_nothing(saved, kind, rules):
    model, texts = made(saved(kind), rules), rows()
    with torch.no_grad():
        alone = torch.cat([states(model, packed([row])) for row in texts])
        assert (alone - states(Model(saved(kind)), packed(texts))).abs().max() > 1e-2
        for batch in (packed(texts), padded(texts), padded(texts, width=20)):
            torch.testing.assert_close(states(model, batch), alone, rtol=0, atol=2e-5)
        with model.network.computing(torch.bfloat16):  # packed rows are rounded up to a few lengths
            rough = states(model, packed(texts)).float()
    assert (rough - alone).norm() < 0.03 * alone.norm()


def test_gradients_are_the_same_packed_padded_and_recomputed(saved):
    weights, found = torch.randn(sum(LENGTHS), 16, generator=torch.Generator().manual_seed(2)), []
    for make, how in (
        (packed, Activations.KEEP),
        (padded, Activations.KEEP),
        (packed, Activations.RECOMPUTE),
    ):
        model = made(saved("bert"), RULES)
        model.trunk.activations = how
        (states(model, make(rows())) * weights).sum().backward()
        found.append({path: one.grad for path, one in model.sites.parameters() if one.requires_grad})
    assert all(grad.abs().max() > 0 for grad in found[0].values())
    for other in found[1:]:
        for path, grad in found[0].items():
            torch.testing.assert_close(other[path], grad, rtol=1e-4, atol=1e-5)


def test_each_row_has_its_own_tasks(saved):
    rules = {f"{name}-{task}": rule for task in ("one", "two") for name, rule in RULES.items()}
    model, texts = made(saved("bert"), rules), rows()
    own = {task: tuple(f"{name}-{task}" for name in RULES) for task in ("one", "two")}
    model.network.routes = own
    batch = packed(texts)
    for task, places in {"one": [2, 0], "two": [1]}.items():
        batch.targets[task] = Target(torch.tensor(places), {}, 1.0, len(places))
    with torch.no_grad():
        together = states(model, batch).split(LENGTHS)
        for row, task in enumerate(("one", "two", "one", None)):
            single = packed([texts[row]])
            if task is not None:
                single.targets[task] = Target(torch.tensor([0]), {}, 1.0, 1)
            torch.testing.assert_close(together[row], states(model, single), rtol=0, atol=2e-5)
        plain = Model(saved("bert"))
        torch.testing.assert_close(together[3], states(plain, packed([texts[3]])), rtol=0, atol=1e-5)


class Reader(torch.nn.Module):
    def reads(self, _target, layout):
        return layout.starts_B


def test_the_last_layer_is_not_narrowed_as_a_gate_reads_all_tokens(saved):
    for rules, narrowed in ((RULES, False), ({"adapter": BottleneckRule(size=4)}, True)):
        model = made(saved("bert"), rules)
        model.network.heads = Heads({"one": Reader()})
        batch = packed(rows())
        batch.targets["one"] = Target(torch.arange(4), {}, 1.0, 4)
        features = model.network.features(batch, tasks=["one"])
        assert (features.places_T is not None) == narrowed
        whole = model.network.features(batch)
        torch.testing.assert_close(features.first_BD(), whole.first_BD(), rtol=0, atol=1e-5)
