"""What one contestant is told, and the line it answers: the two values that every process of the benchmark shares."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

PREFIX = "FIGURES "
_LOADED = time.time()  # of a process that nobody started with BORN in its environment
BORN = "BENCH_BORN"  # environment: when the process was started, seconds since the epoch


@dataclass(frozen=True)
class Order:
    """One contestant's orders.

    Attributes:
        job: name of the job.
        contestant: name within the job.
        files: folder with the job's data and models, made by ``bench.prepare``; read only.
        work: an empty folder of its own.
        rows: training rows (or prediction rows) to use.
        epochs: passes over them.
        seed: of this round.
        threads: to compute with.
        recipe: further lines of Weft's recipe (levers).
        stage: further keys of its stage, as YAML flow text.
        off: parts of Weft to switch off (``bench.ours.switches``).
    """

    job: str
    contestant: str
    files: Path
    work: Path
    rows: int
    epochs: int
    seed: int
    threads: int
    recipe: tuple[str, ...] = ()
    stage: tuple[str, ...] = ()
    off: tuple[str, ...] = ()

    @classmethod
    def read(cls) -> Self:
        """Return the order on the command line; threads are set."""
        values: dict[str, Any] = json.loads(sys.argv[1])
        for name in ("files", "work"):
            values[name] = Path(values[name])
        for name in ("recipe", "stage", "off"):
            values[name] = tuple(values[name])
        order = cls(**values)
        import torch

        torch.set_num_threads(order.threads)
        return order

    def text(self) -> str:
        """Return the order as one argument."""
        return json.dumps({**asdict(self), "files": str(self.files), "work": str(self.work)})


@dataclass(frozen=True)
class Lap:
    """One timed piece of work: ``seconds`` for ``examples`` examples."""

    name: str
    seconds: float
    examples: int


@dataclass(frozen=True)
class Score:
    """One score with its 95 % interval over ``n`` rows."""

    task: str
    metric: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Figures:
    """What one process measured.

    Attributes:
        laps: timed pieces of work.
        scores: of what was trained, or of the answers given.
        peak_mib: most resident memory of the process until its work was done.
        startup_s: from the start of the process to the end of its first step or answer; 0 if it has none.
        whole_s: the whole process, set by the race.
        foreign: processor cores that other processes kept busy meanwhile, set by the race.
        facts: further numbers that a job is about.
    """

    laps: tuple[Lap, ...]
    scores: tuple[Score, ...] = ()
    peak_mib: float = 0.0
    startup_s: float = 0.0
    whole_s: float = 0.0
    foreign: float = 0.0
    facts: Mapping[str, float] = field(default_factory=dict[str, float])

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """Return the figures that ``report`` wrote."""
        laps = tuple(Lap(**lap) for lap in values.pop("laps"))
        scores = tuple(Score(**score) for score in values.pop("scores"))
        return cls(laps=laps, scores=scores, **values)


@dataclass
class Clock:
    """Laps of one process, and when its first step was done."""

    laps: list[Lap] = field(default_factory=list[Lap])
    startup_s: float = 0.0

    def first(self) -> None:
        """Note the end of the first step; later calls change nothing."""
        if not self.startup_s:
            self.startup_s = since_birth()

    def add(self, name: str, seconds: float, examples: int) -> None:
        """Add a lap; equal names add up."""
        for index, lap in enumerate(self.laps):
            if lap.name == name:
                self.laps[index] = Lap(name, lap.seconds + seconds, lap.examples + examples)
                return
        self.laps.append(Lap(name, seconds, examples))


def since_birth() -> float:
    """Return the seconds since this process was started."""
    return time.time() - float(os.environ.get(BORN, _LOADED))


def peak_mib() -> float:
    """Return the most resident memory of this process so far (not of the one that started it, as getrusage would).

    Where the process computes on a GPU it is the most that was allocated there.
    """
    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def report(
    clock: Clock,
    scores: tuple[Score, ...] | list[Score],
    *,
    peak: float,
    facts: Mapping[str, float] | None = None,
) -> None:
    """Print this process's figures as one line for the race."""
    figures = Figures(tuple(clock.laps), tuple(scores), peak, clock.startup_s, facts=facts or {})
    sys.stdout.write(PREFIX + json.dumps(asdict(figures)) + "\n")
    sys.stdout.flush()
