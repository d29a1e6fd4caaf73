"""Prompts and prefixes of encoder-decoders beside PEFT: logits, gradients and text are the same, folders go both ways.

PEFT's prefix stands in front of the decoder's own tokens, and where there is an even number of layers it gives two layers
the same keys and never uses the others: that is what it computes, so it is what is compared, and what is read.
"""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSeq2SeqLM, GenerationConfig

from weft.core.batch import Batch, Replies
from weft.core.decoding import Decoding
from weft.core.layout import Layout
from weft.core.network import Network
from weft.core.sites import SiteMap
from weft.errors import StrategyError
from weft.model.decoder import reply_start
from weft.model.describe import describe
from weft.model.folder import inspect
from weft.model.trunk import load_trunk
from weft.strategy import peft_positions
from weft.strategy.adapters import extract, restore
from weft.strategy.prefix import PrefixRule, sides_of
from weft.strategy.prompt import PromptRule
from weft.strategy.registry import adapter_method
from weft.strategy.selector import select_sites

TOLERANCE, TOKENS, HIDDEN = 1e-5, 3, 5
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # PEFT asks under an old name
PLACE = "decoder.self_attention"
RULES = {
    "prompt": PromptRule(tokens=TOKENS),
    "prefix": PrefixRule(tokens=TOKENS, sites=PLACE),
    "prefix, projected": PrefixRule(tokens=TOKENS, sites=PLACE, projection=HIDDEN),
}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "vocab_size": 60, "decoder_start_token_id": 0}
BART = {
    "d_model": 16,
    "vocab_size": 60,
    "max_position_embeddings": 40,
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 32 for side in ("encoder", "decoder")},
}
MODELS = {
    "t5, 2 layers": ("t5", T5 | {"num_layers": 2}),
    "t5, 3 layers": ("t5", T5 | {"num_layers": 3}),
    "umt5, 4 layers": ("umt5", T5 | {"num_layers": 4}),
    "bart, 2 layers": ("bart", BART | {"encoder_layers": 2, "decoder_layers": 2}),
    "bart, 3 layers": ("bart", BART | {"encoder_layers": 3, "decoder_layers": 3}),
}
CELLS = [(model, name) for model in MODELS for name in RULES]
FEW = [(model, name) for model, name in CELLS if model in ("t5, 2 layers", "bart, 3 layers")]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Return the folder of a random model by its name here."""
    known = {}

    def make(name):
        if name not in known:
            kind, options = MODELS[name]
            known[name] = tmp_path_factory.mktemp("model")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                config = AutoConfig.for_model(kind, **options)
                AutoModelForSeq2SeqLM.from_config(config).save_pretrained(known[name])
        return known[name]

    return make


def stock_of(folder):
    return AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager").eval()


def trunk_of(folder, *, lm=True):
    trunk = load_trunk(inspect(folder, name="x"), wants_lm_head=lm, dropout=0.0, device=torch.device("cpu"))
    network = Network(trunk, {})
    network.requires_grad_(requires_grad=False)
    return network, SiteMap(network, describe(network))


def theirs_of(folder, name):
    common = {"num_virtual_tokens": TOKENS, "task_type": "SEQ_2_SEQ_LM"}
    projected = {"prefix_projection": True, "encoder_hidden_size": HIDDEN} if "projected" in name else {}
    config = PromptTuningConfig(**common) if name == "prompt" else PrefixTuningConfig(**common, **projected)
    torch.manual_seed(0)
    wrapped = get_peft_model(stock_of(folder), config).eval()
    if name == "prompt":  # PEFT draws numbers far larger than embeddings are
        wrapped.prompt_encoder["default"].embedding.weight.data.mul_(0.1)
    return wrapped


def tensors_at(sites, path, encoder):
    """Return PEFT's parameters by the names of our tables at one site, each with the dimension and the part of it."""
    if path == sites.view.words:
        return {"prompt": (encoder.embedding.weight, (0, 0, TOKENS))}
    layers, found = sites.view.num_layers["decoder."], {}
    for side in sides_of(path):
        at = 2 * (2 * int(path.split(".")[2]) % layers) + (side == "value")
        if not hasattr(encoder, "transform"):
            width = encoder.embedding.weight.shape[1] // (2 * layers)
            found[f"prefix_{side}"] = (encoder.embedding.weight, (1, at * width, width))
            continue
        width = encoder.embedding.weight.shape[1]
        whole, rows = (0, 0, None), (0, at * width, width)
        found |= {
            f"prefix_{side}": (encoder.embedding.weight, whole),
            f"prefix_{side}_hidden": (encoder.transform[0].weight, whole),
            f"prefix_{side}_hidden_bias": (encoder.transform[0].bias, whole),
            f"prefix_{side}_out": (encoder.transform[2].weight, rows),
            f"prefix_{side}_out_bias": (encoder.transform[2].bias, rows),
        }
    return found


def part(tensor, cut):
    dim, start, count = cut
    return tensor.narrow(dim, start, tensor.shape[dim] if count is None else count)


