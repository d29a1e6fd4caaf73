"""What a run tells while it goes on. The command line shows these; a notebook may ignore them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from weft.report.records import DataReport, EvalReport, RunReport, StagePlan, StageReport, StepReport


@dataclass(frozen=True, slots=True)
class DataRead:
    """All data files are read and encoded."""

    kind: ClassVar[str] = "data"
    report: DataReport


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage is entered; ``step`` is where it goes on (0 when it is new)."""

    kind: ClassVar[str] = "stage"
    plan: StagePlan
    step: int
    entry_difference: float | None
    rejected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stepped:
    """The steps since the last such event, averaged; ``done`` is the finished share of the stage."""

    kind: ClassVar[str] = "step"
    report: StepReport
    done: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Dev scores were taken; ``is_best`` says whether they are the best of the stage so far."""

    kind: ClassVar[str] = "evaluation"
    report: EvalReport
    is_best: bool


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint to resume from was written."""

    kind: ClassVar[str] = "checkpoint"
    path: Path
    step: int


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage handed on its parts."""

    kind: ClassVar[str] = "stage finished"
    report: StageReport


@dataclass(frozen=True, slots=True)
class Finished:
    """The run is over: bundle and reports are written."""

    kind: ClassVar[str] = "finished"
    report: RunReport
    folder: Path


Event = DataRead | StageStarted | Stepped | Evaluated | Saved | StageFinished | Finished
