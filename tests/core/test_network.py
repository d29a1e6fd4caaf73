"""One trunk pass serves every task; sites map to modules and parameters exactly once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from weft.core.batch import Batch, Target
from weft.core.decoding import Decoding
from weft.core.features import Features, Pooling
from weft.core.layout import Layout
from weft.core.network import Heard, Inference, Network
from weft.core.routing import Routable, Routing
from weft.core.seeds import fold
from weft.core.sites import SiteMap
from weft.core.view import ModelView, ParamInfo, Site, SiteKind
from weft.errors import SiteError, StrategyError


class CountingTrunk(nn.Module):
    """An embedding that counts its passes; its output layer shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.words = nn.Embedding(7, 4)
        self.model.output = nn.Linear(4, 7, bias=False)
        self.model.output.weight = self.model.words.weight
        self.passes = 0

    def forward(self, batch: Batch, *, perturb: Tensor | None = None) -> Features:
        self.passes += 1
        hidden = self.model.words(batch.tokens)
        return Features(hidden if perturb is None else hidden + perturb, batch.layout)


class RowHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 2)

    def forward(self, features: Features, target: Target) -> Tensor:
        return self.out(features.mean_BD()[target.rows_R])


def network() -> Network:
    torch.manual_seed(0)
    return Network(CountingTrunk(), {"mood": RowHead(), "topic": RowHead()})


def view() -> ModelView:
    words = ParamInfo("embeddings.word.weight", (7, 4))
    output = ParamInfo("lm_head.weight", (7, 4), tied_to=words.path)
    heads = [
        Site(
            f"heads.{name}.out",
            SiteKind.LINEAR,
            f"heads.{name}.out",
            (ParamInfo(f"heads.{name}.out.weight", (2, 4)), ParamInfo(f"heads.{name}.out.bias", (2,))),
        )
        for name in ("mood", "topic")
    ]
    trunk = [
        Site("embeddings.word", SiteKind.EMBEDDING, "words", (words,)),
        Site("lm_head", SiteKind.LINEAR, "output", (output,)),
    ]
    return ModelView("toy", (*trunk, *heads), {"": 0})


def batch() -> Batch:
    rows = torch.tensor([1, 0])
    targets = {name: Target(rows, {}, 2.0, 2) for name in ("mood", "topic")}
    return Batch(torch.tensor([[1, 2], [3, 0]]), None, Layout.padded([2, 1]), targets, ("f:1", "f:2"))


def test_one_pass_serves_both_tasks() -> None:
    net = network()
    outputs = net(batch())
    assert list(outputs) == ["mood", "topic"]
    assert net.trunk.passes == 1
    expected = net.heads["mood"].out(net.trunk.model.words(torch.tensor([3])))
    assert torch.allclose(outputs["mood"][0], expected[0])


def test_inference_passes_the_trunk_once_and_only_when_asked() -> None:
    net = network()
    inference = Inference(net, batch())
    assert net.trunk.passes == 0
    assert torch.equal(inference.outputs("mood"), net(batch(), tasks=["mood"])["mood"])
    inference.outputs("topic")
    assert net.trunk.passes == 2  # one of the inference, one of the comparison above


def test_perturbation_reaches_the_trunk() -> None:
    net = network()
    plain = net.features(batch()).hidden
    moved = net.features(batch(), perturb=torch.ones(2, 2, 4)).hidden
    assert torch.allclose(moved - plain, torch.ones(2, 2, 4))


def test_parameters_come_once_without_tied_aliases() -> None:
    net = network()
    paths = [path for path, _ in SiteMap(net, view()).parameters()]
    heads = [f"heads.{name}.out.{kind}" for name in ("mood", "topic") for kind in ("weight", "bias")]
    assert paths == ["embeddings.word.weight", *heads]
    assert len(paths) == len(list(net.parameters()))


def test_a_site_can_be_replaced_and_an_unknown_one_is_named() -> None:
    sites = SiteMap(network(), view())
    wider = nn.Embedding(9, 4)
    sites.replace("embeddings.word", wider)
    assert sites.module("embeddings.word") is wider
    with pytest.raises(SiteError, match=r"Did you mean 'embeddings\.word'"):
        sites.module("embeddings.words")


def test_fold_depends_on_every_key_and_its_type() -> None:
    seeds = {
        fold(0),
        fold(1),
        fold(0, "a"),
        fold(0, "b"),
        fold(0, 1),
        fold(0, "1"),
        fold(0, "a", "b"),
        fold(0, "ab"),
    }
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert fold(0, "dropout", 3) == 7_843_292_026_817_520_709  # the same on every machine, for ever


class Sited(Routable):
    """A linear layer that remembers what it was routed by."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Routing | None] = []

    @property
    def adapter_names(self) -> tuple[str, ...]:
        return ("a", "b")

    def forward(self, states: Tensor) -> Tensor:
        self.seen.append(self.routing)
        return states


class SitedTrunk(CountingTrunk):
    def __init__(self) -> None:
        super().__init__()
        self.model.site = Sited()

    def forward(self, batch: Batch, *, perturb: Tensor | None = None) -> Features:
        features = super().forward(batch, perturb=perturb)
        return replace(features, states=self.model.site(features.hidden), pooler=self.model.site)

    def generate(
        self, prompts: list[list[int]], how: Decoding, *, heard: Heard | None = None
    ) -> list[list[int]]:
        self.model.site(torch.zeros(len(prompts), how.max_new_tokens, how.stop_tokens[0]))
        if heard is not None:
            heard(7)
        return prompts


def test_the_pass_the_pooler_and_generation_are_routed_by_task() -> None:
    net = Network(SitedTrunk(), {"mood": RowHead(), "topic": RowHead()})
    seen = net.trunk.model.site.seen
    net.features(batch())
    how, said = Decoding(max_new_tokens=2, stop_tokens=(3,)), list[int]()
    assert net.generate("mood", [[1]], how) == [[1]]
    assert seen == [None, None]
    net.routes = {"mood": ("b",), "topic": ("b",)}
    features = net.features(batch())
    features.pooled_BD(Pooling.POOLER)
    net.generate("topic", [[1]], how, heard=said.append)
    net.generate("other", [[1]], how)
    assert said == [7]
    assert [routing.rows for routing in seen[2:]] == [(0, 0), (0, 0), (0,), (-1,)]
    assert net.trunk.model.site.routing is None


def test_an_output_embedding_with_adapters_cannot_be_routed() -> None:
    net = Network(SitedTrunk(), {"mood": RowHead(), "topic": RowHead()})
    net.routes = {"mood": ("a",), "topic": ("a",)}
    plain = net.trunk.forward
    net.trunk.forward = lambda batch, *, perturb=None: replace(plain(batch), project=Sited())
    with pytest.raises(StrategyError, match="lm_head: must have no adapter"):
        net.features(batch())
