"""Hybrid-LoRA: what no LoRA can follow is scored, the worst are trained fully, and plain rules are left."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from weft.core.table import Role
from weft.errors import StrategyError
from weft.strategy.choosing import best, exactly, expanded
from weft.strategy.full import FullRule
from weft.strategy.hybrid import HybridRule, beyond
from weft.strategy.lora import LoraInit, LoraRule
from weft.strategy.none import NoneRule
from weft.strategy.plan import plan
from weft.strategy.selector import select_sites


def of_values(values, shape=(6, 4), seed=0):
    """Return a matrix with these singular values."""
    generator = torch.Generator().manual_seed(seed)
    U, _ = torch.linalg.qr(torch.randn(shape[0], len(values), generator=generator))
    V, _ = torch.linalg.qr(torch.randn(shape[1], len(values), generator=generator))
    return U @ torch.diag(torch.tensor(values)) @ V.T


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (4, 4)])
@pytest.mark.parametrize("size", [1.0, 1e-18])
def test_the_energy_beyond_a_rank_is_that_of_the_other_singular_values(shape, size):
    gradient = of_values([4.0, 3.0, 2.0, 1.0], shape) * size
    for rank, energy in ((1, 14.0), (2, 5.0), (3, 1.0), (4, 0.0), (9, 0.0)):
        assert beyond(gradient, rank) / size**2 == pytest.approx(energy, rel=1e-5, abs=1e-5)


def test_the_energy_is_the_distance_to_the_best_lora():
    gradient = torch.randn(20, 12, generator=torch.Generator().manual_seed(1))
    U, S, V = torch.linalg.svd(gradient, full_matrices=False)
    nearest = U[:, :3] @ torch.diag(S[:3]) @ V[:3]
    assert beyond(gradient, 3) == pytest.approx(float((gradient - nearest).square().sum()), rel=1e-5)
    assert beyond(torch.zeros(3, 3), 1) == 0.0


def test_scores_weigh_fit_size_and_cost():
    rule = HybridRule(rank=1)
    low, full = of_values([3.0, 0.0]), of_values([2.0, 2.0])
    assert (
        rule.score(full) > rule.score(low) == pytest.approx(0.0, abs=1e-6)
    )  # a LoRA can follow the larger one
    assert rule.score(10 * full) == pytest.approx(100 * rule.score(full))
    wide = torch.cat([full, torch.zeros(6, 4)], 1)  # the same energy for twice the values that would move
    assert rule.score(wide) == pytest.approx(rule.score(full) / 2)


def test_the_best_come_first_and_equal_ones_in_order():
    one, other, least = (of_values([3.0, size]) for size in (1.0, 2.0, 0.5))
    gradients = {"a": one, "b": other, "c": one, "d": least}
    scores = best(HybridRule(rank=1, share=0.99), gradients)
    assert list(scores) == ["b", "a", "c", "d"]
    assert scores == pytest.approx({"b": 4 / 24, "a": 1 / 24, "c": 1 / 24, "d": 0.25 / 24}, rel=1e-4)
    for share, number in ((0.1, 1), (0.5, 2), (0.7, 3)):
        assert list(best(HybridRule(rank=1, share=share), gradients)) == list(scores)[:number]


def test_candidates_are_linear_modules_of_the_trunk_that_are_nobody_elses(bert, llama, gpt2):
    assert len(HybridRule().candidates(bert)) == 73
    assert {site.path for site in HybridRule(sites="all").candidates(llama)} == set(
        select_sites(llama, "linear")
    )
    assert [site.path for site in HybridRule(sites="layers[0]").candidates(gpt2)] == [
        f"layers.0.{name}" for name in ("attention.qkv", "attention.output", "ffn.up", "ffn.down")
    ]
    assert [HybridRule(share=share).count(73) for share in (0.001, 0.1, 0.5)] == [1, 7, 36]


def test_it_stands_for_a_lora_and_full_training_of_what_was_chosen(bert):
    rule = HybridRule(rank=4, init="pissa", lr=1e-3, layer_decay=0.9, since=0.2, sites="ffn")
    lora, *full = rule.plain(bert, ["layers.3.ffn.up", "layers.0.ffn.down"])
    shared = {"layer_decay": 0.9, "since": 0.2}
    assert lora == LoraRule(rank=4, init=LoraInit.PISSA, lr=1e-3, sites="ffn", **shared)
    assert type(lora) is LoraRule
    assert full == [
        FullRule(sites=path, lr=0.1 * 1e-3, **shared) for path in ("layers.3.ffn.up", "layers.0.ffn.down")
    ]
    assert HybridRule(lr=1e-3, full_lr=5e-6).plain(bert, ["pooler"])[1].lr == 5e-6
    assert HybridRule().plain(bert, ["pooler"])[1].lr is None


def test_what_was_chosen_is_trained_fully_and_has_no_lora(bert):
    chosen = ["layers.3.ffn.up", "layers.11.attention.query"]
    rules, lines = expanded(
        [HybridRule(rank=2, share=0.03), NoneRule(sites="layers[0]")],
        bert,
        lambda rule, candidates, *, number: (
            chosen if (rule.rank, len(candidates), number) == (2, 73, 1) else []
        ),
    )
    assert [rule.train for rule in rules] == ["lora", "full", "full", "none"]
    (line,) = lines
    assert line.startswith("rule 1, hybrid-lora: 2 of 73 modules are trained fully, chosen by gradients of 8")
    assert line.endswith(", best first: layers.3.ffn.up, layers.11.attention.query")
    table = plan(bert, rules, tasks=["sentiment"], stage_lr=None, adapter="s").table
    rows = {row.path: row for row in table}
    for path in chosen:
        assert rows[f"{path}.weight"].role is rows[f"{path}.bias"].role is Role.TRAINED
        assert rows[f"{path}.weight"].lr == 5e-5
        assert f"{path}.lora_A.s" not in rows
    assert rows["layers.3.ffn.down.weight"].role is Role.FROZEN
    assert rows["layers.3.ffn.down.lora_A.s"].lr == 5e-4
    assert "layers.0.ffn.down.lora_A.s" not in rows


def test_without_weights_the_largest_stand_for_those_that_will_be_chosen(bert):
    rules, (line,) = expanded([HybridRule()], bert, None)
    assert [rule.sites for rule in rules[1:]] == [
        f"layers.{i}.ffn.{name}" for i in range(4) for name in ("up", "down")
    ][:7]
    assert line.endswith("when the stage is entered; here the largest stand for them")


def test_plain_rules_are_as_they_were(bert):
    rules = [LoraRule(), NoneRule(sites="layers[0]")]
    assert expanded(rules, bert, None) == (tuple(rules), ())


def test_nothing_to_choose_from_is_refused(bert):
    with pytest.raises(StrategyError, match=r"rule 2: norm must name linear modules to choose from"):
        expanded([LoraRule(), HybridRule(sites="norm")], bert, None)


def test_a_selector_means_one_site_and_no_other(t5, unnamed, bert):
    assert exactly(bert, "layers.3.ffn.up") == "layers.3.ffn.up"
    own = "decoder.layers.1.attention.query"
    assert len(select_sites(t5, own)) == 2, "attention means cross-attention too"
    for view, path in ((t5, own), (unnamed, "blocks.1.mixer.in_proj"), (unnamed, "blocks.2.mixer.out_proj")):
        assert select_sites(view, exactly(view, path)) == (path,)


@pytest.mark.parametrize(
    "wrong", [{"share": 0}, {"share": 1}, {"batches": 0}, {"full_lr": 0}, {"train": "lora"}]
)
def test_what_means_nothing_is_refused(wrong):
    with pytest.raises(ValidationError):
        HybridRule.model_validate(wrong)
