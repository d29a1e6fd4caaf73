"""``weft compare``: two runs on the same rows, with a paired test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from weft.build.catalogue import open_recipe
from weft.cli.console import out
from weft.cli.messages import say
from weft.cli.show import table
from weft.errors import DataError
from weft.evaluate.compare import Candidate, compare
from weft.evaluate.predictions import read_predictions
from weft.report.records import CompareReport
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
        raise DataError(f"{folder.path}: must be a finished run with saved answers, but has none. Train or resume it.")
    values = open_recipe(folder.recipe).model_dump(mode="json")
    return Candidate(str(folder.path), values, {path.stem: read_predictions(path) for path in paths})


def show(report: CompareReport) -> None:
    """Print the comparison as a table and what the recipes differ in."""
    console = out()
    rows = table(*(say(f"compare.{key}") for key in ("task", "metric", "one", "other", "difference", "p", "verdict")))
    for task in report.tasks:
        for metric in task.metrics:
            hundredths = is_share(1.0 if metric.higher_is_better else 0.0, higher_is_better=metric.higher_is_better)
            texts = [
                metric_number(value, hundredths=hundredths)
                for value in (metric.a, metric.b, metric.difference, metric.low, metric.high)
            ]
            span = f"{texts[2]} [{texts[3]}, {texts[4]}]"
            rows.add_row(task.task, metric.metric, texts[0], texts[1], span, f"{metric.p:.3f}", metric.verdict)
    console.print(rows)
    for difference in report.recipe:
        console.print(f"  {difference.key}: {difference.a} → {difference.b}")
