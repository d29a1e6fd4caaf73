"""Views written by hand, and small networks with a description of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from weft.core.batch import Batch
from weft.core.layout import Layout
from weft.core.network import Network
from weft.core.view import ModelView, ParamInfo, Site, SiteKind
from weft.core.virtual import VirtualTokens, flat, rerouted, stacked, with_tokens
from weft.model.prefixed import attend_padded

LINEAR, CONV1D, EMBEDDING, NORM, OTHER = SiteKind


def make_site(path, kind, shape, *, bias=True, raw=None, tied_to=None):
    """Return a site with a weight of ``shape``, and a bias as long as its output."""
    params = [ParamInfo(f"{path}.weight", shape, tied_to)]
    if bias:
        params.append(ParamInfo(f"{path}.bias", (shape[-1] if kind is CONV1D else shape[0],)))
    return Site(path, kind, raw or path, tuple(params))


def make_head(task, num_labels=3, width=8):
    return make_site(f"heads.{task}.out", LINEAR, (num_labels, width))


def bert_layers(count, prefix="", *, is_decoder=False):
    for i in range(count):
        at, raw = f"{prefix}layers.{i}", f"{prefix}encoder.layer.{i}"
        attentions = ["attention", "cross_attention"] if is_decoder else ["attention"]
        for attention in attentions:
            for part in ("query", "key", "value", "output"):
                yield make_site(
                    f"{at}.{attention}.{part}", LINEAR, (8, 8), raw=f"{raw}.{attention}.self.{part}"
                )
            yield make_site(f"{at}.norm.{attention}", NORM, (8,), raw=f"{raw}.{attention}.LayerNorm")
        yield make_site(f"{at}.ffn.up", LINEAR, (16, 8), raw=f"{raw}.intermediate.dense")
        yield make_site(f"{at}.ffn.down", LINEAR, (8, 16), raw=f"{raw}.output.dense")
        yield make_site(f"{at}.norm.ffn", NORM, (8,), raw=f"{raw}.output.LayerNorm")


@pytest.fixture
def bert() -> ModelView:
    """Return a BERT of 12 layers with two heads."""
    sites = (
        make_site("embeddings.word", EMBEDDING, (50, 8), bias=False, raw="embeddings.word_embeddings"),
        make_site(
            "embeddings.position", EMBEDDING, (20, 8), bias=False, raw="embeddings.position_embeddings"
        ),
        make_site("embeddings.norm", NORM, (8,), raw="embeddings.LayerNorm"),
        *bert_layers(12),
        make_site("pooler", LINEAR, (8, 8), raw="pooler.dense"),
        make_head("sentiment"),
        make_head("entities", 5),
    )
    return ModelView("bert", sites, {"": 12})


@pytest.fixture
def llama() -> ModelView:
    """Return a Llama of 4 layers whose output embedding is its input embedding; no biases; one bare head."""
    sites = [make_site("embeddings.word", EMBEDDING, (50, 8), bias=False, raw="model.embed_tokens")]
    for i in range(4):
        at, raw = f"layers.{i}", f"model.layers.{i}"
        for part, short in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")):
            shape = (4, 8) if part in ("key", "value") else (8, 8)
            sites.append(
                make_site(
                    f"{at}.attention.{part}", LINEAR, shape, bias=False, raw=f"{raw}.self_attn.{short}_proj"
                )
            )
        for part in ("gate", "up"):
            sites.append(
                make_site(f"{at}.ffn.{part}", LINEAR, (16, 8), bias=False, raw=f"{raw}.mlp.{part}_proj")
            )
        sites.append(make_site(f"{at}.ffn.down", LINEAR, (8, 16), bias=False, raw=f"{raw}.mlp.down_proj"))
        sites.append(make_site(f"{at}.norm.attention", NORM, (8,), bias=False, raw=f"{raw}.input_layernorm"))
        sites.append(
            make_site(f"{at}.norm.ffn", NORM, (8,), bias=False, raw=f"{raw}.post_attention_layernorm")
        )
    sites.append(make_site("final_norm", NORM, (8,), bias=False, raw="model.norm"))
    tied = "embeddings.word.weight"
    sites.append(make_site("lm_head", LINEAR, (50, 8), bias=False, raw="lm_head", tied_to=tied))
    return ModelView("llama", tuple(sites), {"": 4})


@pytest.fixture
def gpt2() -> ModelView:
    """Return a GPT-2 of 3 layers: fused query, key and value, transposed weights."""
    sites = [make_site("embeddings.word", EMBEDDING, (50, 8), bias=False, raw="wte")]
    for i in range(3):
        at, raw = f"layers.{i}", f"h.{i}"
        sites += [
            make_site(f"{at}.norm.attention", NORM, (8,), raw=f"{raw}.ln_1"),
            make_site(f"{at}.attention.qkv", CONV1D, (8, 24), raw=f"{raw}.attn.c_attn"),
            make_site(f"{at}.attention.output", CONV1D, (8, 8), raw=f"{raw}.attn.c_proj"),
            make_site(f"{at}.ffn.up", CONV1D, (8, 32), raw=f"{raw}.mlp.c_fc"),
            make_site(f"{at}.ffn.down", CONV1D, (32, 8), raw=f"{raw}.mlp.c_proj"),
        ]
    sites += [make_site("final_norm", NORM, (8,), raw="ln_f"), make_head("sentiment")]
    return ModelView("gpt2", tuple(sites), {"": 3})


@pytest.fixture
def t5() -> ModelView:
    """Return an encoder-decoder with 4 and 2 layers; its stacks share one table of words."""
    sites = (
        make_site("embeddings.word", EMBEDDING, (50, 8), bias=False, raw="shared"),
        make_site("encoder.embeddings.position", EMBEDDING, (20, 8), bias=False),
        *bert_layers(4, "encoder."),
        make_site("encoder.final_norm", NORM, (8,)),
        make_site(
            "decoder.embeddings.word", EMBEDDING, (50, 8), bias=False, tied_to="embeddings.word.weight"
        ),
        *bert_layers(2, "decoder.", is_decoder=True),
        make_site("decoder.final_norm", NORM, (8,)),
        make_head("sentiment"),
    )
    return ModelView("bart", sites, {"encoder.": 4, "decoder.": 2})


@pytest.fixture
def unnamed() -> ModelView:
    """Return a backbone without a name table: sites carry raw names."""
    sites = [make_site("wte", EMBEDDING, (50, 8), bias=False)]
    for i in range(3):
        sites += [
            make_site(f"blocks.{i}.mixer.in_proj", LINEAR, (8, 8)),
            make_site(f"blocks.{i}.mixer.out_proj", LINEAR, (8, 8)),
            make_site(f"blocks.{i}.ln", NORM, (8,)),
        ]
    return ModelView("exotic", (*sites, make_head("sentiment")), {}, has_table=False)


def kind_of(module: nn.Module) -> SiteKind:
    for classes, kind in (
        (nn.Linear, LINEAR),
        (Conv1D, CONV1D),
        (nn.Embedding, EMBEDDING),
        (nn.LayerNorm, NORM),
    ):
        if isinstance(module, classes):
            return kind
    return NORM if type(module).__name__.endswith("RMSNorm") else OTHER


def site_modules(root: nn.Module):
    """Yield every module that owns parameters; parameter dictionaries belong to the module that has them."""
    for name, module in root.named_modules():
        is_own = any(True for _ in module.named_parameters(recurse=False))
        if is_own and not isinstance(module, nn.ParameterDict):
            yield name, module


def describe_with(canonical: Callable[[str], str], architecture: str, num_layers: dict[str, int]):
    """Return a ``describe`` that names the trunk's modules by ``canonical``."""

    def describe(network: Network) -> ModelView:
        owners: dict[int, str] = {}
        sites: list[Site] = []
        trunk = [(canonical(raw), raw, module) for raw, module in site_modules(network.trunk.model)]
        heads = [(f"heads.{raw}", raw, module) for raw, module in site_modules(network.heads)]
        for path, raw, module in (*trunk, *heads):
            params = []
            for local, parameter in module.named_parameters():
                owner = owners.setdefault(id(parameter), f"{path}.{local}")
                tied_to = None if owner == f"{path}.{local}" else owner
                params.append(ParamInfo(f"{path}.{local}", tuple(parameter.shape), tied_to))
            sites.append(Site(path, kind_of(module), raw, tuple(params)))
        return ModelView(architecture, tuple(sites), num_layers)

    return describe


