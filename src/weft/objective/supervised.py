"""The plain objective: one forward pass, each task's own loss on its own outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from weft.core.batch import Batch, Target
from weft.core.loss import Loss
from weft.objective.base import Forward


@dataclass(frozen=True, slots=True)
class Supervised:
    """Every task's loss from one shared forward pass.

    Attributes:
        losses: by task name, ``(outputs, target) -> Loss``; the ``loss`` methods of the fitted tasks.
    """

    losses: Mapping[str, Callable[[Any, Target], Loss]]

    def __call__(self, batch: Batch, forward: Forward, /) -> dict[str, Loss]:
        """Return one loss a task of ``batch.targets``."""
        outputs = forward(batch)
        return {name: self.losses[name](outputs[name], target) for name, target in batch.targets.items()}
