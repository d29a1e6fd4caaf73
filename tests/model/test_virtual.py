"""Virtual tokens and keys: what stock models give for them, in whatever company, layout and step of generation."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache

from weft.core.batch import Batch
from weft.core.decoding import Decoding
from weft.core.layout import Layout
from weft.core.network import Network
from weft.core.routing import NONE, Routing, routed
from weft.core.sites import SiteMap
from weft.errors import ModelError
from weft.model.describe import describe
from weft.model.names import name_table
from weft.model.prefixed import shifted, unprefixed
from weft.model.trunk import load_trunk
from weft.model.virtual import attentions_of
from weft.recipe.spec import Activations
from weft.strategy.prefix import PrefixRule
from weft.strategy.prompt import PromptRule
from weft.strategy.registry import adapter_method
from weft.strategy.selector import select_sites

LOOKED_UP = ["bert", "roberta", "electra", "modernbert", "llama", "qwen3", "gpt2"]
OTHERS = ["distilbert", "mpnet"]
CACHED = ["bert", "roberta", "llama", "qwen3", "gpt2"]  # stock models that take keys from a cache
LENGTHS = (5, 1, 9, 3)
PREFIX, PROMPT = PrefixRule(tokens=3), PromptRule(tokens=3)
GATED, PROJECTED = PrefixRule(tokens=3, gate=True), PrefixRule(tokens=2, projection=5)


class Model:
    """A trunk with adapters of its own by name."""

    def __init__(self, folder, *, lm=False, dropout=0.0, **rules):
        trunk = load_trunk(folder, wants_lm_head=lm, dropout=dropout, device=torch.device("cpu"))
        self.trunk, self.network = trunk, Network(trunk, {})
        for parameter in trunk.parameters():
            parameter.requires_grad_(requires_grad=False)
        for name, rule in rules.items():
            self.put(name, rule)

    @property
    def sites(self):
        return SiteMap(self.network, describe(self.network))

    def put(self, name, rule):
        method, sites = adapter_method(rule.train), self.sites
        chosen = [sites.view.words] if rule.train == "prompt" else select_sites(sites.view, rule.sites)
        for path in chosen:
            if method.stands_at(sites.view, sites.site(path)):
                method.install(sites, sites.site(path), rule, adapter=name, seed=1)
        for path, parameter in self.trained(name).items():
            parameter.requires_grad_()
            if ".prefix_gate." in path:
                nn.init.constant_(parameter, 0.7)

    def trained(self, name):
        return {path: one for path, one in self.sites.parameters() if path.endswith(f".{name}")}

    def table(self, name, side, layer):
        """Return a prefix's keys or values at one layer, with the heads apart: (1, K, P, E)."""
        part = {"bert": side, "roberta": side, "gpt2": "qkv"}.get(self.trunk.backbone.config.model_type, side)
        module = self.sites.module(f"layers.{layer}.attention.{part}")
        return getattr(module, f"prefix_{side}")[name].unflatten(1, (-1, 8)).transpose(0, 1)[None]


def strengthened(model):
    """Return ``model`` with what it trains moved away from where it starts."""
    generator = torch.Generator().manual_seed(5)
    for _, parameter in model.sites.parameters():
        if parameter.requires_grad:
            parameter.data += 0.5 * torch.randn(parameter.shape, generator=generator)
    return model


def rows(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 60, (n,), generator=generator) for n in lengths]


def packed(texts, **more):
    layout = Layout.packed([len(row) for row in texts])
    return Batch(torch.cat(texts), None, layout, {}, tuple(map(str, range(len(texts)))), **more)


def padded(texts, width=None):
    layout = Layout.padded([len(row) for row in texts], width)
    tokens = torch.zeros(len(texts), layout.width, dtype=torch.int64)
    for index, row in enumerate(texts):
        tokens[index, : len(row)] = row
    return Batch(tokens, None, layout, {}, tuple(map(str, range(len(texts)))))


