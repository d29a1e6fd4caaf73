"""Killed at any instant, taken up until it ends: the same bits as never killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from weft.run import checkpoints
from weft.run.folder import RunFolder
from weft.train import checkpoint

FAST_KILLS = 4
SLOW_KILLS = 30
MIDDLE = checkpoints.OPTIMIZER
_LONGEST_S = 120.0
PLACES = (
    checkpoints.WEIGHTS,
    checkpoints.OPTIMIZER,
    checkpoints.STATE,
    checkpoint.MANIFEST,
    "rename",
    checkpoint.LATEST,
)

Start = Callable[..., Any]


@pytest.fixture(scope="module")
def start(unbroken: Path) -> Start:
    """Return a function that starts ``child.py``; processes are forked off one that has imported what a run needs."""
    assert unbroken.is_dir()  # a run was made here, so what it imports is known
    rooms = ("weft.", "transformers.models.bert", "sklearn.metrics", "seqeval.", "scipy.stats")
    needed = sorted(
        name for name in sys.modules if name.startswith(rooms) and "transformers_modules" not in name
    )
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([*needed, "torch"])
    child = Path(__file__).with_name("child.py")

    def start(*arguments: object) -> Any:
        names = {"ARGUMENTS": tuple(map(str, arguments))}
        process = server.Process(target=runpy.run_path, args=(str(child), names, "weft_child"))
        process.start()
        return process

    first = start("", "")  # starts the server, which then has its variables
    first.join(_LONGEST_S)
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before
    return start


def finish(process: Any) -> int:
    """Return the exit code of ``process``, which must end by itself."""
    process.join(_LONGEST_S)
    assert process.exitcode is not None, "hangs"
    return process.exitcode


@pytest.fixture
def kill_at_random(start: Start, little: ModuleType, tmp_path: Path) -> Callable[[int, Path, Path], int]:
    """Return a function that kills runs so many times, compares each run that came to its end, and counts these."""

    def kill(number: int, job: Path, unbroken: Path) -> int:
        def check(run: int) -> None:
            assert little.differences(tmp_path / str(run), unbroken) == []
            assert little.answers(tmp_path / str(run)) == little.answers(unbroken)

        instants = random.Random(11)
        begun = time.monotonic()
        assert finish(start(tmp_path / "0", job)) == 0
        longest = time.monotonic() - begun
        check(0)
        run, num_kills = 1, 0
        while num_kills < number:
            process = start(tmp_path / str(run), job)
            process.join(instants.uniform(0.0, longest))
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
            if finish(process) == -signal.SIGKILL:
                num_kills += 1
                continue
            assert process.exitcode == 0
            check(run)
            run += 1
        assert finish(start(tmp_path / str(run), job)) == 0
        check(run)
        left = [path for path in (tmp_path / str(run)).rglob("*") if ".tmp-" in path.name]
        assert left == []
        return run + 1

    return kill


def test_killed_at_random_instants(kill_at_random: Callable[..., int], job: Path, unbroken: Path):
    assert kill_at_random(FAST_KILLS, job, unbroken) >= 2


@pytest.mark.slow
def test_killed_at_many_random_instants(kill_at_random: Callable[..., int], job: Path, unbroken: Path):
    assert kill_at_random(SLOW_KILLS, job, unbroken) >= 2


@pytest.mark.slow
def test_killed_on_the_fast_path(
    kill_at_random: Callable[..., int],
    little: ModuleType,
    tiny_bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    job = little.write_job(tmp_path, tiny_bert, little.FAST_RECIPE)
    monkeypatch.setattr("weft.train.optimizer.LEAST_ROWS", 1)
    little.run(job, tmp_path / "unbroken")
    assert kill_at_random(SLOW_KILLS // 2, job, tmp_path / "unbroken") >= 2


@pytest.mark.slow
def test_killed_where_strategies_change_within_a_stage(
    kill_at_random: Callable[..., int], little: ModuleType, tiny_bert: Path, tmp_path: Path
):
    job = little.write_job(tmp_path, tiny_bert, little.STRATEGIES_RECIPE)
    little.run(job, tmp_path / "unbroken")
    assert kill_at_random(SLOW_KILLS // 2, job, tmp_path / "unbroken") >= 2


# Checkpoint 3 is the second evaluation of the first stage, 5 the first of the second.
@pytest.mark.parametrize(
    ("number", "place"),
    [
        pytest.param(
            number, place, marks=() if (number, place) in {(3, "rename"), (5, MIDDLE)} else pytest.mark.slow
        )
        for number in (0, 3, 5)
        for place in PLACES
    ],
)
def test_killed_inside_the_writer(
    start: Start, little: ModuleType, job: Path, unbroken: Path, tmp_path: Path, number: int, place: str
):
    folder = tmp_path / "run"
    assert finish(start(folder, job, number, place)) == -signal.SIGKILL
    whole = sorted(
        path.name for path in folder.glob("stages/*/checkpoints/step-*") if ".tmp-" not in path.name
    )
    half = [path.name for path in folder.glob("stages/*/checkpoints/*.tmp-*")]
    stage, step = divmod(number, little.NUM_STEPS)
    is_whole = place in ("rename", checkpoint.LATEST)
    assert len(half) == (not is_whole)
    assert (
        folder / "stages" / little.STAGES[stage] / "checkpoints" / f"step-{step + 1:08d}"
    ).is_dir() == is_whole
    assert len(whole) >= min(number, 1) + is_whole - (stage > 0 and step == 0)
    little.resume(folder)
    assert little.differences(folder, unbroken) == []
    assert not list(folder.rglob("*.tmp-*"))
    lines = little.log(folder)
    taken_up = lines[[line["event"] for line in lines].index("resumed") + 1]
    assert (taken_up["stage"], taken_up["step"]) == (little.STAGES[stage], step + is_whole)


@pytest.mark.parametrize(
    ("chain", "boundaries"),
    [
        ("shared, then an expert for each task", (1,)),
        pytest.param("shared, then an expert for each task", (0,), marks=pytest.mark.slow),
        pytest.param("general, domain, task", (0, 1), marks=pytest.mark.slow),
        pytest.param("two branches averaged, then trained", (0, 1), marks=pytest.mark.slow),
    ],
)
def test_killed_where_one_stage_hands_over_to_the_next(
    start: Start,
    little: ModuleType,
    tiny_bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chain: str,
    boundaries: tuple[int, ...],
):
    monkeypatch.setattr("weft.train.optimizer.LEAST_ROWS", 1)  # as the processes that are killed have it
    job = little.write_job(tmp_path, tiny_bert, little.chain(chain))
    little.run(job, tmp_path / "unbroken")
    for place in ("inside", "at", "after"):
        for number in boundaries:
            folder = tmp_path / f"{place}-{number}"
            assert finish(start(folder, job, number, place)) == -signal.SIGKILL
            finals = [path for path in folder.glob("stages/*/final") if ".tmp-" not in path.name]
            assert len(finals) == number + (place != "inside")
            little.resume(folder)
            assert little.differences(folder, tmp_path / "unbroken") == []
            assert little.answers(folder) == little.answers(tmp_path / "unbroken")


def test_two_signals_end_the_process_at_once(start: Start, little: ModuleType, job: Path, tmp_path: Path):
    process = start(tmp_path / "run", job)
    deadline = time.monotonic() + _LONGEST_S
    while not (tmp_path / "run" / "log.jsonl").is_file():
        assert time.monotonic() < deadline
        assert process.is_alive()
        time.sleep(0.005)
    # One signal would let it save; equal ones sent at a time may count as one.
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGUSR1)
    assert finish(process) == 128 + signal.SIGTERM
    little.resume(tmp_path / "run")
    assert RunFolder(tmp_path / "run").finished() is not None


def test_one_signal_is_answered_within_seconds_and_leaves_with_75(
    start: Start, little: ModuleType, job: Path, unbroken: Path, tmp_path: Path
):
    process = start(tmp_path / "run", job)
    while not (tmp_path / "run" / "log.jsonl").is_file():
        assert process.is_alive()
        time.sleep(0.005)
    begun = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 75
    assert time.monotonic() - begun < 5
    assert finish(start(tmp_path / "run", job)) == 0
    assert little.differences(tmp_path / "run", unbroken) == []
