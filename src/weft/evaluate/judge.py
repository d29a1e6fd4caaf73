"""Scores of one task's answers: every metric with its rows, its interval and what a baseline would score.

A task may fit a threshold or a temperature to dev rows (``weft.task.base.Calibrates``): that is done here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weft.core.example import Answer, Encoded
from weft.core.seeds import fold
from weft.errors import DataError
from weft.metric.base import Metric
from weft.metric.bootstrap import interval
from weft.report.records import Score, TaskReport
from weft.task.base import Calibrates, Task


def calibrate(
    task: Task, encoded: Sequence[Encoded], answers: Sequence[Answer]
) -> tuple[Task, Sequence[Answer]]:
    """Return ``task`` with what it fits to rows that all have a gold answer, and its answers to them from then on."""
    if not isinstance(task, Calibrates):
        return task, answers
    return task.calibrated([row.gold for row in encoded], answers)


def fitted_values(task: Task, before: Task) -> dict[str, Any]:
    """Return what was fitted to dev rows: the values of the config of ``task`` that differ from those ``before``."""
    old = before.config()
    return {key: value for key, value in task.config().items() if value != old[key]}


def judge(
    task: Task,
    encoded: Sequence[Encoded],
    answers: Sequence[Answer],
    *,
    split: str,
    train_golds: Sequence[Any],
    resamples: int,
    seed: int,
    loss: float | None = None,
) -> TaskReport:
    """Return every metric of ``task`` over the rows that have a gold answer.

    Args:
        task: the fitted task.
        encoded: its rows.
        answers: one a row, in the same order.
        split: dev, test or held-out.
        train_golds: gold answers of the training rows; the baseline sees nothing else.
        resamples: bootstrap resamples behind each interval.
        seed: of the resampling.
        loss: mean loss of the same rows, if it was taken.

    Raises:
        DataError: no row has a gold answer.
    """
    rows = [(row.gold, answer) for row, answer in zip(encoded, answers, strict=True) if row.gold is not None]
    if not rows:
        raise DataError(
            f"task {task.name}, {split}: must have a row with a gold answer to be judged, but none of "
            f"{len(encoded)} has one. Give labelled rows, or predict instead."
        )
    golds = [gold for gold, _ in rows]
    found = [answer for _, answer in rows]
    baseline = task.baseline(train_golds, len(golds))
    scores = tuple(
        _score(
            metric,
            golds,
            found,
            baseline=baseline,
            resamples=resamples,
            seed=fold(seed, "bootstrap", task.name, split, metric.name),
        )
        for metric in task.metrics
    )
    return TaskReport(
        task=task.name,
        kind=task.kind,
        split=split,
        scores=scores,
        loss=loss,
        is_chosen_by_loss=loss is not None and not task.metrics[0].selects,
    )


def _score(
    metric: Metric,
    golds: Sequence[Any],
    answers: Sequence[Answer],
    *,
    baseline: Sequence[Answer],
    resamples: int,
    seed: int,
) -> Score:
    low, high = interval(metric, golds, answers, resamples=resamples, seed=seed)
    return Score(
        metric=metric.name,
        value=float(metric.value(golds, answers)),
        low=low,
        high=high,
        n=len(golds),
        baseline=float(metric.value(golds, baseline)),
        higher_is_better=metric.higher_is_better,
        best=metric.best,
        signature="" if metric.signature is None else metric.signature(golds),
    )
