"""Contestants in processes of their own: alternation, failures, and what others do to the machine."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from bench.jobs import GROUPS, JOBS
from bench.machine import busy_seconds, foreign_cores, wait_for_quiet
from bench.order import Figures, Lap, Order
from bench.race import Contestant, ContestantError, disturbed, environment, race
from bench.table import OURS, lap_names

from bench import race as racing

ORDER = Order("full", "", Path("/files"), Path("/work"), 100, 1, 0, 1)


def test_rounds_alternate_and_every_result_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[str, int]] = []

    def run(_contestant: Contestant, order: Order) -> Figures:
        seen.append((order.contestant, order.seed))
        return Figures((Lap("epoch 1", 1.0, order.rows),))

    monkeypatch.setattr(racing, "run", run)
    monkeypatch.setattr(racing, "wait_for_quiet", lambda _patience: 0.0)
    both = {"a": Contestant("m", ""), "b": Contestant("m", "")}
    path = tmp_path / "figures.jsonl"
    results = race(both, ORDER, rounds=2, patience_s=0.0, figures=path, say=lambda _text: None)
    assert seen == [("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert {name: len(found) for name, found in results.items()} == {"a": 2, "b": 2}
    assert [json.loads(line)["contestant"] for line in path.read_text().splitlines()] == ["a", "b", "b", "a"]


def test_who_fails_is_said_and_left_out(monkeypatch: pytest.MonkeyPatch):
    def run(_contestant: Contestant, order: Order) -> Figures:
        if order.contestant == "a":
            raise ContestantError("no such thing")
        return Figures((Lap("epoch 1", 1.0, 1),))

    monkeypatch.setattr(racing, "run", run)
    monkeypatch.setattr(racing, "wait_for_quiet", lambda _patience: 0.0)
    said: list[str] = []
    both = {"a": Contestant("m", ""), "b": Contestant("m", "")}
    results = race(both, ORDER, rounds=2, patience_s=0.0, figures=None, say=said.append)
    assert list(results) == ["b"]
    assert sum("no such thing" in line for line in said) == 1


def test_a_process_that_prints_no_figures_is_an_error():
    with pytest.raises(ContestantError):
        racing.run(
            Contestant("this", ""), ORDER
        )  # a module of the standard library: it runs and says other things


def test_threads_are_capped_and_caches_start_empty(tmp_path: Path):
    found = environment(2, tmp_path)
    assert found["OMP_NUM_THREADS"] == "2"
    assert found["WEFT_CACHE"].startswith(str(tmp_path))


def test_disturbed_counts_processes_beside_which_others_ran():
    quiet = Figures((), foreign=0.01)
    assert disturbed({"a": [quiet, replace(quiet, foreign=0.9)], "b": [quiet]}) == 1


def test_own_work_is_seen_as_load():
    before = busy_seconds()
    while os.times().user < 0.3 or busy_seconds() - before < 0.05:
        sum(range(10_000))
    assert busy_seconds() > before
    assert foreign_cores(0.05) >= 0.0


def test_a_busy_machine_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bench.machine.foreign_cores", lambda: 1.5)
    assert wait_for_quiet(0.0) == 1.5


def test_every_job_has_a_module_for_each_contestant_and_weft_among_them():
    for name, job in JOBS.items():
        assert OURS in job.contestants, name
        for contestant in job.contestants.values():
            path = racing.ROOT / Path(*contestant.module.split(".")).with_suffix(".py")
            assert path.is_file(), contestant.module
        assert job.wanted, name
    assert all(member in JOBS for members in GROUPS.values() for member in members)


def test_wanted_ratios_name_contestants_that_run():
    for name, job in JOBS.items():
        for wanted in job.wanted:
            assert set(wanted.least) <= set(job.contestants), name


def test_laps_are_listed_once_in_order():
    two = Figures((Lap("epoch 1", 1.0, 1), Lap("epoch 2", 1.0, 1)))
    assert lap_names({"a": [two], "b": [two]}) == ["epoch 1", "epoch 2"]
