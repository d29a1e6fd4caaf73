"""Records as tables for people, the same on a terminal and in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from weft.cli.messages import say
from weft.core.table import Role
from weft.report.records import DataReport, EvalReport, StagePlan, TaskReport
from weft.report.tables import (
    duration,
    is_share,
    memory,
    percent,
    plain,
    rate,
    score_interval,
    score_value,
    short,
    whole,
)
from weft.report.tables import number as metric_number

_WIDE = 120  # characters from which a parameter table has a column for its reasons
_INDENT = "  "
_MAX_LABELS = 5
_LONG_SECONDS = 1.0


def table(*headings: str, right: Sequence[int] = ()) -> Table:
    """Return an empty table with plain lines; columns in ``right`` are aligned to the right."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, heading in enumerate(headings):
        made.add_column(heading, justify="right" if index in right else "left", overflow="fold")
    return made


def show_data(console: Console, report: DataReport) -> None:
    """Print what was read, used and dropped, task by task, and the warnings; examples where they are more than rows."""
    is_one = all(split.num_examples == split.used for task in report.tasks for split in task.splits)
    counted = ("read", "used") if is_one else ("read", "used", "examples")
    keys = ("task", "split", *counted, "tokens", "cut", "twice", "dropped", "labels")
    width = len(keys) - 2  # of what is not broken into lines
    rows = table(*(say(f"data.{key}") for key in keys), right=range(2, width))
    for column in rows.columns[:width]:
        column.no_wrap = True
    for task in report.tasks:
        for index, split in enumerate(task.splits):
            numbers = (split.read, split.used, split.num_examples)[: len(counted)]
            rows.add_row(
                task.task if index == 0 else "",
                split.split,
                *map(whole, numbers),
                f"{split.tokens_mean:.0f} ≤{split.tokens_max}",
                percent(split.cut_share),
                whole(split.duplicates),
                _counts(split.dropped) or "–",
                _counts(split.labels),
            )
    console.print(rows)
    for warning in report.warnings:
        console.print(say("data.warning", text=warning))


def _counts(counts: Mapping[str, int]) -> str:
    """Return ``name: count`` for those that occur, in their own order; of many only the most frequent."""
    pairs = [(name, count) for name, count in counts.items() if count]
    if len(pairs) > _MAX_LABELS:
        pairs.sort(key=lambda pair: -pair[1])
    shown = [f"{name}: {whole(count)}" for name, count in pairs[:_MAX_LABELS]]
    return " · ".join(shown) + (f" · +{len(pairs) - _MAX_LABELS}" if len(pairs) > _MAX_LABELS else "")


def show_plan(console: Console, plan: StagePlan) -> None:
    """Print what a stage will train, from where, how long and at what cost."""
    console.print(say("plan.stage", name=plan.name, parent=plan.parent, strategy=plan.strategy), style="bold")
    rates = ", ".join(_draws(plan, name, share) for name, share in plan.tasks.items())
    unknown = say("plan.unknown")
    cost = say(
        "plan.cost",
        steps=unknown if plan.steps is None else whole(plan.steps),
        tokens=unknown if plan.tokens is None else short(plan.tokens),
        memory=memory(plan.memory_bytes),
        time=unknown if plan.seconds is None else duration(plan.seconds),
    )
    share = percent(plan.num_trained / plan.num_values)
    size = say("plan.parameters", trained=short(plan.num_trained), all=short(plan.num_values), share=share)
    for line in (say("plan.mixture", rates=rates), cost, size):
        console.print(f"{_INDENT}{line}")
    if console.width >= _WIDE:
        console.print(Padding(_parameters(plan), (0, 0, 0, len(_INDENT))))
    else:
        console.print("\n".join(_narrow_parameters(plan)))
    for note in plan.notes:
        console.print(say("data.warning", text=note))
    for way in (*plan.ways, *plan.defaults):
        console.print(say("plan.way", text=way))


def _draws(plan: StagePlan, name: str, share: float) -> str:
    if name not in plan.passes:
        return f"{name} {percent(share)}"
    return say("plan.passes", name=name, share=percent(share), passes=plain(plan.passes[name]))


def _parameters(plan: StagePlan) -> Table:
    """Return the condensed parameter table, one path pattern a line."""
    rows = table(*(say(f"plan.{key}") for key in ("role", "lr", "values", "paths", "why")), right=(2,))
    for group in plan.table:
        paths = group.paths.replace(", ", "\n")
        cells = (group.role, rate(group.lr), short(group.num_values), paths, group.why)
        rows.add_row(*(Text(cell) for cell in cells), style="" if group.role == Role.TRAINED else "dim")
    return rows


def _narrow_parameters(plan: StagePlan) -> Iterator[str]:
    """Yield the same with the paths under their group, for paths are long and do not break well."""
    for group in plan.table:
        yield f"{_INDENT}{group.role:7}  {rate(group.lr):6}  {short(group.num_values):>6}  {group.why}"
        yield from (f"{_INDENT * 3}{path}" for path in group.paths.split(", "))


def show_scores(console: Console, report: EvalReport) -> None:
    """Print every score with its interval, its baseline and its n."""
    rows = table(
        *(say(f"score.{key}") for key in ("task", "split", "metric", "value", "baseline", "n")), right=(4, 5)
    )
    for task in report.tasks:
        for index, score in enumerate(task.scores):
            hundredths = is_share(score.best, higher_is_better=score.higher_is_better)
            names = (task.task, task.split) if index == 0 else ("", "")
            baseline = metric_number(score.baseline, hundredths=hundredths)
            rows.add_row(*names, score.metric, score_interval(score), baseline, whole(score.n))
        if task.perplexity is not None:
            rows.add_row("", "", say("score.perplexity"), plain(task.perplexity), "–", "–")
    console.print(rows)


def in_short(tasks: Sequence[TaskReport]) -> str:
    """Return one line with what chooses each task's checkpoint, and what answering cost where that took a while."""
    return "  ".join(_in_short(task) for task in tasks)


def _in_short(task: TaskReport) -> str:
    score = task.scores[0]
    words = f"{task.task} {score.metric} {score_value(score)}"
    if task.loss is not None and task.perplexity is not None:
        perplexity = f"{say('score.perplexity')} {plain(task.perplexity)}"
        words = f"{task.task} loss {plain(task.loss)} {perplexity} {score.metric} {score_value(score)}"
    if task.seconds < _LONG_SECONDS:
        return words
    return f"{words} ({say('follow.answered', count=whole(score.n), time=duration(task.seconds))})"
