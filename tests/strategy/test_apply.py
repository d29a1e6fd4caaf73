"""Applying a plan gives exactly the table that was planned, and gradients to its trained rows only."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, GPT2Config, GPT2Model

from weft.core.sites import SiteMap
from weft.core.table import ParamTable, Role
from weft.errors import StrategyError
from weft.model.describe import describe
from weft.strategy.adapters import extract, merged, restore
from weft.strategy.apply import apply
from weft.strategy.choosing import expanded
from weft.strategy.full import FullRule
from weft.strategy.lora import LoraRule
from weft.strategy.lora_layer import LoraSite
from weft.strategy.named import STRATEGIES, resolve
from weft.strategy.none import NoneRule
from weft.strategy.plan import CarriedAdapter, Plan, plan, planned_view


def planned(toy, rules, network=None, tasks=("a", "b")):
    network = network or toy.network()
    sites = SiteMap(network, toy.describe(network))
    plain, _ = expanded(rules, sites.view, None)
    return sites, plan(sites.view, plain, tasks=tasks, stage_lr=None, adapter="one")


NAMES = sorted(set(STRATEGIES) - {"houlsby"})  # the toy has no output of attention


@pytest.mark.parametrize("name", NAMES)
def test_the_table_is_what_there_is(toy, name):
    sites, made = planned(toy, resolve(name))
    fresh, table = apply(sites, made, describe=toy.describe, seed=0)
    assert table is made.table
    assert fresh.view == planned_view(sites.view, made.installs)
    actual = {path: (tuple(p.shape), p.requires_grad) for path, p in fresh.parameters()}
    assert actual == {row.path: (row.shape, row.lr > 0) for row in table}
    assert [row.path for row in table] == [path for path, _ in fresh.parameters()]
    trained = [p for p in fresh.network.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == table.num_trained()


def test_a_second_plan_overrules_what_the_first_left(toy):
    sites, made = planned(toy, resolve("full"))
    sites, _ = apply(sites, made, describe=toy.describe, seed=0)
    made = plan(sites.view, [FullRule(sites="norm")], tasks=["a"], stage_lr=None, adapter="two")
    sites, table = apply(sites, made, describe=toy.describe, seed=0)
    moving = {path for path, p in sites.parameters() if p.requires_grad}
    assert moving == {row.path for row in table.trained()}
    assert len(moving) == 2 * 2 + 2


def test_modules_stand_where_the_plan_says_and_ties_stay(toy):
    sites, made = planned(toy, [LoraRule(), NoneRule(sites="layers[0].ffn")])
    fresh, _ = apply(sites, made, describe=toy.describe, seed=0)
    lora = {site.path for site in fresh.view.sites if isinstance(fresh.module(site.path), LoraSite)}
    assert lora == {install.site for install in made.installs}
    assert len(lora) == 6
    model = fresh.network.trunk.model
    assert model.lm_head.weight is model.embeddings["word"].weight


def test_equal_seeds_give_equal_networks(toy):
    def values(seed):
        sites, made = planned(toy, resolve("lora"))
        fresh, _ = apply(sites, made, describe=toy.describe, seed=seed)
        return {path: p.detach() for path, p in fresh.parameters()}

    one, same, other = values(0), values(0), values(1)
    assert all(torch.equal(one[path], same[path]) for path in one)
    differing = {path for path in one if not torch.equal(one[path], other[path])}
    assert differing == {path for path in one if "lora_A" in path}


def test_a_plan_for_another_network_is_refused(toy):
    sites, made = planned(toy, resolve("full"))
    fewer = Plan(made.installs, ParamTable(made.table.rows[1:]))
    with pytest.raises(
        StrategyError, match=r"embeddings\.word\.weight: must have shape none as planned, but has \(11, 8\)"
    ):
        apply(sites, fewer, describe=toy.describe, seed=0)
    wider = ParamTable((replace(made.table.rows[0], shape=(11, 9)), *made.table.rows[1:]))
    with pytest.raises(StrategyError, match=r"must have shape \(11, 9\) as planned, but has \(11, 8\)"):
        apply(sites, Plan((), wider), describe=toy.describe, seed=0)


def test_a_parameter_that_no_site_owns_is_refused(toy):
    network = toy.network()
    sites, made = planned(toy, resolve("full"), network)
    network.trunk.stray = nn.Linear(2, 2)
    with pytest.raises(StrategyError, match=r"trunk\.stray\.weight: every parameter must belong to a site"):
        apply(sites, made, describe=toy.describe, seed=0)


@pytest.mark.parametrize(
    ("architecture", "num_sites"), [("bert", 2 * 6 + 1), ("llama", 5 * 7), ("gpt2", 2 * 4)]
)
def test_real_models_as_weft_describes_them(architecture, num_sites, real, tiny_bert, stories260k):
    """Two stages of LoRA, one stacked on the other, on real architectures under the real name tables."""
    makers = {
        "bert": lambda: AutoModel.from_pretrained(tiny_bert),
        "llama": lambda: AutoModelForCausalLM.from_pretrained(stories260k, dtype=torch.float32),
        "gpt2": lambda: GPT2Model(
            GPT2Config(vocab_size=50, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
        ),
    }
    network = real.network(makers[architecture]().eval())
    sites = SiteMap(network, describe(network))
    tokens_BL = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        before = network.trunk.model(input_ids=tokens_BL)[0]
    carried: list[CarriedAdapter] = []
    for name in ("one", "two"):
        made = plan(sites.view, [LoraRule(rank=2)], tasks=["t"], stage_lr=None, adapter=name, carried=carried)
        assert len(made.installs) == num_sites
        sites, table = apply(sites, made, describe=describe, seed=0)
        assert [row.path for row in table] == [path for path, _ in sites.parameters()]
        assert {row.owner for row in table.trained()} == {f"adapter:{name}", "head:t"}
        carried = [CarriedAdapter.of(state, Role.FROZEN) for state in extract(sites, table)]
    with torch.no_grad():
        assert torch.equal(network.trunk.model(input_ids=tokens_BL)[0], before)


def test_a_network_without_weights_goes_the_same_way(toy):
    """Stages are checked on the meta device: plan, apply, extract, restore and merge need no values."""
    with torch.device("meta"):
        network = toy.network()
    sites, made = planned(toy, resolve("lora"), network)
    sites, table = apply(sites, made, describe=toy.describe, seed=0)
    real, made = planned(toy, resolve("lora"))
    _, expected = apply(real, made, describe=toy.describe, seed=0)
    assert table == expected
    (state,) = extract(sites, table)
    assert all(tensor.is_meta for tensor in state.tensors.values())
    with torch.device("meta"):
        child = toy.network()
    fresh = SiteMap(child, toy.describe(child))
    restore(fresh, state)
    assert toy.describe(child) == sites.view
    weights = dict(sites.parameters())
    folded = merged(weights, [state])
    assert {path: value.shape for path, value in folded.items()} == {
        f"{site}.weight": weights[f"{site}.weight"].shape for site in state.config["sites"]
    }
