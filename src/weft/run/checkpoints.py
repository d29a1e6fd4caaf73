"""What a stage needs to go on, as checkpoints: trained rows, optimizer state, progress and history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from weft.build.network import load_values
from weft.build.stage import Entered
from weft.core.table import ParamTable
from weft.errors import CheckpointError
from weft.report.records import EvalReport, StepReport
from weft.run.context import Context
from weft.run.log import plain
from weft.train import checkpoint
from weft.train.optimizer import FusedAdamW, load_optimizer_state, optimizer_state
from weft.train.progress import Best, Progress

WEIGHTS, OPTIMIZER, STATE = "trained.safetensors", "optimizer.safetensors", "state.json"
_BYTES_A_VALUE = 12  # a weight and two moments, fp32
_BEST_AND_ASIDE = (
    2  # checkpoints that may lie beside those that ``keep`` counts: the best, and the one being written
)


@dataclass(slots=True)
class History:
    """What is kept of a stage for its report; grows with the stage and is part of each checkpoint.

    Attributes:
        best: the best evaluation so far.
        curve: the lines of the log.
        evaluations: on dev.
        seconds_evaluating: that they took.
        entry_difference: what entering the stage changed; None where there was nothing to compare.
        is_owed: whether the evaluation after the last step was broken off: it comes first when the stage goes on.
    """

    best: Best = field(default_factory=Best)
    curve: list[StepReport] = field(default_factory=list[StepReport])
    evaluations: list[EvalReport] = field(default_factory=list[EvalReport])
    seconds_evaluating: float = 0.0
    entry_difference: float | None = None
    is_owed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the history as JSON values."""
        return {
            "best": self.best.to_json(),
            "curve": [plain(report) for report in self.curve],
            "evaluations": [plain(report) for report in self.evaluations],
            "seconds_evaluating": self.seconds_evaluating,
            "entry_difference": self.entry_difference,
            "is_owed": self.is_owed,
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
            is_owed=values["is_owed"],
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

    def preflight(self, table: ParamTable) -> None:
        """See that there is room for all checkpoints that will lie here at a time, what lies here already included.

        Raises:
            CheckpointError: not enough room, or the folder cannot be written.
        """
        num_bytes = _BYTES_A_VALUE * table.num_trained() * (self.context.recipe.keep + _BEST_AND_ASIDE)
        here = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        checkpoint.preflight(self.folder, max(0, num_bytes - here))

    def save(self, entered: Entered, optimizer: FusedAdamW, progress: Progress, history: History) -> Path:
        """Write a checkpoint after ``progress.step`` steps and remove older ones; the best one stays.

        Raises:
            CheckpointError: it could not be written; earlier ones are whole.
        """
        path = self.folder / _name(progress.step)
        if path.is_dir():  # taken up at this very step
            if checkpoint.verify(path) is None:
                return path
            checkpoint.set_aside(path)
        parameters = dict(entered.sites.parameters())
        files = {
            WEIGHTS: {row.path: parameters[row.path].detach() for row in entered.table.trained()},
            OPTIMIZER: optimizer_state(optimizer),
            STATE: {"progress": progress.to_json(), "history": history.to_json()},
        }
        checkpoint.save(self.folder, path.name, files, about=self.context.identity())
        pinned = () if history.best.step is None else (_name(history.best.step),)
        rotation = checkpoint.rotate(self.folder, keep=self.context.recipe.keep, pinned=pinned)
        for old, reason in rotation.failed:  # costs room, nothing else
            self.context.log.append("not removed", {"path": str(old), "reason": reason})
        return path

    def newest(self) -> tuple[Path | None, tuple[str, ...]]:
        """Return the newest checkpoint that can be gone on from, and a line for each newer one that cannot.

        A checkpoint whose best one is lost cannot: the stage could not hand on what it should.

        Raises:
            CheckpointError: there are checkpoints but none can be used, or it belongs to another recipe, data or model.
        """
        checkpoint.tidy(self.folder)
        lines: list[str] = []
        while True:
            path, rejected = checkpoint.newest(self.folder)
            lines += [f"{bad}: {reason}" for bad, reason in rejected]
            if path is None:
                self._check_untouched(lines)
                return None, ()
            reason = self._lost_best(path)
            if reason is None:
                self._check_identity(path)
                return path, tuple(lines)
            lines.append(f"{checkpoint.set_aside(path)}: {reason}")

    def restore(self, path: Path, entered: Entered, optimizer: FusedAdamW) -> tuple[Progress, History]:
        """Put the verified checkpoint at ``path`` into network and optimizer; return where the stage is."""
        load_values(entered.sites, checkpoint.tensors(path, WEIGHTS))
        load_optimizer_state(optimizer, checkpoint.tensors(path, OPTIMIZER))
        state = checkpoint.values(path, STATE)
        return Progress.from_json(state["progress"]), History.from_json(state["history"])

    def restore_weights(self, step: int, entered: Entered) -> None:
        """Put the trained rows as they were after ``step`` steps into the network.

        Raises:
            CheckpointError: that checkpoint does not verify any more.
        """
        load_values(entered.sites, checkpoint.tensors(self._verified(step), WEIGHTS))

    def optimizer_state(self, step: int) -> dict[str, Tensor]:
        """Return the optimizer's state as it was after ``step`` steps, for a child stage that continues it.

        Raises:
            CheckpointError: that checkpoint does not verify any more.
        """
        return checkpoint.tensors(self._verified(step), OPTIMIZER)

    def _verified(self, step: int) -> Path:
        path = self.folder / _name(step)
        if (reason := checkpoint.verify(path)) is not None:
            raise CheckpointError(f"{path}: the best checkpoint must verify, but {reason}. {self._remedy}")
        return path

    def _lost_best(self, path: Path) -> str | None:
        step = Best.from_json(checkpoint.values(path, STATE)["history"]["best"]).step
        if step is None or (reason := checkpoint.verify(self.folder / _name(step))) is None:
            return None
        return f"the best checkpoint, {_name(step)}, is lost ({reason})"

    def _check_untouched(self, lines: Iterable[str]) -> None:
        """Refuse to begin a stage anew in silence, also when the bad checkpoints were renamed by an earlier try."""
        bad = list(lines) or [str(path) for path in sorted(self.folder.glob("*.corrupt*"))]
        if bad:
            raise CheckpointError(
                f"{self.folder}: one checkpoint must verify, but none does:\n"
                + "\n".join(bad)
                + f"\n{self._remedy}"
            )

    @property
    def _remedy(self) -> str:
        return f"Remove {self.folder.parent} and resume to train the stage from its start."

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
