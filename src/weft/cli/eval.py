"""``weft eval``: scores of a run or a bundle on data with answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from weft.build.catalogue import open_recipe
from weft.build.data import read_data
from weft.cli.console import out
from weft.cli.messages import say
from weft.cli.show import show_scores
from weft.core.example import Encoded, Purpose
from weft.data.sources import read
from weft.errors import DataError, nearest
from weft.evaluate.judge import judge
from weft.evaluate.predict import answer_all
from weft.evaluate.selection import selection_score
from weft.export.bundle import Bundle, open_bundle
from weft.report.records import EvalReport
from weft.run.folder import RunFolder
from weft.run.judging import TEST, split_rows

_BUDGET_TOKENS = 8192
_RESAMPLES = 1000


class Split(NamedTuple):
    """Rows to judge one task on: the split's name, the rows, and the answers that a baseline may learn from."""

    name: str
    rows: tuple[Encoded, ...]
    golds: list[object]


def run(
    bundle: Annotated[Path, typer.Argument(help=say("arg.bundle"))],
    data: Annotated[list[str] | None, typer.Argument(help=say("eval.data"))] = None,
    base: Annotated[Path | None, typer.Option("--base", help=say("arg.base"))] = None,
    is_json: Annotated[bool, typer.Option("--json", help=say("env.json"))] = False,
) -> None:
    """Print every metric with its 95 % interval, its baseline and its n."""
    opened = open_bundle(bundle, base=base)
    splits = _given(opened, data) if data else _of_run(opened, bundle)
    report = evaluate(opened, splits)
    if is_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        show_scores(out(), report)


def evaluate(bundle: Bundle, splits: dict[str, Split]) -> EvalReport:
    """Return the scores of ``bundle`` on ``splits``."""
    rows = {name: split.rows for name, split in splits.items()}
    found = answer_all(
        bundle.network, bundle.tasks, rows, pad=bundle.tokenizer.pad, budget=_BUDGET_TOKENS, dtype=bundle.dtype
    )
    reports = tuple(
        judge(
            bundle.tasks[name],
            split.rows,
            found.answers[name],
            split=split.name,
            train_golds=split.golds,
            resamples=_RESAMPLES,
            seed=0,
            loss=found.loss(name),
        )
        for name, split in splits.items()
    )
    return EvalReport(split=TEST, tasks=reports, selection=selection_score(reports))


def _given(bundle: Bundle, data: list[str]) -> dict[str, Split]:
    """Return the files named as ``task=file``; their own answers are all that a baseline can learn from."""
    splits: dict[str, Split] = {}
    for argument in data:
        name, _, reference = argument.partition("=")
        if name not in bundle.tasks or not reference:
            raise DataError(f"{argument}: must be task=file. {nearest(name, bundle.tasks)}")
        rows = read(reference, root=Path.cwd()).rows
        results = bundle.tasks[name].encode(rows, bundle.tokenizer, Purpose.ANSWER)
        usable = tuple(one for one in results if isinstance(one, Encoded) and one.gold is not None)
        splits[name] = Split(reference, usable, [one.gold for one in usable])
    return splits


def _of_run(bundle: Bundle, given: Path) -> dict[str, Split]:
    """Return the test rows (dev rows where a task has none) of the run that the bundle lies in."""
    folder = RunFolder(bundle.folder.parent)
    if not folder.origin.is_file():
        raise DataError(f"{given}: a bundle outside its run needs data, but none is given. Name it: task=file.")
    recipe = open_recipe(folder.recipe)
    root = Path(json.loads(folder.origin.read_text(encoding="utf-8"))["root"])
    read_again = read_data(recipe, bundle.tokenizer, root=root).tasks
    splits: dict[str, Split] = {}
    for name in bundle.tasks:
        split, rows = split_rows(read_again[name], TEST)
        splits[name] = Split(split, tuple(rows), read_again[name].train_golds)
    return splits
