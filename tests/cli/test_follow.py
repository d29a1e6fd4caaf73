"""A run as it is told: bars on a terminal, few plain lines elsewhere."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from weft.cli import follow as room
from weft.cli.follow import _Follower, follow
from weft.report.records import EvalReport, Score, StagePlan, StepReport, TaskReport
from weft.run.events import DataRead, Evaluated, Finished, Saved, StageStarted, Stepped


def plan(steps: int | None) -> StagePlan:
    return StagePlan(
        name="one", parent="base", strategy="lora", carry={}, tasks={}, passes={}, table=(), num_trained=5, num_values=50,
        steps=steps, examples=None, tokens=None, memory_bytes=0, seconds=None, notes=("take care",),
    )  # fmt: skip


def started(steps: int | None = 40, **others: Any) -> StageStarted:
    values: dict[str, Any] = {"step": 0, "entry_difference": None, "rejected": ()}
    return StageStarted(plan(steps), **(values | others))


def stepped(step: int, done: float, *, seconds: float = 1.0, skipped: int = 0) -> Stepped:
    report = StepReport(
        stage="one", step=step, epoch=0.1, lr=2e-4, losses={"mood": 0.5}, grad_norm=1, examples=320, tokens=9,
        padded_tokens=9, seconds=seconds, skipped=skipped,
    )  # fmt: skip
    return Stepped(report, done)


def evaluated(*, is_best: bool) -> Evaluated:
    score = Score(metric="accuracy", value=0.9, low=0.8, high=0.95, n=15, baseline=0.5)
    task = TaskReport(task="mood", kind="classification", split="dev", scores=(score,))
    return Evaluated(EvalReport(split="dev", tasks=(task,), selection=0.8, epoch=1.0), is_best=is_best)


def told(*events: Any, is_terminal: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=is_terminal, width=120, highlight=False, markup=False)
    with room.bars(console) as progress:
        follower = _Follower(console, progress)
        for event in events:
            follower.show(event)
        if is_terminal:
            progress.refresh()
    return stream.getvalue()


def test_plain_lines_come_after_seconds_of_training_and_at_the_end():
    steps = [stepped(i, (i + 1) / 40, seconds=1.0) for i in range(40)]
    lines = told(started(), *steps).splitlines()
    assert lines[0] == "Stage one, from base: lora; trains 5 values (10.0 %)"
    assert lines[1] == "warning: take care"
    assert lines[2] == "   25% step 10  mood 0.500  320 examples/s  lr 2e-4"
    assert [line.split()[0] for line in lines[2:]] == ["25%", "50%", "75%", "100%"]


def test_evaluations_say_which_is_best():
    lines = told(evaluated(is_best=True), evaluated(is_best=False)).splitlines()
    assert lines == ["  epoch 1.00: mood accuracy 90.0 (best)", "  epoch 1.00: mood accuracy 90.0"]


def test_what_went_wrong_is_told():
    text = told(started(step=7, rejected=("step-9: cut",)), stepped(11, 0.3, skipped=2))
    assert "checkpoint rejected: step-9: cut" in text
    assert "  goes on after step 7" in text
    assert "  2 step(s) up to step 12 were not applied" in text


def test_a_checkpoint_is_not_worth_a_line():
    assert told(Saved(Path("x"), 3)) == ""


def test_a_bar_has_count_rate_and_losses():
    text = told(started(), stepped(9, 0.25), stepped(19, 0.5), is_terminal=True)
    assert "one  mood 0.500" in text
    assert "20/40" in text
    assert "examples/s" not in text, "plain lines are for where there is no terminal"


def test_a_bar_of_a_stage_in_minutes_estimates_its_total():
    assert "20/80" in told(started(None), stepped(19, 0.25), is_terminal=True)


class Report:
    """Stands in for a run's report where only its passing through matters."""


def test_follow_returns_the_last_event_and_is_quiet_when_asked(capsys: pytest.CaptureFixture[str]):
    end = Finished(Report(), Path("x"))  # pyright: ignore[reportArgumentType]
    assert follow(iter([started(), stepped(39, 1.0), end]), is_quiet=True) is end
    assert capsys.readouterr().err == ""
    assert follow(iter([started(), stepped(39, 1.0), end]), is_quiet=False) is end
    assert "100% step 40" in capsys.readouterr().err


def test_every_event_is_shown_in_some_way():
    from weft.report.records import DataReport

    assert told(DataRead(DataReport(tasks=()))).startswith("task")
