"""``weft eval``: scores of a run or a bundle on data with answers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, TypeGuard

import typer

import weft
from weft.build.catalogue import open_recipe
from weft.build.data import read_data, taught
from weft.cli.console import err, out
from weft.cli.messages import language, say
from weft.cli.show import show_scores
from weft.core.example import Dropped, Encoded, Purpose, Row
from weft.core.seeds import fold
from weft.data.joined import check_rows
from weft.data.sources import read
from weft.errors import DataError, nearest
from weft.evaluate.details import detail
from weft.evaluate.judge import fitted_values, judge
from weft.evaluate.predict import answer_all, sum_losses
from weft.evaluate.selection import selection_score
from weft.evaluate.telling import told
from weft.export.bundle import Bundle, open_bundle
from weft.export.parts import read_json
from weft.report.html import render_evaluation
from weft.report.records import GIVEN, BundleReport
from weft.run.folder import RunFolder
from weft.run.judging import TEST, split_rows, taught_rows
from weft.task.base import Task

_BUDGET_TOKENS = 8192
_RESAMPLES = 1000


def run(
    bundle: Annotated[Path, typer.Argument(help=say("arg.bundle"))],
    data: Annotated[list[str] | None, typer.Argument(help=say("eval.data"))] = None,
    base: Annotated[Path | None, typer.Option("--base", help=say("arg.base"))] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help=say("arg.set"))] = None,
    page: Annotated[Path | None, typer.Option("--html", help=say("eval.html"))] = None,
    is_json: Annotated[bool, typer.Option("--json", help=say("env.json"))] = False,
) -> None:
    """Print every metric with its 95 % interval, its baseline and its n; the page and JSON show the answers too."""
    given = tuple(settings or ())
    report = (
        _on_files(_told(open_bundle(bundle, base=base), given), data)
        if data
        else _of_run(bundle, base, given)
    )
    if is_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        show_scores(out(), report)
    if page is not None:  # last: a page that cannot be written takes no scores with it
        page.write_text(render_evaluation(report, lang=language()), encoding="utf-8")
        err().print(say("eval.page", file=page))


@dataclass(frozen=True, slots=True)
class _Split:
    """The rows to judge one task on.

    Attributes:
        name: of the split.
        rows: with right answers.
        golds: the answers that a baseline may learn from.
        read: the rows as they were read, for their texts.
        seeds: of the resampling, of scores and of details.
        fitted: what the task was fitted to dev rows with.
        taught: the rows with their answers in them, where a loss needs that.
    """

    name: str
    rows: tuple[Encoded, ...]
    golds: Sequence[object]
    read: Sequence[Row]
    seeds: tuple[int, int]
    fitted: Mapping[str, object] = field(default_factory=dict[str, object])
    taught: Sequence[Encoded] = ()


def _report(
    bundle: Bundle, splits: Mapping[str, _Split], *, name: str, split: str, resamples: int
) -> BundleReport:
    pad, dtype, network, tasks = bundle.tokenizer.pad, bundle.dtype, bundle.network, bundle.tasks
    rows = {task: one.rows for task, one in splits.items()}
    taught = {task: one.taught for task, one in splits.items() if one.taught}
    losses = sum_losses(network, tasks, taught, pad=pad, budget=_BUDGET_TOKENS, dtype=dtype)
    found = answer_all(network, tasks, rows, pad=pad, budget=_BUDGET_TOKENS, dtype=dtype)
    reports = tuple(
        judge(
            tasks[task],
            one.rows,
            found.answers[task],
            split=one.name,
            train_golds=one.golds,
            resamples=resamples,
            seed=one.seeds[0],
            loss=losses[task].mean if task in losses else found.loss(task),
        ).model_copy(update={"fitted": one.fitted})
        for task, one in splits.items()
    )
    details = tuple(
        detail(
            tasks[task],
            one.rows,
            found.answers[task],
            {row.where: row for row in one.read},
            split=one.name,
            resamples=resamples,
            seed=one.seeds[1],
        )
        for task, one in splits.items()
    )
    return BundleReport(
        weft=weft.__version__,
        name=name,
        model=bundle.base.folder.name,
        split=split,
        tasks=reports,
        selection=selection_score(reports),
        details=details,
    )


def _on_files(bundle: Bundle, data: Sequence[str]) -> BundleReport:
    """Return the scores on files named as ``task=file``; their own answers are all that a baseline can learn from."""
    files = _files(bundle, data)
    splits = {name: _file_split(bundle, bundle.tasks[name], reference) for name, reference in files.items()}
    name = _run_folder(bundle.folder).path.resolve().name
    return _report(bundle, splits, name=name, split=GIVEN, resamples=_RESAMPLES)


def _files(bundle: Bundle, data: Sequence[str]) -> dict[str, str]:
    """Return the file of each task that ``data`` names.

    Raises:
        DataError: not ``task=file``, no such task, or one task twice.
    """
    files: dict[str, str] = {}
    for argument in data:
        name, _, reference = argument.partition("=")
        if name not in bundle.tasks or not reference:
            hint = nearest(name, bundle.tasks)
            raise DataError(f"{argument}: must be task=file with a task of the bundle, but is not. {hint}")
        if name in files:
            raise DataError(
                f"{argument}: a task must be judged on one file, but {name} is on {files[name]} too. Evaluate one after "
                f"the other."
            )
        files[name] = reference
    return files


def _file_split(bundle: Bundle, task: Task, reference: str) -> _Split:
    rows = read(reference, root=Path.cwd()).rows
    check_rows(task.config()["columns"], rows, what=f"tasks.{task.name}")
    results = task.encode(rows, bundle.tokenizer, Purpose.ANSWER)
    usable = tuple(one for one in results if _is_usable(one))
    reasons = (
        one.reason if isinstance(one, Dropped) else "no label" for one in results if not _is_usable(one)
    )
    dropped = Counter(reasons)
    if not usable:
        columns = {role: column for role, column in task.config()["columns"].items() if column}
        raise DataError(
            f"{reference}: must hold a row that {task.name} can be judged on, but none of {len(results)} is "
            f"({', '.join(dropped)}). It reads the columns {columns}."
        )
    if dropped:
        words = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        err().print(say("eval.dropped", file=reference, reasons=words))
    golds = [one.gold for one in usable]
    used = [row for row, one in zip(rows, results, strict=True) if _is_usable(one)]
    with_answers = taught(task, used, usable, bundle.tokenizer)
    return _Split(reference, usable, golds, read=rows, seeds=_seeds(0, task.name), taught=with_answers)


def _is_usable(result: Encoded | Dropped) -> TypeGuard[Encoded]:
    return isinstance(result, Encoded) and result.gold is not None


def _told(bundle: Bundle, settings: Sequence[str]) -> Bundle:
    return replace(bundle, tasks=told(bundle.tasks, settings))


def _seeds(seed: int, task: str) -> tuple[int, int]:
    """Return the seeds of scores and of details that a run of this seed takes."""
    return fold(seed, "judge", task), fold(seed, "details", task)


def _run_folder(given: Path) -> RunFolder:
    """Return the folder that holds the bundle ``given``, or ``given`` itself where that is a run."""
    return RunFolder(given.resolve().parent if (given / "weft.json").is_file() else given)


def _of_run(given: Path, base: Path | None, settings: Sequence[str]) -> BundleReport:
    """Return the scores on the run's own test rows (dev rows where a task has none), as the run itself takes them."""
    folder = _run_folder(given)
    if not folder.origin.is_file():
        open_bundle(given, base=base)  # what is wrong with it as a bundle goes first
        raise DataError(
            f"{given}: a bundle outside its run needs data, but none is given. Name it: task=file."
        )
    recipe = open_recipe(folder.recipe)
    bundle = open_bundle(given, base=base, precision=recipe.precision)
    origin = read_json(folder.origin)
    data = read_data(recipe, bundle.tokenizer, root=Path(origin["root"]))
    if dict(data.digests) != origin["data"]:
        err().print(say("eval.changed"))
    splits: dict[str, _Split] = {}
    for name in bundle.tasks:
        own = data.tasks[name]
        split, rows = split_rows(own, TEST)
        splits[name] = _Split(
            split,
            tuple(rows),
            own.train_golds,
            read=own.test_rows if split == TEST else own.dev_rows,
            seeds=_seeds(recipe.seed, name),
            fitted=fitted_values(bundle.tasks[name], own.task),
            taught=taught_rows(own, TEST),
        )
    name = folder.path.resolve().name
    return _report(_told(bundle, settings), splits, name=name, split=TEST, resamples=recipe.bootstrap)