class Scale(nn.Module):
    """A site of kind OTHER."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, 1))

    def forward(self, x):
        return x * self.weight[:, 0]


class ToyModel(nn.Module):
    """One site of every kind in each of two layers, under canonical names, with a tied output embedding."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.ModuleDict({"word": nn.Embedding(11, 8), "position": nn.Embedding(11, 8)})
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "attention": nn.ModuleDict({"query": nn.Linear(8, 8), "qkv": Conv1D(24, 8)}),
                    "ffn": nn.ModuleDict({"up": nn.Linear(8, 16, bias=False), "down": Conv1D(8, 16)}),
                    "norm": nn.ModuleDict({"ffn": nn.LayerNorm(8)}),
                    "gain": Scale(8),
                }
            )
            for _ in range(2)
        )
        self.lm_head = nn.Linear(8, 11, bias=False)
        self.lm_head.weight = self.embeddings["word"].weight

    def forward(self, tokens_BL):
        """Return states and logits of the tokens, virtual positions in front of them as methods want it."""
        words, (rows, length) = self.embeddings["word"], tokens_BL.shape
        batch = Batch(tokens_BL, None, Layout.padded([length] * rows), {}, ("",) * rows)
        if not isinstance(words, VirtualTokens):
            hidden = self.states(batch)
        else:
            stack = stacked(words.virtual_tokens(), words.routing, rows)
            longer, _, place_T = with_tokens(batch, stack.rows, vocabulary=words.num_embeddings)
            with rerouted(self.modules(), stack.counts):
                hidden = flat(self.states(longer), longer.layout)[place_T].view(rows, length, -1)
        return hidden, self.lm_head(hidden)

    def states(self, batch):
        positions_BL = torch.arange(batch.tokens.shape[1]).expand_as(batch.tokens) % 11
        hidden = self.embeddings["word"](batch.tokens) + self.embeddings["position"](positions_BL)
        mask = batch.layout.mask_BL()[:, None, None].expand(-1, 1, batch.tokens.shape[1], -1)
        for layer in self.layers:
            mixed = layer["attention"]["qkv"](torch.tanh(layer["attention"]["query"](hidden)))
            q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in mixed.split(8, dim=-1))
            seen = attend_padded(layer["attention"], q, k, v, mask)[0].flatten(2)
            hidden = hidden + layer["ffn"]["down"](
                torch.tanh(layer["ffn"]["up"](seen + v.transpose(1, 2).flatten(2)))
            )
            hidden = layer["gain"](layer["norm"]["ffn"](hidden))
        return hidden


