"""The log survives kills, and its clock goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from weft.report.records import StepReport
from weft.run.log import Log, plain

STEP = StepReport(
    stage="s",
    step=1,
    epoch=0.5,
    lr=1e-3,
    losses={"a": math.nan, "b": 1.0},
    grad_norm=math.inf,
    examples=2,
    tokens=3,
    padded_tokens=4,
    seconds=0.5,
)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line, parse_constant=_refuse) for line in path.read_text("utf-8").splitlines()]


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_lines_are_json_whatever_the_numbers(tmp_path: Path):
    log = Log(tmp_path / "log.jsonl")
    log.append("step", STEP)
    log.append("left", {"stage": "größe"})
    first, second = lines(tmp_path / "log.jsonl")
    assert first["losses"] == {"a": "NaN", "b": 1.0}
    assert first["grad_norm"] == "Infinity"
    assert (second["event"], second["stage"]) == ("left", "größe")


def test_plain_values_are_read_back():
    back = StepReport.model_validate(plain(STEP))
    assert math.isnan(back.losses["a"])
    assert back.model_dump(exclude={"losses"}) == STEP.model_dump(exclude={"losses"})


def test_clock_goes_on_where_the_last_process_left_it(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"event": "saved", "clock": 100.5}\n')
    log = Log(path)
    log.append("resumed", {})
    assert 100.5 <= log.seconds() < 110
    assert 100.5 <= float(str(lines(path)[1]["clock"])) < 110
    assert Log(tmp_path / "new.jsonl").seconds() < 10


@given(st.integers(min_value=0, max_value=200))
def test_torn_last_line_is_cut_off_wherever_it_was_torn(tmp_path_factory, cut: int):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    whole = b"".join(json.dumps({"event": "e", "clock": float(n)}).encode() + b"\n" for n in range(4))
    path.write_bytes(whole[: len(whole) - min(cut, len(whole))])
    num_whole = path.read_bytes().count(b"\n")
    log = Log(path)
    assert log.seconds() >= max(0, num_whole - 1)
    log.append("resumed", {})
    assert [line["event"] for line in lines(path)] == ["e"] * num_whole + ["resumed"]
