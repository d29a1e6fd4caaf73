"""What every stage of a run shares."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from weft.build.data import Data
from weft.build.estimate import Machine
from weft.build.network import Base
from weft.model.tokenizer import HFTokenizer
from weft.recipe.spec import Recipe
from weft.run.folder import RunFolder
from weft.run.stopping import StopFlag


@dataclass(frozen=True, slots=True)
class Context:
    """A run's recipe with everything that was opened for it.

    Attributes:
        recipe: what to do.
        folder: where to write.
        base: the pretrained model.
        tokenizer: of the model.
        data: every task's examples.
        machine: rate and arithmetic, for the plan.
        device: of networks.
        stop: set when somebody wants the run to stop.
    """

    recipe: Recipe
    folder: RunFolder
    base: Base
    tokenizer: HFTokenizer
    data: Data
    machine: Machine
    device: torch.device
    stop: StopFlag

    @property
    def dtype(self) -> torch.dtype:
        """Arithmetic of matrix products."""
        return self.machine.dtype

    def identity(self) -> dict[str, str]:
        """Return the digests that checkpoints of this run carry and must meet again."""
        return {"recipe": self.recipe.digest(), "data": self.data.digest, "base": self.base.folder.digest}