class Trunk(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


class OutHead(nn.Module):
    def __init__(self, width, num_labels):
        super().__init__()
        self.out = nn.Linear(width, num_labels)


def toy_network(seed: int = 0) -> Network:
    """Return a network of two layers and heads ``a`` and ``b``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ToyModel()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)
        return Network(Trunk(model), {"a": OutHead(8, 3), "b": OutHead(8, 2)})


def toy_outputs(network: Network) -> torch.Tensor:
    """Return everything that the toy computes for some fixed tokens, as one vector."""
    tokens_BL = torch.arange(22).reshape(2, 11) % 11
    hidden, logits = network.trunk.model(tokens_BL)
    heads = [head.out(hidden).flatten() for head in network.heads.values()]
    return torch.cat([logits.flatten(), *heads])


BERT_NAMES = (
    (r"encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)", r"layers.\1.attention.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense", r"layers.\1.attention.output"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm", r"layers.\1.norm.attention"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense", r"layers.\1.ffn.up"),
    (r"encoder\.layer\.(\d+)\.output\.dense", r"layers.\1.ffn.down"),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm", r"layers.\1.norm.ffn"),
    (r"embeddings\.(word|position|token_type)_embeddings", r"embeddings.\1"),
    (r"embeddings\.LayerNorm", "embeddings.norm"),
    (r"pooler\.dense", "pooler"),
)
LLAMA_NAMES = (
    (r"model\.layers\.(\d+)\.self_attn\.(\w)_proj", r"layers.\1.attention.\2"),
    (r"model\.layers\.(\d+)\.mlp\.(\w+)_proj", r"layers.\1.ffn.\2"),
    (r"model\.layers\.(\d+)\.input_layernorm", r"layers.\1.norm.attention"),
    (r"model\.layers\.(\d+)\.post_attention_layernorm", r"layers.\1.norm.ffn"),
    (r"model\.embed_tokens", "embeddings.word"),
    (r"model\.norm", "final_norm"),
)
GPT2_NAMES = (
    (r"h\.(\d+)\.attn\.c_attn", r"layers.\1.attention.qkv"),
    (r"h\.(\d+)\.attn\.c_proj", r"layers.\1.attention.output"),
    (r"h\.(\d+)\.mlp\.c_fc", r"layers.\1.ffn.up"),
    (r"h\.(\d+)\.mlp\.c_proj", r"layers.\1.ffn.down"),
)


def by_table(table):
    def canonical(raw: str) -> str:
        for pattern, name in table:
            if re.fullmatch(pattern, raw):
                return re.sub(pattern, name, raw)
        return raw

    return canonical


@pytest.fixture
def toy() -> SimpleNamespace:
    """Return ``network()``, ``describe(network)`` and ``outputs(network)`` of the toy."""
    return SimpleNamespace(
        network=toy_network, describe=describe_with(lambda raw: raw, "toy", {"": 2}), outputs=toy_outputs
    )


@pytest.fixture
def real() -> SimpleNamespace:
    """Return makers of networks around transformers models, with a ``describe`` for each architecture."""
    return SimpleNamespace(
        network=lambda model: Network(Trunk(model), {"t": OutHead(model.config.hidden_size, 3)}),
        bert=describe_with(by_table(BERT_NAMES), "bert", {"": 2}),
        llama=describe_with(by_table(LLAMA_NAMES), "llama", {"": 2}),
        gpt2=describe_with(by_table(GPT2_NAMES), "gpt2", {"": 2}),
    )


@pytest.fixture
def choose(monkeypatch):
    """Return ``choose(native)``: whether low-rank updates may go through the compiled kernels."""

    def use(native: bool) -> None:
        if not native:
            monkeypatch.setattr("weft.native.low_rank.thin", lambda *_: None)

    return use
