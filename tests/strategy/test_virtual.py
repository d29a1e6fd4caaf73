"""Prompts and prefixes as methods: where they stand, what they start from, what is refused, two made one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from weft.core.sites import SiteMap
from weft.core.virtual import VirtualKeys
from weft.errors import SiteError, StrategyError
from weft.strategy.adapters import extract, joined, merged, restore
from weft.strategy.apply import apply
from weft.strategy.plan import plan
from weft.strategy.prefix import Prefix, PrefixRule, plain_tables, projected
from weft.strategy.prompt import Prompt, PromptInit, PromptRule


def made(toy, rule, *, name="one", seed=0):
    network = toy.network()
    sites = SiteMap(network, toy.describe(network))
    wanted = plan(sites.view, [rule], tasks=["a"], stage_lr=None, adapter=name)
    return apply(sites, wanted, describe=toy.describe, seed=seed)


def shapes(view, rule):
    table = plan(view, [rule], tasks=["sentiment"], stage_lr=None, adapter="s").table
    return {row.path: row.shape for row in table if row.owner == "adapter:s"}


def test_a_prompt_stands_at_the_tokens_embeddings_alone(bert, llama):
    assert shapes(bert, PromptRule(tokens=3)) == {"embeddings.word.prompt.s": (3, 8)}
    assert shapes(bert, PromptRule(tokens=3, sites="all")) == {"embeddings.word.prompt.s": (3, 8)}
    assert shapes(llama, PromptRule()) == {"embeddings.word.prompt.s": (20, 8)}  # tied to the output or not
    with pytest.raises(StrategyError, match="must name embedding sites"):
        shapes(bert, PromptRule(sites="embeddings.position"))


def test_a_prefix_stands_where_keys_and_values_are_made(bert, llama, gpt2):
    rule = PrefixRule(tokens=3, sites="layers[0]")
    at = "layers.0.attention"
    assert shapes(bert, rule) == {f"{at}.{s}.prefix_{s}.s": (3, 8) for s in ("key", "value")}
    assert shapes(llama, rule) == {
        f"{at}.{s}.prefix_{s}.s": (3, 4) for s in ("key", "value")
    }  # grouped heads
    assert shapes(gpt2, rule) == {f"{at}.qkv.prefix_{s}.s": (3, 8) for s in ("key", "value")}
    assert len(shapes(bert, PrefixRule())) == 2 * 12
    assert not any("cross_attention" in path for path in shapes(bert, PrefixRule(sites="attention")))


def test_an_encoder_decoder_has_a_prefix_in_three_places(t5):
    def places(sites):
        return [path.rsplit(".", 3)[0] for path in shapes(t5, PrefixRule(tokens=3, sites=sites))][::2]

    crossing = [f"decoder.layers.{i}.cross_attention" for i in range(2)]
    own = [f"decoder.layers.{i}.attention" for i in range(2)]
    assert places("encoder.kv") == [f"encoder.layers.{i}.attention" for i in range(4)]
    assert places("decoder.self_attention") == own
    assert places("cross_attention") == crossing
    assert set(places("kv")) == {*places("encoder.kv"), *own, *crossing}
    with pytest.raises(StrategyError, match=r"decoder\.layers\.0\.cross_attention: a prefix must have both"):
        places("cross_attention.key")


def test_a_projection_and_a_gate_have_tables_of_their_own(llama):
    found = shapes(llama, PrefixRule(tokens=3, projection=5, gate=True, sites="layers[0].kv"))
    at, table = "layers.0.attention.value", "prefix_value"
    assert {path: shape for path, shape in found.items() if path.startswith(at)} == {
        f"{at}.{table}.s": (3, 4),
        f"{at}.{table}_hidden.s": (5, 4),
        f"{at}.{table}_hidden_bias.s": (5,),
        f"{at}.{table}_out.s": (4, 5),
        f"{at}.{table}_out_bias.s": (4,),
        f"{at}.prefix_gate.s": (1,),
    }


def test_keys_without_values_are_refused(bert):
    with pytest.raises(StrategyError, match=r"layers\.2\.attention: a prefix must have both keys and values"):
        shapes(bert, PrefixRule(sites="layers[2].attention.key"))
    with pytest.raises(SiteError, match="must match something"):
        shapes(bert, PrefixRule(sites="layers[2].attention.kv2"))


def test_layers_that_cannot_take_keys_are_refused_with_what_to_do(bert):
    own = replace(bert, unprefixed={"": "the attention of bert is its own"})
    for rule in (PrefixRule(), PrefixRule(gate=True)):
        with pytest.raises(StrategyError, match=r"but the attention of bert is its own\. Use train: prompt"):
            shapes(own, rule)
    windowed = replace(bert, unprefixed={"layers.1.attention": "this layer sees a window of 8 tokens"})
    with pytest.raises(StrategyError, match=r"layers\.1\.attention: .* window of 8 tokens.*gate: true"):
        shapes(windowed, PrefixRule())
    assert len(shapes(windowed, PrefixRule(sites="layers[2:].kv"))) == 2 * 10
    assert len(shapes(windowed, PrefixRule(gate=True))) == 3 * 12


def test_only_a_gate_keeps_the_function():
    assert Prefix().keeps_function(PrefixRule(gate=True))
    assert not Prefix().keeps_function(PrefixRule())
    assert not Prompt().keeps_function(PromptRule())


def test_rates_are_lower_for_a_projection():
    assert Prefix().usual(PrefixRule(projection=8)) == pytest.approx(5e-4)
    assert Prefix().usual(PrefixRule()) == 5e-3


def test_a_prompt_starts_from_tokens_or_from_their_spread(toy):
    sites, _ = made(toy, PromptRule(tokens=5))
    words = sites.module("embeddings.word")
    table = words.prompt["one"].detach()
    assert all(any(torch.equal(row, word) for word in words.weight.detach()) for row in table)
    again, _ = made(toy, PromptRule(tokens=5))
    assert torch.equal(again.module("embeddings.word").prompt["one"], table)
    other, _ = made(toy, PromptRule(tokens=5), seed=1)
    assert not torch.equal(other.module("embeddings.word").prompt["one"], table)
    random, _ = made(toy, PromptRule(tokens=2000, init=PromptInit.RANDOM))
    drawn = random.module("embeddings.word").prompt["one"].detach()
    assert float(drawn.std()) == pytest.approx(float(words.weight.std()), rel=0.05)


def test_a_prefix_starts_as_published_and_its_gate_closed(toy):
    sites, _ = made(toy, PrefixRule(tokens=400, projection=16, gate=True))
    module = sites.module("layers.0.attention.qkv")
    assert isinstance(module, VirtualKeys)
    assert float(module.prefix_key["one"].detach().std()) == pytest.approx(1.0, rel=0.05)
    assert module.prefix_value_hidden["one"].abs().max() <= 8**-0.5
    assert module.prefix_value_out["one"].abs().max() <= 16**-0.5
    assert module.prefix_gate["one"].tolist() == [0.0]
    assert (module.virtual_keys(), module.gated_keys()) == ({}, ("one",))


def test_a_projection_is_two_products_with_a_tangent_between():
    generator = torch.Generator().manual_seed(0)
    table, hidden, hidden_b, out, out_b = (
        torch.randn(shape, generator=generator) for shape in ((3, 4), (5, 4), (5,), (4, 5), (4,))
    )
    expected = torch.tanh(table @ hidden.T + hidden_b) @ out.T + out_b
    assert torch.allclose(projected(table, [hidden, hidden_b, out, out_b]), expected, atol=1e-6)
    assert projected(table, []) is table


@pytest.mark.parametrize(
    "rules",
    [
        (PromptRule(tokens=2), PromptRule(tokens=3)),
        (PrefixRule(tokens=2), PrefixRule(tokens=3, projection=4)),
    ],
)
def test_two_are_one_of_both_lengths(toy, rules):
    states = [
        extract(made(toy, rule, name=name)[0], [name])[0]
        for rule, name in zip(rules, ("one", "two"), strict=True)
    ]
    networks = [toy.network(), toy.network()]
    for network, own in zip(networks, (states, [joined(states, name="both")]), strict=True):
        for state in own:
            restore(SiteMap(network, toy.describe(network)), state)
    apart, together = (toy.outputs(network) for network in networks)
    assert torch.allclose(together, apart, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(apart, toy.outputs(toy.network()), atol=1e-2)


def test_gates_do_not_join_and_nothing_merges(toy):
    sites, _ = made(toy, PrefixRule(tokens=2, gate=True))
    (state,) = extract(sites, ["one"])
    with pytest.raises(StrategyError, match="prefixes with gates cannot be joined"):
        joined([state, state], name="both")
    assert joined([state], name="other").tensors.keys() == {
        k.replace(".one", ".other") for k in state.tensors
    }
    with pytest.raises(StrategyError, match="only methods that edit weights can be merged"):
        merged({}, [state])
    assert plain_tables(state).keys() == {
        f"layers.{i}.attention.qkv.prefix_{side}" for i in (0, 1) for side in ("key", "value")
    }


def test_a_saved_prefix_must_fit(toy):
    sites, _ = made(toy, PrefixRule(tokens=2))
    (state,) = extract(sites, ["one"])
    network = toy.network()
    fresh = SiteMap(network, toy.describe(network))
    elsewhere = {"layers.0.attention.query": next(iter(state.config["sites"].values()))}
    with pytest.raises(StrategyError, match="must be a site where prefix can stand"):
        restore(fresh, replace(state, config={"sites": elsewhere}))
    short = {path: tensor[:1] for path, tensor in state.tensors.items()}
    with pytest.raises(StrategyError, match="must have shape"):
        restore(fresh, replace(state, tensors=short))
