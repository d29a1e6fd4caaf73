"""Two real tasks on a toy trunk that counts its passes: answers depend on the tokens and on nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from weft.core.example import Encoded
from weft.core.features import Features, Pooling
from weft.core.network import Network, TrunkInfo
from weft.task.classification import Classification
from weft.task.regression import Regression
from weft.task.texts import Texts

INFO = TrunkInfo(8, 0, Pooling.MEAN, False, True, False, max_positions=64, init_range=0.5)


class ToyTrunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.info = INFO
        self.model = nn.Embedding(20, 8)
        nn.init.normal_(self.model.weight, generator=torch.Generator().manual_seed(0))
        self.rows: list[int] = []

    def forward(self, batch, *, perturb=None):
        self.rows.append(batch.layout.num_rows)
        return Features(self.model(batch.tokens), batch.layout)


def encoded(tokens, *, target=None, gold=None, where="f:1"):
    return Encoded(tuple(tokens), None, target, gold, where)


@pytest.fixture
def toy():
    """Return tasks, network and a maker of rows."""
    tasks = {
        "mood": Classification(
            "mood", Texts({"text": "text", "pair": None, "label": "label"}), ("bad", "good")
        ),
        "score": Regression(
            "score", Texts({"text": "text", "pair": None, "score": "score"}), mean=2.0, std=1.5
        ),
    }
    heads = {name: task.head(INFO, dropout=0.5, seed=3) for name, task in tasks.items()}
    return SimpleNamespace(tasks=tasks, network=Network(ToyTrunk(), heads).train(), row=encoded)
