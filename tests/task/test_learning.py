"""One test proves it all for each family: learns a few rows by heart, comes back from disk, answers the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from weft.core.example import Purpose
from weft.model.folder import locate
from weft.model.trunk import load_trunk
from weft.objective.supervised import Supervised
from weft.task.batching import make_batch
from weft.task.registry import FAMILIES


def _trunk(path: Path, *, generates: bool) -> nn.Module:
    folder = locate(str(path), None, root=path)
    return load_trunk(folder, wants_lm_head=generates, dropout=0.0, device=torch.device("cpu"))


def _learn(network, task, encoded, *, steps: int, lr: float) -> float:
    batch = make_batch([(task.name, one) for one in encoded], {task.name: task}, pad=0)
    objective = Supervised({task.name: task.loss})
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.0)
    network.train()
    loss = objective(batch, network)[task.name]
    for _ in range(steps):
        optimizer.zero_grad()
        (loss.total / batch.targets[task.name].weight).backward()
        optimizer.step()
        loss = objective(batch, network)[task.name]
    return loss.total.item() / loss.weight


@pytest.mark.parametrize(
    ("name", "on_decoder"),
    [
        *(
            (name, False)
            for name in (
                "classification",
                "multi_label",
                "pairs",
                "regression",
                "ordinal",
                "choice",
                "tagging",
                "qa",
            )
        ),
        *((name, True) for name in ("classification", "regression", "ordinal", "choice", "generation")),
    ],
)
def test_learns_by_heart_and_comes_back(kit, tiny_bert, stories260k, name, on_decoder):
    bench = kit.bench(name)
    generates = name == "generation"
    path = stories260k if on_decoder else tiny_bert
    tokenizer = kit.story if on_decoder else kit.words
    learn, asked = (bench.task.encode(bench.rows, tokenizer, one) for one in Purpose)
    torch.manual_seed(0)
    network = kit.network(bench.task, trunk=_trunk(path, generates=generates))
    before = kit.answers(network, bench.task, asked)
    loss = _learn(network, bench.task, learn, steps=60, lr=2e-3 if on_decoder else 5e-3)
    assert loss < 0.05
    answers = kit.answers(network, bench.task, asked)
    assert before != answers
    golds = [one.gold for one in asked]
    primary = bench.task.metrics[0]
    assert primary.value(golds, answers) == pytest.approx(primary.best, abs=0.02)

    config = json.loads(json.dumps(bench.task.config()))
    again = FAMILIES[bench.task.kind].from_config(bench.task.name, config)
    restored = kit.network(again, trunk=_trunk(path, generates=generates), seed=99)
    restored.load_state_dict(network.state_dict())
    encoded = again.encode(bench.rows, tokenizer, Purpose.ANSWER)
    assert kit.answers(restored, again, encoded) == answers
