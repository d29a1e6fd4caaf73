"""Two runs on the same rows: is the difference more than chance, which rows changed, and what differs in the recipes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weft.core.example import Answer
from weft.core.seeds import fold
from weft.errors import DataError
from weft.evaluate.predictions import PredictedRow, PredictionFile
from weft.metric.base import Metric
from weft.metric.bootstrap import paired
from weft.report.records import (
    ChangedRow,
    CompareReport,
    MetricComparison,
    RecipeDifference,
    TaskComparison,
    Verdict,
)
from weft.task.base import Task

NUM_SHOWN = 5
"""Changed rows that a report shows in each direction."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One side of a comparison.

    Attributes:
        name: of the run.
        recipe: its resolved recipe as JSON values.
        predictions: saved answers by task.
    """

    name: str
    recipe: Mapping[str, Any]
    predictions: Mapping[str, PredictionFile]


def compare(
    a: Candidate, b: Candidate, tasks: Mapping[str, Task], *, resamples: int, seed: int
) -> CompareReport:
    """Return how ``b`` differs from ``a`` on the tasks that both answered.

    Args:
        a: the reference.
        b: what is compared with it; better and worse are said of this one.
        tasks: by name, as ``Task.from_config`` builds them from a prediction file.
        resamples: paired bootstrap resamples behind each interval and p.
        seed: of the resampling.

    Raises:
        DataError: no common task, or the rows (by ``where``) or their gold answers differ.
    """
    names = [name for name in a.predictions if name in b.predictions]
    if not names:
        raise DataError(
            f"{a.name} and {b.name}: must have answered a common task, but {a.name} answered "
            f"{_names(a.predictions)} and {b.name} {_names(b.predictions)}."
        )
    return CompareReport(
        a=a.name,
        b=b.name,
        tasks=tuple(
            _compare_task(
                tasks[name], a.predictions[name], b.predictions[name], resamples=resamples, seed=seed
            )
            for name in names
        ),
        only_a=tuple(name for name in a.predictions if name not in b.predictions),
        only_b=tuple(name for name in b.predictions if name not in a.predictions),
        recipe=recipe_differences(a.recipe, b.recipe),
    )


def recipe_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[RecipeDifference, ...]:
    """Return the keys whose values differ, ``stages.0.lr`` for nested ones, sorted; a missing one is None.

    Example:
        >>> recipe_differences({"seed": 0, "model": {"path": "x"}}, {"seed": 1, "model": {"path": "x"}})
        (RecipeDifference(key='seed', a='0', b='1'),)
    """
    left, right = _leaves(a, ""), _leaves(b, "")
    return tuple(
        RecipeDifference(key=key, a=left.get(key), b=right.get(key))
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    )


def distance(gold: Any, answer: Answer) -> float:
    """Return how far an answer is from ``gold``: 0 where it is right.

    Numbers: absolute error. Tags: words with another tag. Everything else (label, labels, text): 0 or 1. A text is right
    if it is one of several right ones, an empty one where there is none.
    """
    if answer.value is not None and answer.label is None:
        return abs(answer.value - float(gold))
    if answer.tags is not None:
        wrong = sum(given != wanted for given, wanted in zip(answer.tags, gold, strict=False))
        return float(wrong + abs(len(answer.tags) - len(gold)))
    given = answer.text if answer.label is None else answer.label
    if isinstance(given, str):
        right = gold if isinstance(gold, list | tuple) else [gold]
        return float(given.strip() not in ([str(one).strip() for one in right] or [""]))
    return float(set(given or ()) != set(gold))


def _compare_task(
    task: Task, a: PredictionFile, b: PredictionFile, *, resamples: int, seed: int
) -> TaskComparison:
    pairs = _matched(a, b)
    golds = [left.gold for left, _ in pairs]
    from_a, from_b = [left.answer for left, _ in pairs], [right.answer for _, right in pairs]
    metrics = tuple(
        _compare_metric(
            metric,
            golds,
            from_a,
            from_b,
            resamples=resamples,
            seed=fold(seed, "paired", task.name, metric.name),
        )
        for metric in task.metrics
    )
    # Nearer to gold is positive; rounding noise of two equal models is no change.
    changes = [distance(left.gold, left.answer) - distance(right.gold, right.answer) for left, right in pairs]
    better = [at for at, change in enumerate(changes) if change > 1e-6]
    worse = [at for at, change in enumerate(changes) if change < -1e-6]
    shown = [
        at for side in (better, worse) for at in sorted(side, key=lambda at: -abs(changes[at]))[:NUM_SHOWN]
    ]
    return TaskComparison(
        task=a.task,
        kind=a.kind,
        split=a.split,
        metrics=metrics,
        rows_better=len(better),
        rows_worse=len(worse),
        changed=tuple(_changed(*pairs[at], is_better=changes[at] > 0) for at in shown),
    )


def _compare_metric(
    metric: Metric,
    golds: Sequence[Any],
    a: Sequence[Answer],
    b: Sequence[Answer],
    *,
    resamples: int,
    seed: int,
) -> MetricComparison:
    # The record says b - a, and paired() takes the second from the first.
    difference, low, high, p = paired(metric, golds, b, a, resamples=resamples, seed=seed)
    return MetricComparison(
        metric=metric.name,
        a=float(metric.value(golds, a)),
        b=float(metric.value(golds, b)),
        difference=difference,
        low=low,
        high=high,
        p=p,
        n=len(golds),
        best=metric.best,
        higher_is_better=metric.higher_is_better,
        verdict=_verdict(low, high, metric),
    )


def _verdict(low: float, high: float, metric: Metric) -> Verdict:
    if low <= 0 <= high:
        return Verdict.TIE
    return Verdict.BETTER if (low > 0) == metric.higher_is_better else Verdict.WORSE


def _matched(a: PredictionFile, b: PredictionFile) -> list[tuple[PredictedRow, PredictedRow]]:
    """Return the rows with gold of both files in pairs, in the order of ``a``."""
    left, right = _by_where(a), _by_where(b)
    only_a, only_b = left.keys() - right.keys(), right.keys() - left.keys()
    if only_a or only_b:
        example = min(only_a or only_b)
        raise DataError(
            f"task {a.task}: both runs must have answered the same rows, but {len(only_a)} are in the first only "
            f"and {len(only_b)} in the second only (such as {example}). Evaluate both on the same file."
        )
    changed = [where for where in left if left[where].gold != right[where].gold]
    if changed:
        raise DataError(
            f"task {a.task}: both runs must have the same gold answers, but {len(changed)} of {len(left)} differ "
            f"(such as {changed[0]}). Evaluate both on the same file."
        )
    pairs = [(left[where], right[where]) for where in left if left[where].gold is not None]
    if not pairs:
        raise DataError(
            f"task {a.task}: must have rows with gold answers to compare, but has none of {len(left)}."
        )
    return pairs


def _by_where(file: PredictionFile) -> dict[str, PredictedRow]:
    rows = {row.where: row for row in file.rows}
    if len(rows) < len(file.rows):
        raise DataError(
            f"task {file.task}: every row must stand at a place of its own, but {len(file.rows) - len(rows)} of "
            f"{len(file.rows)} repeat one. Evaluate again."
        )
    return rows


def _changed(a: PredictedRow, b: PredictedRow, *, is_better: bool) -> ChangedRow:
    return ChangedRow(
        where=a.where, is_better=is_better, gold=_text(a.gold), a=_decided(a.answer), b=_decided(b.answer)
    )


def _decided(answer: Answer) -> str:
    """Return what was answered in one line, without probabilities."""
    for value in (answer.label, answer.value, answer.tags, answer.text):
        if value is not None:
            return _text(value)
    return ""


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, set | frozenset | list | tuple):
        items: Sequence[Any] = sorted(value) if isinstance(value, set | frozenset) else value
        return " ".join(map(str, items))
    return str(value)


def _leaves(value: Any, key: str) -> dict[str, str]:
    """Return each leaf of nested mappings and lists as JSON text by dotted key."""
    pairs: Sequence[tuple[Any, Any]]
    if isinstance(value, Mapping) and value:
        pairs = list(value.items())
    elif isinstance(value, list | tuple) and value:
        pairs = list(enumerate(value))
    else:
        return {key: json.dumps(value, ensure_ascii=False, default=str)}
    prefix = f"{key}." if key else ""
    return {name: text for at, item in pairs for name, text in _leaves(item, f"{prefix}{at}").items()}


def _names(found: Mapping[str, Any]) -> str:
    return ", ".join(sorted(found)) or "none"