def put(sites, rule, encoder):
    """Install ``rule`` with PEFT's values; return our parameters with the part of PEFT's that each is equal to."""
    method = adapter_method(rule.train)
    chosen = [sites.view.words] if rule.train == "prompt" else select_sites(sites.view, rule.sites)
    pairs = []
    for path in chosen:
        if not method.stands_at(sites.view, sites.site(path)):
            continue
        method.install(sites, sites.site(path), rule, adapter="x", seed=0)
        for table, (whole, cut) in tensors_at(sites, path, encoder).items():
            ours = getattr(sites.module(path), table)["x"]
            ours.data.copy_(part(whole, cut).detach())
            pairs.append((ours.requires_grad_(), whole, cut))
    return pairs


def batch_of():
    generator = torch.Generator().manual_seed(3)
    lengths, replies = (7, 4, 6), (5, 2, 6)
    rows, said = Layout.padded(lengths), Layout.padded(replies)
    tokens_BL = torch.randint(3, 58, (3, 7), generator=generator) * rows.mask_BL()
    written_RS = torch.randint(3, 58, (3, 6), generator=generator)
    return Batch(tokens_BL, None, rows, {}, tuple("abc"), replies=Replies(written_RS, said, (0, 1, 2)))


def logits_of(network, batch):
    decoder = network.trunk(batch).decoder
    return decoder.project(decoder.flat_TD())


def stock_logits(model, batch):
    told = {"input_ids": batch.tokens, "attention_mask": batch.layout.mask_BL().long()}
    return model(**told, decoder_input_ids=batch.replies.tokens_RL).logits[batch.replies.layout.mask_BL()]


def assert_near(found, expected):
    assert (found - expected).norm() <= TOLERANCE * expected.norm()


@pytest.mark.parametrize(("model_name", "name"), CELLS)
def test_logits_and_gradients_are_those_of_peft(folder_of, model_name, name):
    folder, batch = folder_of(model_name), batch_of()
    wrapped, (network, sites) = theirs_of(folder, name), trunk_of(folder)
    with torch.no_grad():
        base = logits_of(network, batch)
    pairs = put(sites, RULES[name], wrapped.prompt_encoder["default"])
    found, expected = logits_of(network, batch), stock_logits(wrapped, batch)
    assert_near(found, expected)
    assert (found - base).norm() > 1e-3 * base.norm()
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(4))
    for out in (found, expected):
        (out * weights).sum().backward()
    by_whole = {}  # what PEFT shares between layers gets the sum of their gradients
    for ours, whole, cut in pairs:
        part(by_whole.setdefault(id(whole), (whole, torch.zeros_like(whole)))[1], cut).add_(ours.grad)
    for whole, sums in by_whole.values():
        assert whole.grad.norm() > 0
        assert (sums - whole.grad).norm() <= TOLERANCE * whole.grad.norm()


@pytest.mark.parametrize(
    ("model_name", "unused"), [("t5, 2 layers", {1}), ("umt5, 4 layers", {1, 3}), ("t5, 3 layers", set())]
)
def test_what_peft_gives_to_each_layer(folder_of, model_name, unused):
    """Layer i has the pair 2 i modulo the number of layers: an even number leaves every other pair without a gradient."""
    wrapped = theirs_of(folder_of(model_name), "prefix")
    stock_logits(wrapped, batch_of()).square().sum().backward()
    weight = wrapped.prompt_encoder["default"].embedding.weight
    pairs = weight.grad.chunk(weight.shape[1] // 32, dim=1)
    assert {place for place, grad in enumerate(pairs) if not grad.any()} == unused
    cache = wrapped.get_prompt(1)
    table = weight.detach().chunk(2 * len(pairs), dim=1)
    for layer in range(len(pairs)):
        keys_HPE = cache.self_attention_cache.layers[layer].keys[0]
        assert torch.equal(keys_HPE.transpose(0, 1).flatten(1), table[2 * (2 * layer % len(pairs))])


@pytest.mark.parametrize(("model_name", "name"), FEW)
def test_generated_text_is_that_of_peft(folder_of, model_name, name):
    folder, batch = folder_of(model_name), batch_of()
    wrapped, (network, sites) = theirs_of(folder, name), trunk_of(folder)
    put(sites, RULES[name], wrapped.prompt_encoder["default"])
    sources = [
        row[:length].tolist() for row, length in zip(batch.tokens, batch.layout.lengths_B, strict=True)
    ]
    ours = network.trunk.generate(sources, Decoding(max_new_tokens=7, stop_tokens=(58,)))
    stock = wrapped.get_base_model()
    stock.generation_config = GenerationConfig()
    config = GenerationConfig(
        max_new_tokens=7,
        do_sample=False,
        eos_token_id=58,
        pad_token_id=58,
        decoder_start_token_id=reply_start(stock.config),
    )
    for source, answer in zip(sources, ours, strict=True):
        tokens = torch.tensor([source])
        theirs = wrapped.generate(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), generation_config=config
        )
        assert [token for token in theirs[0, 1:].tolist() if token != 58] == answer
    assert any(ours)


