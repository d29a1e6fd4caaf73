"""Showing a run while it goes on: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress, TaskID

from weft.cli.console import bars, err
from weft.cli.messages import say
from weft.cli.show import in_short, show_data, show_scores
from weft.cli.startup import started
from weft.report.records import StepReport
from weft.report.tables import duration, memory, percent, rate, short, whole
from weft.run.events import DataRead, Evaluated, Event, Finished, Saved, StageFinished, StageStarted, Stepped

_PLAIN_SECONDS = 10.0  # of training between two plain lines
_INDENT = "  "


def follow(events: Iterator[Event], *, is_quiet: bool) -> Finished:
    """Show ``events`` on stderr until the run is over; return its last event."""
    console = err()
    with bars(console) as progress:
        follower = _Follower(console, progress)
        for event in events:
            if isinstance(event, Finished):
                return event
            if isinstance(event, StageStarted):
                started()
            if not is_quiet:
                follower.show(event)
    raise AssertionError("a run that ends without an error finishes")


@dataclass(slots=True)
class _Follower:
    console: Console
    progress: Progress
    bar: TaskID | None = None
    steps: int | None = None  # of the stage, where its plan knows
    silent_seconds: float = 0.0

    def show(self, event: Event) -> None:
        """Show one event."""
        match event:
            case DataRead():
                show_data(self.console, event.report)
            case StageStarted():
                self._start(event)
            case Stepped():
                self._step(event)
            case Evaluated():
                mark = say("follow.best") if event.is_best else ""
                scores = in_short(event.report.tasks)
                line = say("follow.evaluation", epoch=f"{event.report.epoch:.2f}", scores=scores, mark=mark)
                self._say(line)
            case StageFinished():
                self._end(event)
            case Saved() | Finished():
                pass

    def _say(self, line: str) -> None:
        self.console.print(f"{_INDENT}{line}".rstrip())

    def _start(self, event: StageStarted) -> None:
        plan = event.plan
        for line in event.rejected:
            self.console.print(say("follow.rejected", line=line))
        line = say(
            "follow.stage",
            name=plan.name,
            parent=plan.parent,
            strategy=plan.strategy,
            trained=short(plan.num_trained),
            share=percent(plan.num_trained / plan.num_values),
        )
        self.console.print(line, style="bold")
        if event.step:
            self._say(say("follow.resumed", step=event.step))
        for note in plan.notes:
            self.console.print(say("data.warning", text=note))
        self.steps = plan.steps
        self.bar = self.progress.add_task(plan.name, total=plan.steps, completed=event.step)

    def _step(self, event: Stepped) -> None:
        report = event.report
        num_done = report.step + 1
        if report.skipped:
            self._say(say("follow.skipped", count=report.skipped, step=num_done))
        if self.bar is not None:
            total = self.steps or round(num_done / max(event.done, 1e-9))
            words = f"{report.stage}  {_losses(report)}"
            self.progress.update(self.bar, completed=num_done, total=total, description=words)
        self.silent_seconds += report.seconds
        is_due = self.silent_seconds >= _PLAIN_SECONDS or event.done >= 1
        if is_due and not self.console.is_terminal:
            self.silent_seconds = 0.0
            self._say(_step_line(event))

    def _end(self, event: StageFinished) -> None:
        report = event.report
        if self.bar is not None:
            self.progress.remove_task(self.bar)
            self.bar = None
        line = say(
            "follow.end",
            name=report.name,
            steps=whole(report.steps),
            time=duration(report.seconds),
            memory=memory(report.peak_memory_bytes),
            best=whole(report.best_step),
        )
        self.console.print(line)


def _step_line(event: Stepped) -> str:
    report = event.report
    speed = f"{report.examples / report.seconds:.0f}" if report.seconds else "–"
    return say(
        "follow.step",
        done=f"{event.done:4.0%}",
        step=report.step + 1,
        losses=_losses(report),
        speed=speed,
        lr=rate(report.lr),
    )


def _losses(report: StepReport) -> str:
    return " ".join(f"{name} {loss:.3f}" for name, loss in report.losses.items())


def show_end(event: Finished, console: Console) -> None:
    """Print the final scores and where report and bundle are."""
    show_scores(console, event.report.final[0])
    skipped = sum(stage.skipped for stage in event.report.stages)
    if skipped:
        console.print(say("follow.skipped_all", count=skipped))
    console.print(say("train.done", report=event.folder / "report.html", bundle=event.folder / "bundle"))
