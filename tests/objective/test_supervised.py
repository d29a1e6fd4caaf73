"""The plain objective: one forward pass, one loss for each task of the batch."""

from __future__ import annotations

import torch

from weft.core.batch import Batch, Target
from weft.core.layout import Layout
from weft.core.loss import Loss
from weft.core.network import Network
from weft.objective.base import Forward, Objective
from weft.objective.supervised import Supervised


def _target(*rows: int) -> Target:
    return Target(
        torch.tensor(rows), {"labels": torch.tensor(rows)}, weight=float(len(rows)), num_examples=len(rows)
    )


def _batch(**targets: Target) -> Batch:
    tokens = torch.zeros(3, 1, dtype=torch.int64)
    return Batch(tokens, None, Layout.padded([1, 1, 1]), targets, ids=("a", "b", "c"))


def test_each_task_of_the_batch_gets_its_own_loss_from_one_pass():
    passes: list[Batch] = []

    def forward(batch: Batch, /, *, perturb: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        passes.append(batch)
        return {name: target.rows_R.float() for name, target in batch.targets.items()}

    losses = {
        "sum": lambda outputs, target: Loss(outputs.sum(), target.weight),
        "double": lambda outputs, target: Loss(2 * outputs.sum(), target.weight),
        "absent": lambda outputs, target: Loss(outputs[99], 1.0),
    }
    objective: Objective = Supervised(losses)
    batch = _batch(double=_target(1, 2), sum=_target(2))
    found = objective(batch, forward)
    assert passes == [batch]
    assert list(found) == ["double", "sum"]
    assert [(loss.total.item(), loss.weight) for loss in found.values()] == [(6.0, 2.0), (2.0, 1.0)]


def test_a_network_is_a_forward_and_gradients_reach_it():
    class Trunk(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(3.0))

        def forward(self, batch, *, perturb=None):
            return self.weight * batch.tokens.float()

    class Head(torch.nn.Module):
        def forward(self, features, target):
            return (features + 1).sum() * target.rows_R.float() * self.scale

        scale = 2.0

    network: Forward = Network(Trunk(), {"t": Head()})
    batch = _batch(t=_target(1, 2))
    loss = Supervised({"t": lambda outputs, target: Loss(outputs.sum(), target.weight)})(batch, network)["t"]
    assert loss.total.item() == 18.0  # three ones, twice, for rows 1 and 2
    loss.total.backward()
    assert network.trunk.weight.grad.item() == 0.0  # the tokens are zero
