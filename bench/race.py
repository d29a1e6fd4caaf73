"""Running contestants: each in a process of its own, in turn, on a machine that is quiet as far as can be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.kept import add
from bench.machine import QUIET, busy_seconds, wait_for_quiet
from bench.order import BORN, PREFIX, Figures, Order
from bench.table import rotated

ROOT = Path(__file__).parent.parent
Say = Callable[[str], None]


@dataclass(frozen=True)
class Contestant:
    """Somebody who can do a job.

    Attributes:
        module: that is run.
        settings: what is worth knowing of its settings, for the reader.
        share: of the rows that it is given; less than 1 for a slow one, whose time is then scaled.
        environment: further variables.
        recipe: further lines of Weft's recipe.
        stage: further keys of its stage.
        off: parts of Weft to switch off.
    """

    module: str
    settings: str
    share: float = 1.0
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    recipe: tuple[str, ...] = ()
    stage: tuple[str, ...] = ()
    off: tuple[str, ...] = ()


class ContestantError(RuntimeError):
    """A contestant did not do its job."""


def race(
    contestants: Mapping[str, Contestant],
    order: Order,
    *,
    rounds: int,
    patience_s: float,
    figures: Path | None,
    say: Say,
) -> dict[str, list[Figures]]:
    """Return every contestant's figures, round by round; one that fails is said and left out.

    Args:
        contestants: by name.
        order: the job; contestant, work folder and seed are filled in here.
        rounds: how often each one runs; its order rotates.
        patience_s: how long to wait for a quiet machine before each process.
        figures: file that every result is added to as it comes.
        say: told what happens.
    """
    results: dict[str, list[Figures]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name in rotated([name for name in contestants if name in results], number):
            load = wait_for_quiet(patience_s)
            try:
                found = run(contestants[name], replace(order, contestant=name, seed=number))
            except ContestantError as error:
                say(f"  {order.job}, {name}: FAILED, left out: {error}")
                del results[name]
                continue
            results[name].append(found)
            say(f"  {order.job}, round {number + 1}, {name}: {_words(found)}" + _warning(load, found))
            if figures is not None:
                add(figures, found, job=order.job, round=number, contestant=name)
    return results


def run(contestant: Contestant, order: Order) -> Figures:
    """Return the figures of one process.

    Raises:
        ContestantError: it failed; the end of what it printed is in the message.
    """
    with tempfile.TemporaryDirectory() as work:
        share = max(1, round(order.rows * contestant.share))
        told = replace(
            order,
            work=Path(work),
            rows=share,
            recipe=contestant.recipe,
            stage=contestant.stage,
            off=contestant.off,
        )
        own_before, all_before, start = _children_seconds(), busy_seconds(), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", contestant.module, told.text()],
            cwd=ROOT,
            env=environment(order.threads, Path(work)) | dict(contestant.environment),
            capture_output=True,
            text=True,
            check=False,
        )
        whole = time.perf_counter() - start
        own, used = _children_seconds() - own_before, busy_seconds() - all_before
    lines = [line for line in done.stdout.splitlines() if line.startswith(PREFIX)]
    if done.returncode or not lines:
        raise ContestantError((done.stdout + done.stderr)[-1500:])
    found = Figures.of(json.loads(lines[-1].removeprefix(PREFIX)))
    return replace(found, whole_s=whole, foreign=max(0.0, (used - own) / whole))


def environment(threads: int, work: Path) -> dict[str, str]:
    """Return the environment of a process: capped threads, no network, caches that start empty."""
    return {
        **os.environ,
        BORN: repr(time.time()),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "WEFT_CACHE": str(work / "cache"),
        "PYTHONWARNINGS": "ignore",
    }


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _words(found: Figures) -> str:
    laps = ", ".join(f"{lap.name} {lap.seconds:.3g} s" for lap in found.laps)
    return f"{laps}; {found.peak_mib:.0f} MiB; process {found.whole_s:.0f} s"


def _warning(load: float, found: Figures) -> str:
    if max(load, found.foreign) <= QUIET:
        return ""
    return f"  NOT QUIET: {load:.2f} cores busy before, {found.foreign:.2f} by others meanwhile"


def disturbed(results: Mapping[str, Sequence[Figures]]) -> int:
    """Return how many processes ran while others kept more of the machine busy than is quiet."""
    return sum(figures.foreign > QUIET for rounds in results.values() for figures in rounds)