FORMS = [
    *((kind, {"x": PROMPT}) for kind in (*LOOKED_UP, *OTHERS)),
    *((kind, {"x": PREFIX}) for kind in LOOKED_UP),
    ("bert", {"x": GATED}),
    ("llama", {"x": GATED}),
    ("gpt2", {"x": GATED}),
    ("qwen3", {"x": PROJECTED}),
    ("roberta", {"x": PROMPT, "y": PREFIX, "z": GATED}),
    ("llama", {"x": PREFIX, "y": PROMPT, "z": PREFIX}),
]


@pytest.mark.parametrize(("kind", "rules"), FORMS)
def test_padding_packing_and_company_change_nothing(saved, kind, rules):
    model, texts = Model(saved(kind), **rules), rows()
    with torch.no_grad():
        alone = torch.cat([model.trunk(padded([row])).flat_TD() for row in texts])
        tight = model.trunk(padded(texts)).flat_TD()
        wide = model.trunk(padded(texts, width=20)).flat_TD()
        flat = model.trunk(packed(texts))
        base = Model(saved(kind)).trunk(packed(texts)).flat_TD()
    assert flat.hidden.shape == (sum(LENGTHS), 16)
    assert flat.layout.is_packed
    for other in (tight, wide, flat.hidden):
        torch.testing.assert_close(other, alone, rtol=0, atol=1e-5)
    assert (alone - base).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [*LOOKED_UP, *OTHERS])
def test_a_prompt_is_embeddings_in_front(saved, kind):
    model, (text, *_) = Model(saved(kind), x=PROMPT), rows()
    stock = AutoModel.from_pretrained(saved(kind).path).eval()
    words = stock.get_input_embeddings()
    table_PD = model.sites.module(
        "embeddings.word" if kind != "mpnet" else "embeddings.word_embeddings"
    ).prompt["x"]
    with torch.no_grad():
        expected = stock(inputs_embeds=torch.cat([table_PD, words(text)])[None]).last_hidden_state[0, 3:]
        found = model.trunk(packed([text])).hidden
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", CACHED)
def test_a_prefix_is_keys_and_values_in_a_cache(saved, kind):
    model, (text, *_) = Model(saved(kind), x=PREFIX), rows()
    stock = AutoModel.from_pretrained(saved(kind).path, attn_implementation="eager").eval()
    cache = DynamicCache()
    with torch.no_grad():
        for layer in range(2):
            cache.update(model.table("x", "key", layer), model.table("x", "value", layer), layer)
        expected = stock(input_ids=text[None], past_key_values=cache).last_hidden_state[0]
        found = model.trunk(packed([text])).hidden
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_a_closed_gate_changes_nothing_and_moves_no_position(saved, kind):
    model, texts = Model(saved(kind), x=GATED), rows()
    for path, parameter in model.sites.parameters():
        if ".prefix_gate." in path:
            nn.init.zeros_(parameter)
    with torch.no_grad():
        base = Model(saved(kind)).trunk(packed(texts)).hidden
        assert torch.equal(model.trunk(packed(texts)).hidden, base)
    assert model.trunk.num_virtual(()) == 0


def routes(layout, *places):
    return Routing.of(("a", "b", "p"), places, layout)


