"""The run folder (DESIGN section 7) and its lock: one writer a run."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from weft.errors import CheckpointError, RecipeError, RunBusyError
from weft.report.records import RunReport
from weft.run.files import remove, tidy, writing

_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths within ``runs/<name>``."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe, resolved: every default spelt out."""
        return self.path / "recipe.yaml"

    @property
    def origin(self) -> Path:
        """JSON: which recipe, data, model, machine and Weft the run belongs to. With it a run begins."""
        return self.path / "origin.json"

    @property
    def plan(self) -> Path:
        """JSON: what every stage was going to do."""
        return self.path / "plan.json"

    @property
    def log(self) -> Path:
        """What happened, line by line (``weft.run.log``)."""
        return self.path / "log.jsonl"

    @property
    def bundle(self) -> Path:
        """What the run is for: a folder that answers every task."""
        return self.path / "bundle"

    @property
    def report(self) -> Path:
        """The report as JSON. With it a run is finished."""
        return self.path / "report.json"

    def stage(self, name: str) -> Path:
        """Return the folder of a stage."""
        return self.path / "stages" / name

    def chosen(self, stage: str) -> Path:
        """JSON: which modules a stage's rules chose when it was entered, with their scores."""
        return self.stage(stage) / "chosen.json"

    def checkpoints(self, stage: str) -> Path:
        """Return the folder of a stage's states to resume from."""
        return self.stage(stage) / "checkpoints"

    def final(self, stage: str) -> Path:
        """Return the folder of what the stage hands on; it exists only when the stage is finished."""
        return self.stage(stage) / "final"

    def predictions(self, split: str, task: str) -> Path:
        """Return the file of the final answers to one split of one task."""
        return self.path / "predictions" / split / f"{task}.jsonl"

    def finished(self) -> RunReport | None:
        """Return the report of the run if it is finished.

        Raises:
            CheckpointError: the report cannot be read.
        """
        if not self.report.is_file():
            return None
        try:
            return RunReport.model_validate_json(self.report.read_bytes())
        except ValidationError as error:
            raise CheckpointError(
                f"{self.report}: must be a report that this version of Weft knows, but {error.error_count()} values are "
                f"not. Use the version that wrote it, or remove it and resume to write it again."
            ) from error

    def check_free(self) -> None:
        """See that nobody else's files are where a new run would write.

        Raises:
            RecipeError: files of a run's names lie here, but no run has been here.
        """
        foreign = [path.name for path in self._contents() if path.exists()]
        if foreign and not (self.path / _LOCK).is_file():
            raise RecipeError(
                [
                    f"{self.path}: a run needs a folder of its own, but here {', '.join(foreign)} would be replaced. "
                    "Name another with --run."
                ]
            )

    def clear(self) -> None:
        """Remove the run, its origin first: whatever is left when this is broken off counts as no run."""
        for path in self._contents():
            remove(path)

    def tidy(self) -> None:
        """Remove what killed processes left half written, checkpoints apart (``Checkpoints.newest``)."""
        for folder in (self.path, *self.path.glob("stages/*"), *self.path.glob("predictions/*")):
            tidy(folder)

    def _contents(self) -> tuple[Path, ...]:
        names = ("report.md", "report.html", "stages", "predictions")
        own = (
            self.report,
            self.bundle,
            self.log,
            self.plan,
            self.recipe,
            *(self.path / name for name in names),
        )
        return (self.origin, *own)

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the run's lock while inside; the folder is made.

        Raises:
            RunBusyError: another process holds it; its process id and host are named.
            CheckpointError: the folder cannot be written.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / _LOCK).open("a+", encoding="utf-8")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise RunBusyError(
                    f"{self.path}: one process works in a run folder, but {file.read().strip() or 'another'} already "
                    f"does. Wait for it or stop it."
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield
