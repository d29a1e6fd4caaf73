"""What an objective is: it turns a batch, and as many forward passes as it asks for, into one loss a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from weft.core.batch import Batch
from weft.core.loss import Loss


class Forward(Protocol):
    """One pass of the network; ``weft.core.network.Network`` is one."""

    def __call__(self, batch: Batch, /, *, perturb: Tensor | None = None) -> Mapping[str, Any]:
        """Return each task's outputs (``weft.core.outputs``); ``perturb`` is added to the input embeddings."""
        ...


class Objective(Protocol):
    """What a stage minimises. It may call ``forward`` twice, or with a perturbation of the embeddings."""

    def __call__(self, batch: Batch, forward: Forward, /) -> dict[str, Loss]:
        """Return the summed loss and the weight of every task in ``batch.targets``."""
        ...