@pytest.mark.parametrize(("model_name", "name"), FEW)
def test_folders_go_both_ways(folder_of, tmp_path, model_name, name):
    """Ours gives PEFT keys of its own for each layer, also where PEFT's own folder cannot; PEFT's reads as it computes."""
    folder, batch = folder_of(model_name), batch_of()
    wrapped, (network, sites) = theirs_of(folder, name), trunk_of(folder)
    for number, (ours, _, _) in enumerate(put(sites, RULES[name], wrapped.prompt_encoder["default"])):
        ours.data += 0.1 * torch.randn(ours.shape, generator=torch.Generator().manual_seed(number))
    (state,) = extract(SiteMap(network, describe(network)), ["x"])
    bare, bare_sites = trunk_of(folder)
    known, about = bare_sites.view, {"base": str(folder), "task_type": "SEQ_2_SEQ_LM"}
    peft_positions.write(tmp_path / "x", state, sites=known.sites, **about)
    loaded = PeftModel.from_pretrained(stock_of(folder), str(tmp_path / "x")).eval()
    with torch.no_grad():
        assert_near(stock_logits(loaded, batch), logits_of(network, batch))
    again = peft_positions.read(tmp_path / "x", sites=known.sites, words=known.words)
    if "projected" not in name:
        assert (again.name, again.method, again.config) == (state.name, state.method, state.config)
        assert all(torch.equal(again.tensors[key], tensor) for key, tensor in state.tensors.items())

    wrapped.save_pretrained(tmp_path / "theirs")
    assert peft_positions.is_here(tmp_path / "theirs")
    restore(bare_sites, peft_positions.read(tmp_path / "theirs", sites=known.sites, words=known.words))
    with torch.no_grad():
        assert_near(logits_of(bare, batch), stock_logits(wrapped, batch))


@pytest.mark.parametrize("sites", ["kv", "encoder.kv", "decoder.kv", "decoder.layers[0].self_attention"])
def test_what_peft_cannot_say_is_said(folder_of, tmp_path, sites):
    network, found = trunk_of(folder_of("t5, 2 layers"))
    method, rule = adapter_method("prefix"), PrefixRule(tokens=2, sites=sites)
    for path in select_sites(found.view, sites):
        if method.stands_at(found.view, found.site(path)):
            method.install(found, found.site(path), rule, adapter="x", seed=0)
    (state,) = extract(SiteMap(network, describe(network)), ["x"])
    why = "not in all layers" if "layers" in sites else "in front of a decoder's own tokens alone"
    with pytest.raises(StrategyError, match=why):
        peft_positions.write(
            tmp_path / "x", state, sites=found.view.sites, base="b", task_type="SEQ_2_SEQ_LM"
        )
    assert not (tmp_path / "x").exists()


def saved_of(folder_of, tmp_path, name, *, tensors=None, **config):
    theirs_of(folder_of("t5, 2 layers"), name).save_pretrained(tmp_path / "x")
    path = tmp_path / "x" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if tensors is not None:
        save_file(tensors, tmp_path / "x" / "adapter_model.safetensors")
    return tmp_path / "x"


def test_an_encoder_alone_reads_a_prompt_and_no_prefix(folder_of, tmp_path):
    _, sites = trunk_of(folder_of("t5, 2 layers"), lm=False)
    known = {"sites": sites.view.sites, "words": sites.view.words}
    read = peft_positions.read(saved_of(folder_of, tmp_path / "a", "prompt"), **known)
    (table_PD,) = read.tensors.values()
    whole = load_file(tmp_path / "a" / "x" / "adapter_model.safetensors")["prompt_embeddings"]
    assert whole.shape == (2 * TOKENS, 16)
    assert torch.equal(table_PD, whole[:TOKENS])
    with pytest.raises(StrategyError, match="must be for a decoder that sees its encoder's states"):
        peft_positions.read(saved_of(folder_of, tmp_path / "b", "prefix"), **known)


@pytest.mark.parametrize(
    ("config", "tensors", "said"),
    [
        ({"num_transformer_submodules": 1}, None, r"num_transformer_submodules: 2\), but is not"),
        ({"num_layers": 1}, None, "keys and values of each of 2 layers, but has 64 columns"),
        ({"num_layers": 5}, None, "keys and values of each of 2 layers, but has 64 columns"),
        ({"num_layers": "2"}, None, "keys and values of each of 2 layers"),
        ({"num_virtual_tokens": 6}, None, "must hold prompt_embeddings of 6 positions"),
        (
            {},
            {"prompt_embeddings": torch.zeros(2 * TOKENS, 64)},
            "must hold prompt_embeddings of 3 positions",
        ),
    ],
)
def test_what_does_not_fit_is_refused(folder_of, tmp_path, config, tensors, said):
    folder = saved_of(folder_of, tmp_path, "prefix", tensors=tensors, **config)
    view = trunk_of(folder_of("t5, 2 layers"))[1].view
    with pytest.raises(StrategyError, match=said):
        peft_positions.read(folder, sites=view.sites, words=view.words)
