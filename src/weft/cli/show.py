"""Records as tables for people, the same on a terminal and in a file."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from weft.cli.messages import say
from weft.report.records import DataReport, EvalReport, StagePlan, TaskReport
from weft.report.tables import duration, memory, percent, rate, score_interval, score_value, short, whole
from weft.report.tables import number as metric_number


def table(*headings: str, right: Sequence[int] = ()) -> Table:
    """Return an empty table with plain lines; columns in ``right`` are aligned to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        made.add_column(heading, justify="right" if index in right else "left", overflow="fold")
    return made


def show_data(console: Console, report: DataReport) -> None:
    """Print what was read, used and dropped, task by task, and the warnings."""
    rows = table(
        *(say(f"data.{key}") for key in ("task", "split", "read", "used", "dropped", "labels", "tokens", "cut", "twice")),
        right=(2, 3, 6, 7, 8),
    )
    for task in report.tasks:
        for split in task.splits:
            dropped = ", ".join(f"{count} {reason}" for reason, count in split.dropped.items()) or "–"
            tokens = f"{split.tokens_mean:.0f} ≤{split.tokens_max}"
            labels = _labels(split.labels)
            numbers = (whole(split.read), whole(split.used))
            rows.add_row(
                task.task, split.split, *numbers, dropped, labels, tokens, percent(split.cut_share), str(split.duplicates)
            )
    console.print(rows)
    for warning in report.warnings:
        console.print(say("data.warning", text=warning))


def _labels(labels: dict[str, int], most: int = 4) -> str:
    shown = [f"{name} {count}" for name, count in sorted(labels.items(), key=lambda pair: -pair[1])[:most]]
    return ", ".join(shown) + (f", +{len(labels) - most}" if len(labels) > most else "")


def show_plan(console: Console, plan: StagePlan) -> None:
    """Print what a stage will train, from where, how long and at what cost."""
    console.print(say("plan.stage", name=plan.name, parent=plan.parent, strategy=plan.strategy))
    rates = ", ".join(
        f"{name} {percent(share)}" + (f" ({plan.passes[name]:.2g}×)" if name in plan.passes else "")
        for name, share in plan.tasks.items()
    )
    console.print("  " + say("plan.mixture", rates=rates))
    unknown = say("plan.unknown")
    console.print(
        "  "
        + say(
            "plan.cost",
            steps=unknown if plan.steps is None else whole(plan.steps),
            tokens=unknown if plan.tokens is None else short(plan.tokens),
            memory=memory(plan.memory_bytes),
            time=unknown if plan.seconds is None else duration(plan.seconds),
        )
    )
    share = percent(plan.num_trained / plan.num_values)
    console.print(
        "  " + say("plan.parameters", trained=short(plan.num_trained), all=short(plan.num_values), share=share)
    )
    rows = table(*(say(f"plan.{key}") for key in ("paths", "values", "role", "lr", "why")), right=(1, 3))
    for group in plan.table:
        rows.add_row(group.paths, short(group.num_values), group.role, rate(group.lr), group.why)
    console.print(rows)
    for note in plan.notes:
        console.print(say("data.warning", text=note))


def show_scores(console: Console, report: EvalReport) -> None:
    """Print every score with its interval, its baseline and its n."""
    rows = table(*(say(f"score.{key}") for key in ("task", "split", "metric", "value", "baseline", "n")), right=(4, 5))
    for task in report.tasks:
        for score in task.scores:
            hundredths = score.best == 1.0 and score.higher_is_better
            baseline = metric_number(score.baseline, hundredths=hundredths)
            rows.add_row(task.task, task.split, score.metric, score_interval(score), baseline, whole(score.n))
    console.print(rows)


def in_short(tasks: Sequence[TaskReport]) -> str:
    """Return one line with the primary score of each task."""
    return "  ".join(f"{task.task} {task.scores[0].metric} {score_value(task.scores[0])}" for task in tasks)
