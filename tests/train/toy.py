"""A network and tasks small enough to compute by hand: rows are tokens, a row's state is its tokens' mean embedding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from weft.core.batch import Batch, Target
from weft.core.example import Encoded
from weft.core.features import Features
from weft.core.layout import Layout
from weft.core.loss import Loss
from weft.core.network import Network
from weft.core.sites import SiteMap
from weft.core.table import ParamRow, ParamTable, Role
from weft.core.view import ModelView, ParamInfo, Site, SiteKind
from weft.objective.supervised import Supervised
from weft.task import batching
from weft.train.engine import Engine
from weft.train.optimizer import make_optimizer

VOCABULARY, WIDTH, CLASSES = 20, 8, 3


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.drop = nn.Dropout(0.0)


class Trunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Model()

    def forward(self, batch: Batch, *, perturb=None) -> Features:
        hidden = self.model.drop(torch.tanh(self.model.mix(self.model.embed(batch.tokens))))
        return Features(hidden, batch.layout)


class Out(nn.Module):
    def __init__(self, outputs: int):
        super().__init__()
        self.out = nn.Linear(WIDTH, outputs)

    def forward(self, features: Features, target: Target):
        return self.out(features.mean_BD()[target.rows_R])

    def reads(self, target: Target, layout: Layout) -> None:
        return None


class Classify:
    """Rows labelled ``target``; the loss is cross entropy."""

    name = "classify"

    def collate(self, encoded, rows, layout: Layout) -> Target:
        labels_R = torch.tensor([one.target for one in encoded])
        return Target(torch.tensor(list(rows)), {"labels_R": labels_R}, float(len(encoded)), len(encoded))

    def loss(self, outputs, target: Target) -> Loss:
        total = F.cross_entropy(outputs.float(), target.values["labels_R"], reduction="sum")
        return Loss(total, target.weight)


class Score:
    """Rows with a number; the loss is the squared error, and a row weighs as much as it has tokens."""

    name = "score"

    def collate(self, encoded, rows, layout: Layout) -> Target:
        values = {
            "golds_R": torch.tensor([float(one.target) for one in encoded]),
            "units_R": torch.tensor([float(len(one.tokens)) for one in encoded]),
        }
        return Target(torch.tensor(list(rows)), values, float(values["units_R"].sum()), len(encoded))

    def loss(self, outputs, target: Target) -> Loss:
        errors_R = (outputs[:, 0].float() - target.values["golds_R"]).square()
        return Loss((errors_R * target.values["units_R"]).sum(), target.weight)


TASKS = {"classify": Classify(), "score": Score()}
SITES = (
    ("embeddings.word", SiteKind.EMBEDDING, "embed"),
    ("layers.0.mix", SiteKind.LINEAR, "mix"),
    ("heads.classify", SiteKind.OTHER, "classify"),
    ("heads.score", SiteKind.OTHER, "score"),
)


def make_network(*, dropout: float = 0.0) -> SiteMap:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = Trunk()
        trunk.model.drop.p = dropout
        network = Network(trunk, {"classify": Out(CLASSES), "score": Out(1)})
    sites: list[Site] = []
    for path, kind, raw in SITES:
        module = network.get_submodule(path if path.startswith("heads.") else "trunk.model." + raw)
        params = tuple(ParamInfo(f"{path}.{name}", tuple(p.shape)) for name, p in module.named_parameters())
        sites.append(Site(path, kind, raw, params))
    return SiteMap(network, ModelView("toy", tuple(sites), {"": 1}))


def make_table(
    sites: SiteMap, *, frozen: str = "nothing", lr: float = 0.01, head_lr: float = 0.02
) -> ParamTable:
    rows: list[ParamRow] = []
    for path, parameter in sites.parameters():
        trained = not path.startswith(frozen)
        parameter.requires_grad_(trained)
        is_head = path.startswith("heads.")
        rows.append(
            ParamRow(
                path=path,
                shape=tuple(parameter.shape),
                role=Role.TRAINED if trained else Role.FROZEN,
                owner="head" if is_head else "trunk",
                why="test",
                lr=(head_lr if is_head else lr) if trained else 0.0,
                decay=trained and parameter.ndim > 1,
            )
        )
    return ParamTable(tuple(rows))


def make_engine(
    sites: SiteMap,
    *,
    table: ParamTable | None = None,
    weights: Mapping[str, float] | None = None,
    clip: float = 1.0,
    losses=None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Engine:
    own = {name: task.loss for name, task in TASKS.items()}
    return Engine(
        sites.network,
        Supervised(own if losses is None else {**own, **losses}),
        optimizer=make_optimizer(table or make_table(sites), sites, decay=0.1),
        weights={"classify": 1.0, "score": 1.0} if weights is None else weights,
        device=torch.device("cpu"),
        dtype=dtype,
        clip=clip,
        seed=(seed, "stage"),
    )


def row(tokens, target, where="x.csv:1") -> Encoded:
    return Encoded(tuple(tokens), None, target, target, where)


def make_rows(task: str, size: int, *, source: str | None = None) -> list[Encoded]:
    """Return ``size`` rows of 1 to 9 tokens; tasks of one source have the same texts in the same order."""
    generator = torch.Generator().manual_seed(sum(map(ord, source or task)))
    rows: list[Encoded] = []
    for line in range(size):
        length = int(torch.randint(1, 10, (), generator=generator))
        tokens = torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
        target = line % CLASSES if task == "classify" else line / size
        rows.append(row(tokens, target, f"{source or task}.csv:{line}"))
    return rows


def make_batch(items, *, packed: bool = False) -> Batch:
    """Return a batch of ``items``, each (task, row)."""
    return batching.make_batch(items, TASKS, pad=0, packed=packed)


def copy_of(sites: SiteMap) -> dict[str, torch.Tensor]:
    return {path: parameter.detach().clone() for path, parameter in sites.parameters()}
