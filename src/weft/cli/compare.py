"""``weft compare``: two runs on the same rows, with a paired test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from weft.build.catalogue import open_recipe
from weft.cli.console import out
from weft.cli.messages import say
from weft.cli.show import table
from weft.errors import DataError
from weft.evaluate.compare import Candidate, compare
from weft.evaluate.predictions import read_predictions
from weft.report.records import CompareReport, TaskComparison
from weft.report.tables import is_share
from weft.report.tables import number as metric_number
from weft.run.folder import RunFolder
from weft.task.registry import FAMILIES


def run(
    a: Annotated[Path, typer.Argument(help=say("compare.a"))],
    b: Annotated[Path, typer.Argument(help=say("compare.b"))],
    is_json: Annotated[bool, typer.Option("--json", help=say("env.json"))] = False,
) -> None:
    """Print, for each task and metric, both values, their difference with its interval, and the verdict."""
    report = compare_runs(RunFolder(a), RunFolder(b))
    if is_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        show(report)


def compare_runs(a: RunFolder, b: RunFolder) -> CompareReport:
    """Return the comparison of the final answers of two finished runs."""
    one, other = candidate(a), candidate(b)
    files = {**other.predictions, **one.predictions}
    tasks = {name: FAMILIES[file.kind].from_config(name, file.config) for name, file in files.items()}
    recipe = open_recipe(a.recipe)
    return compare(one, other, tasks, resamples=recipe.bootstrap, seed=recipe.seed)


def candidate(folder: RunFolder) -> Candidate:
    """Return a finished run as one side of a comparison.

    Raises:
        DataError: the run has no saved answers.
    """
    paths = sorted(folder.path.glob("predictions/*/*.jsonl"))
    if not paths or not folder.recipe.is_file():
        raise DataError(
            f"{folder.path}: must be a finished run with saved answers, but has none. Train or resume it."
        )
    values = open_recipe(folder.recipe).model_dump(mode="json")
    return Candidate(str(folder.path), values, {path.stem: read_predictions(path) for path in paths})


def show(report: CompareReport) -> None:
    """Print the comparison as a table, the rows that changed most and what the recipes differ in."""
    console = out()
    console.print(_scores(report))
    for task in report.tasks:
        _show_rows(console, task)
    for run_name, tasks in ((report.a, report.only_a), (report.b, report.only_b)):
        if tasks:
            console.print(say("compare.only", run=run_name, tasks=", ".join(tasks)))
    if report.recipe:
        console.print(say("compare.recipes"))
    for difference in report.recipe:
        console.print(f"  {difference.key}: {difference.a or '–'} → {difference.b or '–'}")


def _scores(report: CompareReport) -> Table:
    keys = ("task", "metric", "one", "other", "difference", "p", "verdict")
    rows = table(*(say(f"compare.{key}") for key in keys), right=(2, 3))
    for task in report.tasks:
        for index, metric in enumerate(task.metrics):
            hundredths = is_share(metric.best, higher_is_better=metric.higher_is_better)
            a, b, difference, low, high = (
                metric_number(value, hundredths=hundredths)
                for value in (metric.a, metric.b, metric.difference, metric.low, metric.high)
            )
            verdict = say(f"compare.is.{metric.verdict}")
            name = task.task if index == 0 else ""
            rows.add_row(
                name, metric.metric, a, b, f"{difference} [{low}, {high}]", f"{metric.p:.3f}", verdict
            )
    return rows


def _show_rows(console: Console, task: TaskComparison) -> None:
    console.print(say("compare.rows", task=task.task, better=task.rows_better, worse=task.rows_worse))
    for row in task.changed:
        mark = "+" if row.is_better else "-"
        line = say("compare.row", mark=mark, where=row.where, gold=row.gold, a=row.a, b=row.b)
        console.print(f"  {line}")
