"""What goes to a contestant and what comes back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from bench.order import BORN, PREFIX, Clock, Figures, Lap, Order, Score, peak_mib, report


def order() -> Order:
    return Order(
        "full", "weft", Path("/files"), Path("/work"), 10, 1, 3, 1, ("precision: fp32",), off=("packing",)
    )


def test_an_order_survives_the_command_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["contestant", order().text()])
    assert Order.read() == order()


def test_figures_survive_the_report(capsys: pytest.CaptureFixture[str]):
    clock = Clock()
    clock.add("epoch 1", 2.0, 10)
    score = Score("sst2", "accuracy", 0.5, 0.4, 0.6, 10)
    report(clock, [score], peak=12.5)
    line = capsys.readouterr().out
    assert line.startswith(PREFIX)
    found = Figures.of(json.loads(line.removeprefix(PREFIX)))
    assert found == Figures((Lap("epoch 1", 2.0, 10),), (score,), 12.5, 0.0)
    assert Figures.of(json.loads(json.dumps(asdict(found)))) == found


def test_equal_laps_add_up_and_others_do_not():
    clock = Clock()
    for name, seconds in (("training", 1.0), ("whole", 9.0), ("training", 2.0)):
        clock.add(name, seconds, 5)
    assert clock.laps == [Lap("training", 3.0, 10), Lap("whole", 9.0, 5)]


def test_the_first_step_is_noted_once(monkeypatch: pytest.MonkeyPatch):
    now = iter([105.0, 200.0])
    monkeypatch.setenv(BORN, "100.0")
    monkeypatch.setattr("bench.order.time.time", lambda: next(now))
    clock = Clock()
    clock.first()
    clock.first()
    assert clock.startup_s == 5.0


def test_peak_memory_is_this_process_own_and_grows():
    before = peak_mib()
    block = bytearray(80 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    assert peak_mib() > max(10.0, before - 1)
    assert peak_mib() - before < 200
