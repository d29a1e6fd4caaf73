"""Evaluating a network in the course of a run: dev to choose by, test for the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weft.build.data import DEV, TEST, TaskData
from weft.core.example import Answer, Encoded
from weft.core.network import Network
from weft.core.seeds import fold
from weft.evaluate.judge import judge
from weft.evaluate.predict import Predictions, Watch, answer_all
from weft.evaluate.selection import selection_score
from weft.recipe.spec import StageSpec
from weft.report.records import EvalReport, TaskReport
from weft.run.context import Context

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
    context: Context, stage: StageSpec, network: Network, tasks: Sequence[str], *, split: str
) -> Judged:
    """Return the scores of ``tasks`` on ``split``.

    Args:
        context: data, arithmetic and stop flag.
        stage: that the network belongs to.
        network: in any mode.
        tasks: that have a head in it.
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
        context.data.fitted,
        rows,
        pad=context.tokenizer.pad,
        budget=max(stage.budget, _LEAST_BUDGET),
        dtype=context.dtype,
        watch=watch,
    )
    reports: list[TaskReport] = []
    for name in tasks:
        watch.check()  # intervals of a large split take their time
        reports.append(_judge(context, name, chosen[name][0], rows[name], found))
    report = EvalReport(
        split=split,
        stage=stage.name,
        tasks=tuple(reports),
        selection=selection_score(reports),
        seconds=time.perf_counter() - start,
    )
    return Judged(report, rows, found.answers)


def _judge(
    context: Context, name: str, split: str, rows: Sequence[Encoded], found: Predictions
) -> TaskReport:
    data = context.data.tasks[name]
    return judge(
        data.task,
        rows,
        found.answers[name],
        split=split,
        train_golds=data.train_golds,
        resamples=context.recipe.bootstrap,
        seed=fold(context.recipe.seed, "judge", name),
        loss=found.loss(name),
    )
