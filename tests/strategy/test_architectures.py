"""Every selector and every named strategy on random two-layer models of many architectures, and on one that is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from weft.core.batch import Batch, Replies
from weft.core.features import Pooling
from weft.core.layout import Layout
from weft.core.network import Network, TrunkInfo
from weft.core.routing import Routing, groups_in, routed
from weft.core.sites import SiteMap
from weft.errors import SiteError, StrategyError
from weft.model.backbone import HFTrunk
from weft.model.describe import describe
from weft.recipe.spec import Rule
from weft.strategy.apply import apply
from weft.strategy.base import Plan
from weft.strategy.bottleneck import BottleneckRule
from weft.strategy.choosing import expanded
from weft.strategy.full import FullRule
from weft.strategy.gated_lora import GatedLoraRule
from weft.strategy.lora import LoraRule
from weft.strategy.named import STRATEGIES
from weft.strategy.plan import plan
from weft.strategy.prefix import PrefixRule
from weft.strategy.registry import adapter_method
from weft.strategy.selector import WORDS, select

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 60,
    "max_position_embeddings": 60,
}
GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
MARKS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 60}
BART = {
    "d_model": 16,
    "vocab_size": 60,
    "max_position_embeddings": 60,
    **{f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")},
    **{f"{side}_ffn_dim": 32 for side in ("encoder", "decoder")},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": SIZES | {"pad_token_id": 1},
    "modernbert": SIZES | MARKS | {"cls_token_id": 1, "sep_token_id": 2},
    "llama": SIZES | MARKS | GROUPED,
    "qwen3": SIZES | MARKS | GROUPED,
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 60, "n_positions": 60} | MARKS,
    "t5": T5,
    "mt5": T5,
    "bart": BART,
}
BOTH = {"t5", "mt5", "bart"}
"""Encoder-decoders."""
INFO = TrunkInfo(16, 0, Pooling.CLS, False, True, False, max_positions=56, init_range=0.02)
INFO_BOTH = replace(INFO, vocabulary=60, pooling=Pooling.MEAN, is_encoder_decoder=True)
UNUSED = "pooler."
"""What last hidden states do not depend on."""
LACKS: dict[str, set[str]] = {
    "bert": {"cross_attention", "final_norm"},
    "roberta": {"cross_attention", "final_norm"},
    "modernbert": {"cross_attention", "pooler", "bias"},
    "llama": {"cross_attention", "pooler", "bias"},
    "qwen3": {"cross_attention", "pooler", "bias"},
    "gpt2": {"cross_attention", "pooler"},
    "t5": {"pooler", "bias"},
    "mt5": {"pooler", "bias"},
    "bart": {"pooler", "final_norm"},
}
"""Words that name nothing in a model, besides heads, which these networks are without."""


class Holder(nn.Module):
    """What a network needs of a trunk to be described."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def make(kind: str) -> SiteMap:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **OPTIONS[kind])
    auto = transformers.AutoModelForSeq2SeqLM if kind in BOTH else transformers.AutoModel
    model = auto.from_config(config, attn_implementation="eager").eval()
    network = Network(HFTrunk(model, INFO_BOTH if kind in BOTH else INFO), {}).eval()
    return SiteMap(network, describe(network))


def states(sites: SiteMap) -> Tensor:
    """Return the states of 27 tokens, and of 18 tokens of replies where there is a decoder for them."""
    network = sites.network
    tokens_BL = torch.randint(5, 55, (3, 9), generator=torch.Generator().manual_seed(3))
    batch = Batch(tokens_BL.flatten(), None, Layout.packed([9, 9, 9]), {}, ("a", "b", "c"))
    if not network.trunk.info.is_encoder_decoder:
        return network.features(batch).flat_TD()
    replies = Replies(tokens_BL[:, :6], Layout.padded([6, 6, 6]), (2, 0, 1))
    features = network.features(replace(batch, replies=replies))
    return torch.cat([features.flat_TD(), features.decoder.flat_TD()])


@pytest.mark.parametrize("kind", OPTIONS)
def test_every_word_selects_something_or_says_what_there_is(kind):
    view = make(kind).view
    lacks = set()
    for word in WORDS:
        try:
            assert select(view, word)
        except SiteError:
            lacks.add(word)
    assert lacks == LACKS[kind] | ({"heads"} if kind in BOTH else {"heads", "lm_head"})


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("kind", OPTIONS)
def test_every_named_strategy_starts_at_the_function_and_moves_what_its_table_says(kind, name):
    sites, rules = make(kind), STRATEGIES[name]
    sees_rows = any(rule.train == "gated-lora" for rule in rules)
    writes = kind in BOTH or sites.view.is_causal
    if name == "head" or rules[0].sites in LACKS[kind] or (sees_rows and writes):
        with pytest.raises((SiteError, StrategyError)):
            planned(sites, rules)
        return
    before = states(sites)
    made = planned(sites, rules)
    sites, table = apply(sites, made, describe=describe, seed=0)
    keeps = all(adapter_method(one.method).keeps_function(one.rule) for one in made.installs)
    with through(sites, made.routes):
        after = states(sites)
        assert torch.allclose(after, before, atol=1e-5) == keeps
        (after * torch.linspace(-1, 1, after.numel()).view_as(after)).sum().backward()
    moved = {path for path, parameter in sites.parameters() if parameter.grad is not None}
    trained = {row.path for row in table.trained()}
    assert moved <= trained
    assert {path for path in trained - moved if not path.startswith(UNUSED)} == set()