@pytest.mark.parametrize("make", [packed, padded])
@pytest.mark.parametrize("kind", ["bert", "modernbert", "llama"])
def test_each_row_has_its_own(saved, kind, make):
    """Of other lengths and other methods, beside one that all rows have; and some rows have none of their own."""
    rules = {"shared": PROMPT, "a": PREFIX, "b": PROJECTED, "p": PromptRule(tokens=2), "g": GATED}
    model, texts = Model(saved(kind), **rules), rows()
    names, places = ("a", "b", "p", "g"), (2, NONE, 1, 0)
    for order in (places, (3, 3, 0, NONE)):
        batch = make(texts)
        with torch.no_grad(), routed(model.trunk, Routing.of(names, order, batch.layout)):
            together = model.trunk(batch).flat_TD().split(LENGTHS)
        for row, place in enumerate(order):
            own = {} if place == NONE else {names[place]: rules[names[place]]}
            with torch.no_grad():
                alone = Model(saved(kind), shared=PROMPT, **own).trunk(make([texts[row]])).flat_TD()
            torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "rules"),
    [("bert", {"x": PREFIX, "y": PROMPT}), ("llama", {"x": PREFIX}), ("gpt2", {"g": GATED})],
)
def test_gradients_are_the_same_packed_padded_and_recomputed(saved, kind, rules):
    weights, found = torch.randn(sum(LENGTHS), 16, generator=torch.Generator().manual_seed(2)), []
    for make, how in itertools.product((packed, padded), (Activations.KEEP, Activations.RECOMPUTE)):
        model = Model(saved(kind), **rules)
        model.trunk.activations = how
        (model.trunk(make(rows())).flat_TD() * weights).sum().backward()
        trained = {path: one.grad for path, one in model.sites.parameters() if one.requires_grad}
        assert all(grad is not None and grad.abs().max() > 0 for grad in trained.values())
        found.append(trained)
    for other in found[1:]:
        for path, grad in found[0].items():
            torch.testing.assert_close(other[path], grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "name"), [(PREFIX, "key"), (PROMPT, "word")])
def test_absent_adapters_get_no_gradient(saved, method, name):
    model = Model(saved("bert"), a=method, b=method)
    batch = packed(rows((3, 2)))
    with routed(model.trunk, Routing.of(("a", "b"), (1, NONE), batch.layout)):
        model.trunk(batch).hidden.sum().backward()
    grads = {path: one.grad for path, one in model.sites.parameters() if one.requires_grad}
    assert {path.rsplit(".", 1)[1] for path, grad in grads.items() if grad is not None} == {"b"}
    assert any(name in path for path in grads)


@pytest.mark.parametrize("rules", [{"x": PREFIX}, {"x": PROMPT}, {"x": PREFIX, "y": PROMPT, "g": GATED}])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_last_layer_is_narrowed_all_the_same(saved, kind, rules):
    model, texts = Model(saved(kind), **rules), rows()
    reads_M = torch.tensor([0, 5, 6])
    with torch.no_grad():
        whole = model.trunk(packed(texts)).at_MD(reads_M)
        features = model.trunk(packed(texts, reads_M=reads_M))
    assert len(features.hidden) == 3
    torch.testing.assert_close(features.at_MD(reads_M), whole, rtol=0, atol=1e-5)


