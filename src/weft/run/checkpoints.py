"""What a stage needs to go on, as a checkpoint: trained rows, optimizer state, progress and history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from weft.build.network import load_values, values_of
from weft.build.stage import Entered
from weft.errors import CheckpointError
from weft.report.records import EvalReport, StepReport
from weft.run.context import Context
from weft.train import checkpoint
from weft.train.optimizer import FusedAdamW, load_optimizer_state, optimizer_state
from weft.train.progress import Best, Progress

WEIGHTS, OPTIMIZER, STATE = "trained.safetensors", "optimizer.safetensors", "state.json"


@dataclass(slots=True)
class History:
    """What is kept of a stage for its report; grows with the stage and is part of each checkpoint."""

    best: Best = field(default_factory=Best)
    curve: list[StepReport] = field(default_factory=list[StepReport])
    evaluations: list[EvalReport] = field(default_factory=list[EvalReport])
    seconds_evaluating: float = 0.0
    entry_difference: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the history as JSON values."""
        return {
            "best": self.best.to_json(),
            "curve": [report.model_dump(mode="json") for report in self.curve],
            "evaluations": [report.model_dump(mode="json") for report in self.evaluations],
            "seconds_evaluating": self.seconds_evaluating,
            "entry_difference": self.entry_difference,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> History:
        """Return the history that ``to_json`` wrote."""
        return cls(
            best=Best.from_json(values["best"]),
            curve=[StepReport.model_validate(report) for report in values["curve"]],
            evaluations=[EvalReport.model_validate(report) for report in values["evaluations"]],
            seconds_evaluating=values["seconds_evaluating"],
            entry_difference=values["entry_difference"],
        )


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of one stage of one run."""

    context: Context
    stage: str

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.context.folder.checkpoints(self.stage)

    def save(self, entered: Entered, optimizer: FusedAdamW, progress: Progress, history: History) -> Path:
        """Write a checkpoint after ``progress.step`` steps and remove older ones; the best one stays.

        Raises:
            CheckpointError: it could not be written; earlier ones are whole.
        """
        name = _name(progress.step)
        if (self.folder / name).is_dir() and checkpoint.verify(self.folder / name) is None:
            return self.folder / name
        files = {
            WEIGHTS: values_of(entered.sites, (row.path for row in entered.table.trained())),
            OPTIMIZER: optimizer_state(optimizer),
            STATE: {"progress": progress.to_json(), "history": history.to_json()},
        }
        path = checkpoint.save(self.folder, name, files, about=self.context.identity())
        pinned = () if history.best.step is None else (_name(history.best.step),)
        checkpoint.rotate(self.folder, keep=self.context.recipe.keep, pinned=pinned)
        return path

    def newest(self) -> tuple[Path | None, tuple[str, ...]]:
        """Return the newest checkpoint that verifies, and a line for each newer one that does not.

        Raises:
            CheckpointError: there are checkpoints but none verifies, or it belongs to another recipe, data or model.
        """
        checkpoint.tidy(self.folder)
        path, rejected = checkpoint.newest(self.folder)
        lines = tuple(f"{bad}: {reason}" for bad, reason in rejected)
        if path is None and rejected:
            raise CheckpointError(
                f"{self.folder}: one checkpoint must verify, but none does:\n" + "\n".join(lines) + "\n"
                "Remove the stage's folder to train it from its start."
            )
        if path is not None:
            self._check_identity(path)
        return path, lines

    def restore(self, path: Path, entered: Entered, optimizer: FusedAdamW) -> tuple[Progress, History]:
        """Put the verified checkpoint at ``path`` into network and optimizer; return where the stage is."""
        self.restore_weights(path, entered)
        load_optimizer_state(optimizer, checkpoint.tensors(path, OPTIMIZER))
        state = checkpoint.values(path, STATE)
        return Progress.from_json(state["progress"]), History.from_json(state["history"])

    def restore_weights(self, path: Path, entered: Entered) -> None:
        """Put only the trained rows of the verified checkpoint at ``path`` into the network."""
        load_values(entered.sites, checkpoint.tensors(path, WEIGHTS))

    def restore_best(self, step: int, entered: Entered) -> None:
        """Put the trained rows of the best checkpoint into the network.

        Raises:
            CheckpointError: it does not verify any more.
        """
        path = self.folder / _name(step)
        reason = checkpoint.verify(path)
        if reason is not None:
            raise CheckpointError(
                f"{path}: the best checkpoint must verify, but {reason}. Remove the stage's folder to train it again."
            )
        self.restore_weights(path, entered)

    def optimizer_of_end(self) -> dict[str, Tensor]:
        """Return the optimizer state of the newest checkpoint, for a child that continues it."""
        path, _ = self.newest()
        if path is None:
            raise CheckpointError(f"{self.folder}: an optimizer to continue needs a checkpoint, but there is none.")
        return checkpoint.tensors(path, OPTIMIZER)

    def _check_identity(self, path: Path) -> None:
        ours, theirs = self.context.identity(), checkpoint.about(path)
        changed = sorted(key for key, digest in ours.items() if theirs.get(key) != digest)
        if changed:
            raise CheckpointError(
                f"{path}: must belong to this recipe, data and base model, but {', '.join(changed)} changed since. "
                f"Start a new run, or put back what it was trained on."
            )


def _name(step: int) -> str:
    return f"step-{step:08d}"