@pytest.mark.parametrize("kind", sorted(BOTH))
def test_gates_of_rows_stand_in_the_encoder_of_what_writes(kind):
    rules = [
        GatedLoraRule(sites="encoder.qv"),
        PrefixRule(tokens=2, gate="row", sites="encoder.kv"),
        BottleneckRule(size=3, gate="row", sites="encoder.ffn"),
    ]
    sites = make(kind)
    sites, table = apply(sites, planned(sites, rules), describe=describe, seed=0)
    found = states(sites)
    (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
    moved = {path for path, parameter in sites.parameters() if parameter.grad is not None}
    assert moved == {row.path for row in table.trained()}
    for rule in rules:
        with pytest.raises(
            StrategyError, match=r"decoder\..*: a gate of a row must stand in an encoder.*encoder\.kv"
        ):
            planned(make(kind), [rule.model_copy(update={"sites": rule.sites.replace("encoder", "decoder")})])


@pytest.mark.parametrize("kind", sorted(BOTH))
@pytest.mark.parametrize(
    "word", ["encoder", "decoder", "cross_attention", "decoder.layers[0].ffn", "embeddings"]
)
def test_stacks_move_alone(kind, word):
    sites = make(kind)
    sites, table = apply(sites, planned(sites, [FullRule(sites=word)]), describe=describe, seed=0)
    found = states(sites)
    (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
    moved = {path for path, parameter in sites.parameters() if parameter.grad is not None}
    assert moved == {row.path for row in table.trained()}
    within = {
        "encoder": ("encoder.",),
        "decoder": ("decoder.",),
        "cross_attention": ("decoder.",),
        "decoder.layers[0].ffn": ("decoder.layers.0.ffn.",),
        "embeddings": ("embeddings.", "encoder.embeddings.", "decoder.embeddings."),
    }[word]
    assert moved
    assert all(path.startswith(within) for path in moved)
    assert "embeddings.word.weight" not in moved or word == "embeddings"
    if word == "cross_attention":
        assert all(".cross_attention." in path for path in moved)


def planned(sites: SiteMap, rules: Sequence[Rule]) -> Plan:
    plain, _ = expanded(rules, sites.view, None)
    return plan(sites.view, plain, tasks=("a",), stage_lr=None, adapter="new")


def through(sites: SiteMap, routes: Mapping[str, tuple[str, ...]]) -> AbstractContextManager[None]:
    """Let rows pass through what the only task has of its own."""
    return routed(sites.network.trunk, Routing.uniform(groups_in(routes), 0)) if routes else nullcontext()


def test_an_unknown_architecture_takes_rules_by_raw_names():
    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = SimpleNamespace(to_dict=lambda: {"model_type": "brand-new"})
            self.words, self.mix = nn.Embedding(60, 16), nn.Linear(16, 16)
            self.get_input_embeddings = lambda: self.words
            self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

        def forward(self, tokens_BL: Tensor) -> Tensor:
            hidden_BLD = self.mix(self.words(tokens_BL))
            for block in self.blocks:
                hidden_BLD = hidden_BLD + block(hidden_BLD).tanh()
            return hidden_BLD

    def unknown() -> SiteMap:
        torch.manual_seed(0)
        network = Network(Holder(Unknown()), {})
        return SiteMap(network, describe(network))

    with pytest.raises(SiteError, match="ffn"):
        select(unknown().view, "ffn")
    rules = [FullRule(sites=r"re:^mix"), LoraRule(sites=r"re:blocks\.1")]
    sites = unknown()
    tokens_BL = torch.arange(12).view(2, 6)
    before = sites.network.trunk.model(tokens_BL)
    sites, table = apply(sites, planned(sites, rules), describe=describe, seed=0)
    after = sites.network.trunk.model(tokens_BL)
    assert torch.equal(after, before)
    after.square().sum().backward()
    moved = {path for path, parameter in sites.parameters() if parameter.grad is not None}
    assert moved == {row.path for row in table.trained()}
    assert len(moved) == 4
