"""Evaluating a network in the course of a run: dev to choose by, test for the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weft.build.data import DEV, TEST, TaskData
from weft.core.example import Answer, Encoded
from weft.core.network import Network
from weft.core.seeds import fold
from weft.evaluate.judge import calibrate, fitted_values, judge
from weft.evaluate.predict import Watch, answer_all
from weft.evaluate.selection import selection_score
from weft.recipe.spec import StageSpec
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


def evaluate(
    context: Context, stage: StageSpec, network: Network, tasks: Mapping[str, Task], *, split: str
) -> Judged:
    """Return the scores of ``tasks`` on ``split``. On ``DEV``, what a task fits to dev rows is fitted first.

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
    rows = {name: examples for name, (_, examples) in chosen.items()}
    watch = Watch(stop=context.stop)
    found = answer_all(
        network,
        tasks,
        rows,
        pad=context.tokenizer.pad,
        budget=max(stage.budget, _LEAST_BUDGET),
        dtype=context.dtype,
        watch=watch,
    )
    reports: list[TaskReport] = []
    answers: dict[str, Sequence[Answer]] = {}
    for name, given in tasks.items():
        watch.check()  # intervals of a large split take their time
        task, answers[name] = given, found.answers[name]
        if split == DEV:
            task, answers[name] = calibrate(given, rows[name], answers[name])
        loss = found.loss(name)
        reports.append(_judge(context, task, chosen[name][0], rows[name], answers[name], loss=loss))
    report = EvalReport(
        split=split,
        stage=stage.name,
        tasks=tuple(reports),
        selection=selection_score(reports),
        seconds=time.perf_counter() - start,
    )
    return Judged(report, rows, answers)


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
