"""The one number that early stopping and the best checkpoint go by (decision record 0007)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from weft.report.records import Score, TaskReport

FLOOR = 0.01
"""Share that a task at or below its baseline counts with: small enough to drag, not zero, which would hide the rest."""


def gain(score: Score) -> float:
    """Return which share of what was to gain over the baseline was gained: 0 at the baseline, 1 for perfect answers.

    The quotient has the same sign for metrics where lower is better, because both differences change theirs.
    Below the baseline it is negative. Where the baseline is perfect already (one label only) there is nothing to
    gain: perfect answers count 1, others 0.

    Raises:
        ValueError: baseline or best value is not finite.

    Example:
        >>> gain(Score(metric="rmse", value=0.5, low=0.4, high=0.6, n=9, baseline=2, best=0, higher_is_better=False))
        0.75
    """
    if not (math.isfinite(score.baseline) and math.isfinite(score.best)):
        raise ValueError(
            f"{score.metric}: baseline and best must be finite, but are {score.baseline} and {score.best}."
        )
    if not math.isfinite(score.value):
        return 0.0
    to_gain = score.best - score.baseline
    if to_gain == 0:
        return 1.0 if score.value == score.best else 0.0
    return (score.value - score.baseline) / to_gain


def task_gain(report: TaskReport) -> float:
    """Return the gain of one task's primary metric, or of its loss where that chooses.

    A loss per token in nats becomes 1 / (1 + loss): 1 for a sure and right model, a half at one nat, and never so near
    to 0 that the floor would hide a difference. So it lies on the scale of other gains, and orders checkpoints as the
    loss does.

    Example:
        >>> score = Score(metric="exact_match", value=0, low=0, high=0, n=9, baseline=0)
        >>> report = TaskReport(task="t", kind="k", split="dev", scores=(score,), loss=3.0)
        >>> task_gain(report), task_gain(report.model_copy(update={"is_chosen_by_loss": True}))
        (0.0, 0.25)
    """
    if not report.is_chosen_by_loss or report.loss is None:
        return gain(report.scores[0])
    return _by_loss(report.loss)


def selection_score(reports: Sequence[TaskReport]) -> float:
    """Return the geometric mean over tasks of each task's gain, floored at ``FLOOR``.

    Tasks at the floor are told apart by their loss, within the floor: a hard metric is 0 for many evaluations, and the
    first of them is not the best. A relative improvement counts the same in every task and at every level, and a task that stays at its baseline
    drags the whole, however easy the others are. A diverged model (value not finite) counts as at its baseline.

    Raises:
        ValueError: no reports.
    """
    if not reports:
        raise ValueError("selection: needs the report of one task at least, but there is none.")
    logs = [math.log(max(task_gain(report), _floor(report.loss))) for report in reports]
    return math.exp(math.fsum(logs) / len(logs))


def _floor(loss: float | None) -> float:
    return FLOOR if loss is None else FLOOR * max(_by_loss(loss), FLOOR)


def _by_loss(loss: float) -> float:
    """Return a loss on the scale of gains, 1 for none; a loss that is not finite is the worst."""
    return 1 / (1 + max(loss, 0.0)) if math.isfinite(loss) else 0.0