def test_a_perturbation_is_of_real_tokens(saved):
    model, texts = Model(saved("bert"), x=PROMPT), rows()
    perturb_TD = torch.randn(sum(LENGTHS), 16, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        together = model.trunk(packed(texts), perturb=perturb_TD).hidden
        alone = model.trunk(packed(texts[:1]), perturb=perturb_TD[:5]).hidden
        assert torch.equal(
            model.trunk(packed(texts), perturb=0 * perturb_TD).hidden, model.trunk(packed(texts)).hidden
        )
    torch.testing.assert_close(together[:5], alone, rtol=0, atol=1e-5)
    assert (alone - model.trunk(packed(texts[:1])).hidden).abs().max() > 0.1


def how(max_new_tokens, stop, **options):
    return Decoding(max_new_tokens=max_new_tokens, stop_tokens=(stop,), **options)


@pytest.mark.parametrize("rules", [{"x": PREFIX}, {"x": PROMPT}, {"x": GATED}, {"x": PROMPT, "y": PROJECTED}])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_generation_step_by_step_is_the_trunk_token_by_token(saved, kind, rules):
    model = Model(saved(kind, "AutoModelForCausalLM"), lm=True, **rules)
    head = model.trunk.model.get_output_embeddings()
    prompts = [[5, 6, 7, 8, 9], [5], [9, 4, 11]]
    answers = model.trunk.generate(prompts, how(6, 2))
    for prompt, answer in zip(prompts, answers, strict=True):
        text = list(prompt)
        with torch.no_grad():
            for token in [*answer, 2][:6]:
                logits = head(model.trunk(packed([torch.tensor(text)])).hidden[-1])
                assert logits[token] >= logits.max() - 1e-4
                text.append(token)


def test_generation_goes_through_a_tasks_own_adapter(saved):
    folder = saved("llama", "AutoModelForCausalLM")
    model = Model(folder, lm=True, a=PREFIX, p=PROMPT)
    model.network.routes = {"one": "a", "two": "p"}
    decoding = how(5, 2)
    for task, own in (("one", {"a": PREFIX}), ("two", {"p": PROMPT}), ("three", {})):
        single = Model(folder, lm=True, **own)
        prompts = [[5, 6], [7]]
        assert model.network.generate(task, prompts, decoding) == single.trunk.generate(prompts, decoding)


def test_an_answer_ends_where_positions_do(saved):
    folder = saved("gpt2", "AutoModelForCausalLM")
    for rules in ({"x": PREFIX}, {"x": PROMPT}):
        model = Model(folder, lm=True, **rules)
        (answer,) = model.trunk.generate([[5] * 30], how(20, 59))
        assert len(answer) <= 40 - 30 - 3
        assert model.trunk.generate([[5] * 37], how(20, 59)) == [[]]


@pytest.mark.parametrize("make", [packed, padded])
@pytest.mark.parametrize("rule", [PREFIX, PROMPT])
def test_rows_must_leave_room(saved, rule, make):
    model = Model(saved("bert"), x=rule)
    assert model.trunk.num_virtual(()) == 3
    with torch.no_grad():
        model.trunk(make(rows((37,))))
        with pytest.raises(ModelError, match="at most 37 tokens behind 3 virtual ones"):
            model.trunk(make(rows((38,))))


def test_what_cannot_take_keys_says_why(saved):
    views = {kind: Model(saved(kind)).sites.view for kind in ("bert", "distilbert", "mpnet", "modernbert")}
    assert views["bert"].unprefixed == {}
    assert "cannot be given keys" in views["distilbert"].unprefixed[""]
    assert views["mpnet"].words == "embeddings.word_embeddings"
    assert views["modernbert"].unprefixed == {}  # no row outgrows its window
    wide = {"model_type": "modernbert", "local_attention": 8, "max_position_embeddings": 40}
    kinds = ["full_attention", "sliding_attention"]
    assert list(unprefixed(wide | {"layer_types": kinds}, looks_up=True)) == ["layers.1.attention"]
    mistral = {"model_type": "mistral", "sliding_window": 16, "max_position_embeddings": 40}
    assert "window of 16 tokens" in unprefixed(mistral, looks_up=True)[""]
    assert unprefixed(mistral | {"max_position_embeddings": 16}, looks_up=True) == {}


def test_a_model_that_is_told_no_positions_is_refused(saved):
    stock = AutoModelForCausalLM.from_pretrained(saved("llama", "AutoModelForCausalLM").path)
    with shifted(stock.model, 3), pytest.raises(ModelError, match="must be told positions"):
        stock(torch.tensor([[5, 6]]))


@pytest.mark.parametrize("kind", LOOKED_UP)
def test_the_modules_whose_parts_make_keys_are_found(saved, kind):
    trunk = load_trunk(saved(kind), wants_lm_head=False, dropout=0.0, device=torch.device("cpu"))
    table = name_table(trunk.backbone.config.to_dict())
    found = attentions_of(trunk.backbone, table, "layers.{i}.attention")
    assert len(found) == 2
    names = {name for part in found for name, _ in part.named_children()}
    assert names & {"key", "k_proj", "Wqkv", "c_attn"}
