"""A view names every parameter once, whether the network is real or empty, plain or with adapters at its sites."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from weft.core.network import Network
from weft.core.sites import SiteMap
from weft.core.view import ParamInfo, SiteKind
from weft.errors import ModelError, SiteError
from weft.model.describe import describe
from weft.model.trunk import empty_trunk, load_trunk

CPU = torch.device("cpu")
KINDS = ["bert", "roberta", "electra", "distilbert", "modernbert", "mpnet", "llama", "qwen3", "gpt2"]
WITHOUT_TABLE = {"mpnet"}


class Factored(nn.Linear):
    """A linear with factors beside its weight, as LoRA leaves it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None)
        self.weight, self.bias = base.weight, base.bias
        self.lora_A = nn.ParameterDict({"one": nn.Parameter(torch.zeros(2, base.in_features))})
        self.lora_B = nn.ParameterDict({"one": nn.Parameter(torch.zeros(base.out_features, 2))})


class Scaled(nn.Module):
    """A head with parameters of its own and a child's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.out = nn.Linear(16, 1)


def heads():
    two_step = nn.ModuleDict({"dense": nn.Linear(16, 8), "out": nn.Linear(8, 3)})
    return {"tags": two_step, "score": Scaled(), "text": nn.Identity()}


def network(folder, *, lm=False, empty=False):
    make = empty_trunk if empty else load_trunk
    with torch.device("meta" if empty else "cpu"):
        own = heads()
    return Network(make(folder, wants_lm_head=lm, dropout=0.0, device=CPU), own)


def distinct(net):
    return {id(parameter) for parameter in net.parameters()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty", [False, True])
def test_the_view_covers_every_parameter_exactly_once(saved, kind, empty):
    net = network(saved(kind), empty=empty)
    view = describe(net)
    pairs = list(SiteMap(net, view).parameters())
    assert len(pairs) == len({path for path, _ in pairs}) == len({id(p) for _, p in pairs})
    assert {id(parameter) for _, parameter in pairs} == distinct(net)
    infos = {info.path: info for site in view.sites for info in site.params if info.tied_to is None}
    assert {path: tuple(p.shape) for path, p in pairs} == {path: info.shape for path, info in infos.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_empty_network_looks_like_the_real_one(saved, kind):
    assert describe(network(saved(kind), empty=True)) == describe(network(saved(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_counted_where_there_is_a_table(saved, kind):
    view = describe(network(saved(kind)))
    assert view.architecture == kind
    assert view.has_table == (kind not in WITHOUT_TABLE)
    assert view.num_layers == ({} if kind in WITHOUT_TABLE else {"": 2})


def test_a_model_without_a_table_keeps_raw_names(saved):
    view = describe(network(saved("mpnet")))
    paths = [site.path for site in view.sites if not site.path.startswith("heads.")]
    assert "encoder.layer.1.attention.attn.q" in paths
    assert paths == [site.raw for site in view.sites][: len(paths)]


def test_kinds_follow_what_stands_there(saved):
    kinds = {site.path: site.kind for site in describe(network(saved("gpt2"))).sites}
    assert kinds["embeddings.word"] is kinds["embeddings.position"] is SiteKind.EMBEDDING
    assert kinds["layers.0.attention.qkv"] is kinds["layers.1.ffn.down"] is SiteKind.CONV1D
    assert kinds["layers.0.norm.ffn"] is kinds["final_norm"] is SiteKind.NORM
    assert kinds["heads.tags.out"] is SiteKind.LINEAR
    assert kinds["heads.score"] is SiteKind.OTHER
    bert = {site.path: site.kind for site in describe(network(saved("bert"))).sites}
    assert bert["pooler"] is bert["layers.0.attention.query"] is SiteKind.LINEAR
    llama = {site.path: site.kind for site in describe(network(saved("llama"))).sites}
    assert llama["layers.0.norm.attention"] is SiteKind.NORM


def test_heads_come_last_and_own_what_is_in_them(saved):
    view = describe(network(saved("bert")))
    last = [site.path for site in view.sites][-3:]
    assert last == ["heads.tags.dense", "heads.tags.out", "heads.score"]
    assert [info.path for info in view.sites[-1].params] == [
        "heads.score.scale",
        "heads.score.out.weight",
        "heads.score.out.bias",
    ]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("empty", [False, True])
def test_tied_embeddings_have_one_owner(saved, tied, empty):
    folder = saved("qwen3", "AutoModelForCausalLM", tie_word_embeddings=tied)
    net = network(folder, lm=True, empty=empty)
    view = describe(net)
    sites = {site.path: site for site in view.sites}
    owner = "embeddings.word.weight" if tied else None
    assert sites["lm_head"].params == (ParamInfo("lm_head.weight", (60, 16), owner),)
    assert sites["embeddings.word"].raw == "model.embed_tokens"
    assert sites["layers.1.ffn.gate"].raw == "model.layers.1.mlp.gate_proj"
    paths = [path for path, _ in SiteMap(net, view).parameters()]
    assert ("lm_head.weight" in paths) is not tied
    assert {id(p) for _, p in SiteMap(net, view).parameters()} == distinct(net)


def test_a_site_with_an_adapter_stays_one_site(saved):
    net = network(saved("bert"))
    before = describe(net)
    sites = SiteMap(net, before)
    path = "layers.1.attention.query"
    sites.replace(path, Factored(sites.module(path)))
    after = describe(net)
    assert [site.path for site in after.sites] == [site.path for site in before.sites]
    site = next(site for site in after.sites if site.path == path)
    assert site.kind is SiteKind.LINEAR
    assert site.params == (
        ParamInfo(f"{path}.weight", (16, 16)),
        ParamInfo(f"{path}.bias", (16,)),
        ParamInfo(f"{path}.lora_A.one", (2, 16)),
        ParamInfo(f"{path}.lora_B.one", (16, 2)),
    )
    assert {id(p) for _, p in SiteMap(net, after).parameters()} == distinct(net)


def test_parameters_outside_of_any_module_are_refused(saved):
    net = network(saved("bert"))
    net.trunk.model.extra = nn.Parameter(torch.zeros(1))
    with pytest.raises(ModelError, match="bert: every parameter must belong to a module"):
        describe(net)


def test_site_maps_reach_the_modules_and_say_what_is_near(saved):
    net = network(saved("bert"))
    sites = SiteMap(net, describe(net))
    assert sites.module("pooler") is net.trunk.model.pooler.dense
    assert sites.module("heads.tags.out") is net.heads["tags"]["out"]
    with pytest.raises(SiteError, match=r"Did you mean 'layers\.1\.ffn\.down'"):
        sites.module("layers.1.ffn.dwn")
