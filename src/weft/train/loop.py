"""The steps of a stage as a generator: evaluating, saving, printing and stopping early are code around it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice

import torch
from torch import Tensor

from weft.core.batch import Batch
from weft.errors import DivergenceError
from weft.recipe.duration import Duration
from weft.recipe.spec import Schedule
from weft.train.engine import Engine, StepResult
from weft.train.order import EpochOrder, Step
from weft.train.phases import Phases
from weft.train.progress import Progress, fraction_done, is_over
from weft.train.schedule import lr_factor

MAX_SKIPPED_IN_ROW = 3
_NAMED_ROWS = 8  # of each skipped step, in the message


@dataclass(frozen=True, slots=True)
class Course:
    """How far a stage goes and how its learning rate runs.

    Attributes:
        length: of the stage.
        schedule: after the warm-up.
        warmup: share of the stage.
    """

    length: Duration
    schedule: Schedule
    warmup: float


class Flag:
    """A device scalar on its way to the host; reading it waits for the step that wrote it, not for later ones."""

    def __init__(self, value: Tensor) -> None:
        self._value = value if value.is_cpu else value.to("cpu", non_blocking=value.is_cuda)
        self._event = torch.cuda.Event() if value.is_cuda else None
        if self._event is not None:
            self._event.record()

    def read(self) -> bool:
        """Return whether the scalar is not 0."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._value)


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One step was taken.

    Attributes:
        result: what it did.
        progress: of the stage after it; whether this very step was skipped is not counted yet.
        flag: whether it was.
    """

    result: StepResult
    progress: Progress
    flag: Flag

    def settled(self) -> Progress:
        """Return the whole progress after the step, as it is to be saved; waits for the device."""
        return self.progress.settled(skipped=self.flag.read())


def train(
    engine: Engine,
    order: EpochOrder,
    feed: Callable[[Step], list[Batch]],
    *,
    course: Course,
    start: Progress,
    phases: Phases | None = None,
) -> Generator[StepEvent, None, None]:
    """Take steps from ``start`` until the course is over, and yield after each.

    What is yielded, and in which order, is a function of order, course and start alone; only a length in minutes
    looks at the clock. To stop early, stop asking or close it. On a GPU the batches of a step are made while the device is still
    busy with the step before; a thread for that was measured and is not faster (decision record 0006).

    Args:
        engine: takes the steps.
        order: which rows make up which step.
        feed: the batches of a step.
        course: length and schedule.
        start: ``Progress()``, or what a checkpoint holds.
        phases: where not all parameters move in all steps.

    Raises:
        DivergenceError: more than ``MAX_SKIPPED_IN_ROW`` steps in a row were not finite; they and their rows are named.
    """
    progress = start
    recent: deque[StepEvent] = deque(maxlen=MAX_SKIPPED_IN_ROW + 1)
    steps = _prepared(order, feed, start)
    epoch_size, steps_per_epoch = order.epoch_size, order.steps_per_epoch
    while not is_over(course.length, progress, epoch_size=epoch_size):
        began = time.perf_counter()
        drawn, batches = next(steps)
        after = progress.counted(
            Counter([task for task, _ in drawn]),
            tokens=sum([batch.layout.num_tokens for batch in batches]),
            padded_tokens=sum([batch.tokens.numel() for batch in batches]),
            steps_per_epoch=steps_per_epoch,
        )
        factor = _factor(course, progress, after, epoch_size=epoch_size)
        if phases is not None:
            done = fraction_done(course.length, progress, epoch_size=epoch_size)
            phases.enter(step=progress.step, fraction=done)
        result = engine.step(batches, step=progress.step, lr_factor=factor)
        flag = Flag(result.skipped)
        if recent:  # only now, so that the host waits for the last step while this one is under way
            after = after.settled(skipped=recent[-1].flag.read())
            _check(after, recent)
        progress = replace(after, seconds=progress.seconds + time.perf_counter() - began)
        recent.append(StepEvent(result, progress, flag))
        yield recent[-1]
    if recent:
        _check(recent[-1].settled(), recent)


def _prepared(
    order: EpochOrder, feed: Callable[[Step], list[Batch]], start: Progress
) -> Iterator[tuple[Step, list[Batch]]]:
    """Yield the draws and batches of every step from ``start`` on, without end."""
    for epoch in count(start.epoch):
        first = start.step_in_epoch if epoch == start.epoch else 0
        for step in islice(order.steps(epoch), first, None):
            yield step, feed(step)


def _factor(course: Course, before: Progress, after: Progress, *, epoch_size: int) -> float:
    """Return the schedule's factor in the middle of a step, so that neither the first nor the last step has rate 0."""
    middle = sum([fraction_done(course.length, at, epoch_size=epoch_size) for at in (before, after)]) / 2
    return lr_factor(middle, schedule=course.schedule, warmup=course.warmup)


def _check(progress: Progress, recent: Iterable[StepEvent]) -> None:
    if progress.skipped_in_row <= MAX_SKIPPED_IN_ROW:
        return
    steps = "; ".join(
        f"step {event.result.step}: {', '.join(event.result.ids[:_NAMED_ROWS])}"
        + (f" and {len(event.result.ids) - _NAMED_ROWS} more" if len(event.result.ids) > _NAMED_ROWS else "")
        for event in recent
    )
    raise DivergenceError(
        f"training: loss and gradient must be finite, but were not in {progress.skipped_in_row} steps in a row; none of "
        f"them was applied. Lower the learning rate, or look at these rows: {steps}."
    )
