"""Names stand for rule lists; any selector is a name too."""

from __future__ import annotations

import pytest

from weft.errors import StrategyError
from weft.strategy.choosing import expanded
from weft.strategy.full import FullRule
from weft.strategy.lora import LoraRule
from weft.strategy.named import STRATEGIES, resolve
from weft.strategy.none import NoneRule
from weft.strategy.plan import plan
from weft.strategy.registry import RULES


def test_every_name_is_a_list_of_registered_rules():
    in_place = (
        "full head encoder decoder attention ffn bias norm embeddings bitfit lp-ft gradual layer-decay lisa"
    )
    adapters = (
        "lora rslora lora+ pissa dora mtl-lora hybrid-lora ia3 houlsby pfeiffer parallel "
        "prompt prefix ptuning-v2 llama-adapter mam unipelt"
    )
    assert set(STRATEGIES) == set(f"{in_place} {adapters}".split())
    for name, rules in STRATEGIES.items():
        assert resolve(name) is rules
        assert rules
        assert all(isinstance(rule, RULES[rule.train]) for rule in rules)


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"decoder"}))
def test_every_name_plans_on_a_bert(bert, name):
    rules, _ = expanded(resolve(name), bert, None)
    table = plan(bert, rules, tasks=["sentiment"], stage_lr=None, adapter="s").table
    trunk = [row for row in table.trained() if row.owner != "head:sentiment"]
    counts = {"full": 198, "head": 0, "encoder": 192, "attention": 96, "ffn": 48, "bias": 98, "norm": 50}
    counts |= dict.fromkeys(("lp-ft", "gradual", "layer-decay", "lisa"), 198) | {
        "bitfit": 98,
        "embeddings": 4,
    }
    counts |= dict.fromkeys(("lora", "rslora", "lora+", "pissa"), 2 * 73) | {"dora": 3 * 73, "ia3": 3 * 12}
    counts |= {"mtl-lora": 4 * 73, "hybrid-lora": 2 * 7 + 2 * (73 - 7)}
    counts |= {"houlsby": 4 * 24, "pfeiffer": 4 * 12, "parallel": 4 * 12}
    counts |= {"prompt": 1, "prefix": 5 * 24, "ptuning-v2": 24, "llama-adapter": 36, "mam": 5 * 24 + 4 * 12}
    counts |= {"unipelt": 4 * 24 + (5 * 24 + 2 * 12) + 6 * 12}
    assert len(trunk) == counts[name]


def test_a_selector_means_full_training_of_it():
    assert resolve("top 2") == (FullRule(sites="top 2"),)
    assert resolve(" layers[8:].attention ") == (FullRule(sites="layers[8:].attention"),)
    assert resolve("re:mlp") == (FullRule(sites="re:mlp"),)
    assert resolve("pooler") == (FullRule(sites="pooler"),)


def test_rules_are_handed_through():
    rules = [NoneRule(sites="layers[0:4]"), LoraRule(rank=4)]
    assert resolve(rules) == tuple(rules)


@pytest.mark.parametrize("word", ["lorra", "fulll", "heds", "xyzzy", ""])
def test_an_unknown_word_is_answered_with_its_neighbours(word):
    with pytest.raises(
        StrategyError, match=r"must be a name, a selector or a list of rules.*Choices: all, attention"
    ) as caught:
        resolve(word)
    near = {"lorra": "lora", "fulll": "full", "heds": "heads"}
    assert word not in near or f"Did you mean {near[word]!r}?" in str(caught.value)


def test_no_rules_is_no_strategy():
    with pytest.raises(StrategyError, match="at least one rule"):
        resolve(())
