"""Evaluating a network in the course of a run: dev to choose by, test for the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weft.build.data import DEV, TEST, TaskData
from weft.core.example import Answer, Encoded
from weft.core.network import Network
from weft.core.seeds import fold
from weft.evaluate.details import detail
from weft.evaluate.judge import calibrate, fitted_values, judge
from weft.evaluate.predict import Watch, answer_all, sum_losses
from weft.evaluate.selection import selection_score
from weft.recipe.spec import StageSpec
from weft.report.details import TaskDetail
from weft.report.records import EvalReport, TaskReport
from weft.run.context import Context
from weft.task.base import Task

__all__ = ["DEV", "TEST", "Judged", "evaluate", "split_rows"]
_LEAST_BUDGET = (
    4096  # tokens a pass: without gradients a pass costs a fraction of a training pass of its size
)


@dataclass(frozen=True, slots=True)
class Judged:
    """An evaluation with the answers behind it, by task."""

    report: EvalReport
    rows: Mapping[str, Sequence[Encoded]]
    answers: Mapping[str, Sequence[Answer]]


def split_rows(data: TaskData, split: str) -> tuple[str, Sequence[Encoded]]:
    """Return the rows of ``split`` and its honest name: without a test split dev is judged, which may be held out."""
    if split == TEST and data.test:
        return TEST, data.test
    return data.dev_split, data.dev


def taught_rows(data: TaskData, split: str) -> Sequence[Encoded]:
    """Return the same rows with their answers in them, where a task's loss needs that; all of them, for they are cheap."""
    return data.taught.get(TEST if split == TEST and data.test else DEV, ())


def spread(rows: Sequence[Encoded], limit: int | None) -> Sequence[Encoded]:
    """Return ``limit`` of ``rows``, the same ones each time and evenly spread: files are often sorted."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[place * len(rows) // limit] for place in range(limit)]


def evaluate(
    context: Context, stage: StageSpec, network: Network, tasks: Mapping[str, Task], *, split: str
) -> Judged:
    """Return the scores of ``tasks`` on ``split``. On ``DEV``, what a task fits to dev rows is fitted first.

    While training, on ``DEV``, a task answers as many rows as its ``judge`` says; at the end it answers all.

    Args:
        context: data, arithmetic and stop flag.
        stage: that the network belongs to.
        network: in any mode.
        tasks: by name; each has a head in the network.
        split: ``DEV`` or ``TEST``.

    Raises:
        Interrupted: the run was asked to stop.
    """
    start = time.perf_counter()
    chosen = {name: split_rows(context.data.tasks[name], split) for name in tasks}
    limits = {name: context.recipe.tasks[name].judge if split == DEV else None for name in tasks}
    rows = {name: spread(examples, limits[name]) for name, (_, examples) in chosen.items()}
    taught = {name: found for name in tasks if (found := taught_rows(context.data.tasks[name], split))}
    watch, budget = Watch(stop=context.stop), max(stage.budget, _LEAST_BUDGET)
    pad, dtype = context.tokenizer.pad, context.dtype
    losses = sum_losses(network, tasks, taught, pad=pad, budget=budget, dtype=dtype, watch=watch)
    found = answer_all(network, tasks, rows, pad=pad, budget=budget, dtype=dtype, watch=watch)
    reports: list[TaskReport] = []
    answers: dict[str, Sequence[Answer]] = {}
    for name, given in tasks.items():
        watch.check()  # intervals of a large split take their time
        task, answers[name] = given, found.answers[name]
        if split == DEV:
            task, answers[name] = calibrate(given, rows[name], answers[name])
        loss = losses[name].mean if name in losses else found.loss(name)
        report = _judge(context, task, chosen[name][0], rows[name], answers[name], loss=loss)
        reports.append(report.model_copy(update={"seconds": found.seconds[name]}))
    report = EvalReport(
        split=split,
        stage=stage.name,
        tasks=tuple(reports),
        selection=selection_score(reports),
        seconds=time.perf_counter() - start,
    )
    return Judged(report, rows, answers)


def details_of(context: Context, tasks: Mapping[str, Task], judged: Judged) -> tuple[TaskDetail, ...]:
    """Return what the answers of ``judged`` look like, with the texts of rows as they were read."""
    found: list[TaskDetail] = []
    for report in judged.report.tasks:
        data = context.data.tasks[report.task]
        read = data.test_rows if report.split == TEST else data.dev_rows
        found.append(
            detail(
                tasks[report.task],
                judged.rows[report.task],
                judged.answers[report.task],
                {row.where: row for row in read},
                split=report.split,
                resamples=context.recipe.bootstrap,
                seed=fold(context.recipe.seed, "details", report.task),
            )
        )
    return tuple(found)


def _judge(
    context: Context,
    task: Task,
    split: str,
    rows: Sequence[Encoded],
    answers: Sequence[Answer],
    *,
    loss: float | None,
) -> TaskReport:
    data = context.data.tasks[task.name]
    report = judge(
        task,
        rows,
        answers,
        split=split,
        train_golds=data.train_golds,
        resamples=context.recipe.bootstrap,
        seed=fold(context.recipe.seed, "judge", task.name),
        loss=loss,
    )
    return report.model_copy(update={"fitted": fitted_values(task, data.task)})
