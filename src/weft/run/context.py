"""What every stage of a run shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from weft.build.data import Data, read_data
from weft.build.estimate import Machine, measure
from weft.build.network import META, Base, open_base
from weft.core.parts import Parts
from weft.core.view import ModelView
from weft.export.parts import load_parts
from weft.model.device import pick_device, pick_precision, set_products
from weft.model.tokenizer import HFTokenizer, load_tokenizer
from weft.native.memory import keep_freed_memory
from weft.recipe.spec import Recipe, StageSpec
from weft.run.folder import RunFolder
from weft.run.log import Log
from weft.run.stopping import StopFlag


@dataclass(frozen=True, slots=True)
class Context:
    """A run's recipe with everything that was opened for it.

    Attributes:
        recipe: what to do.
        folder: where to write.
        log: its log.
        base: the pretrained model.
        tokenizer: of the model.
        data: every task's examples.
        machine: rate and arithmetic, for the plan.
        device: of networks.
        stop: set when somebody wants the run to stop.
    """

    recipe: Recipe
    folder: RunFolder
    log: Log
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
        return {"recipe": self.recipe.digest(), "data": self.data.digest, "base": self.base.digest}

    def base_view(self) -> ModelView:
        """Return the sites of the base model without heads, for the names that files use."""
        return self.base.sites(self.base.network({}, device=META)).view

    def parts_of(self, stage: StageSpec) -> Parts:
        """Return what the finished ``stage`` hands on."""
        return load_parts(self.folder.final(stage.name), self.base_view())


def open_context(recipe: Recipe, folder: RunFolder, *, root: Path, stop: StopFlag) -> Context:
    """Return ``recipe`` opened: its model found, its data read; no weights are loaded yet."""
    base = open_base(recipe, root=root)
    tokenizer = load_tokenizer(base.folder, max_tokens=recipe.model.max_tokens)
    device = pick_device()
    set_products(recipe.precision)
    keep_freed_memory()
    return Context(
        recipe=recipe,
        folder=folder,
        log=Log(folder.log),
        base=base,
        tokenizer=tokenizer,
        data=read_data(recipe, tokenizer, root=root),
        machine=measure(device, pick_precision(recipe.precision, device)),
        device=device,
        stop=stop,
    )
