"""Evaluating a network in the course of a run: dev to choose by, test for the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from weft.build.data import Data, TaskData
from weft.core.example import Answer, Encoded
from weft.core.network import Network
from weft.core.seeds import fold
from weft.evaluate.judge import judge
from weft.evaluate.predict import Predictions, Watch, answer_all
from weft.evaluate.selection import selection_score
from weft.report.records import EvalReport

DEV, TEST = "dev", "test"


@dataclass(frozen=True, slots=True)
class Bench:
    """What judging needs besides a network.

    Attributes:
        data: every task's splits.
        pad: padding token.
        budget: most tokens, padding included, in one pass.
        dtype: of matrix products.
        resamples: behind each interval.
        seed: of the resampling.
        watch: progress and stop flag.
    """

    data: Data
    pad: int
    budget: int
    dtype: torch.dtype
    resamples: int
    seed: int
    watch: Watch


@dataclass(frozen=True, slots=True)
class Judged:
    """An evaluation with the answers behind it, by task."""

    report: EvalReport
    rows: Mapping[str, Sequence[Encoded]]
    answers: Mapping[str, Sequence[Answer]]
    seconds: float


def split_rows(data: TaskData, split: str) -> tuple[str, Sequence[Encoded]]:
    """Return the rows of ``split`` and its honest name; a task without a test split is judged on dev."""
    if split == TEST and data.test:
        return TEST, data.test
    return DEV, data.dev


def evaluate(network: Network, bench: Bench, tasks: Sequence[str], *, split: str) -> Judged:
    """Return the scores of ``tasks`` on ``split``.

    Raises:
        Interrupted: the run was asked to stop.
    """
    start = time.perf_counter()
    chosen = {name: split_rows(bench.data.tasks[name], split) for name in tasks}
    rows = {name: examples for name, (_, examples) in chosen.items()}
    found: Predictions = answer_all(
        network, bench.data.fitted, rows, pad=bench.pad, budget=bench.budget, dtype=bench.dtype, watch=bench.watch
    )
    reports = tuple(
        judge(
            bench.data.tasks[name].task,
            rows[name],
            found.answers[name],
            split=chosen[name][0],
            train_golds=bench.data.tasks[name].train_golds,
            resamples=bench.resamples,
            seed=fold(bench.seed, "judge", name),
            loss=found.loss(name),
        )
        for name in tasks
    )
    report = EvalReport(split=split, tasks=reports, selection=selection_score(reports))
    return Judged(report, rows, found.answers, time.perf_counter() - start)
