"""One run of a recipe, timed from outside: what happens between two events is theirs."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.order import Clock, Order, Score
from bench.ours.switches import switched_off


@dataclass
class Ran:
    """What a run did.

    Attributes:
        report: Weft's own.
        epochs: seconds of each epoch's steps and of everything else between stage entry and the last step; not
            evaluations and checkpoints.
    """

    report: Any = None
    epochs: dict[int, float] = field(default_factory=dict[int, float])

    @property
    def seconds(self) -> float:
        """Seconds of all epochs."""
        return sum(self.epochs.values())

    def scores(self) -> list[Score]:
        """Return the dev scores after the last epoch, which is what the peers are judged by too."""
        from bench.judge import of_task

        return [of_task(task) for task in self.report.stages[-1].evaluations[-1].tasks]


def run(text: str, order: Order, clock: Clock, *, name: str = "run") -> Ran:
    """Train the recipe ``text`` into a folder of the order's work; its paths start from the order's files."""
    from weft.build.catalogue import open_recipe
    from weft.run.events import Evaluated, Finished, Saved, StageStarted, Stepped
    from weft.run.folder import RunFolder
    from weft.run.session import train

    path = order.work / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    ran, last, is_training = Ran(), time.perf_counter(), False
    with switched_off(order.off), first_step(clock):
        for event in train(open_recipe(path), RunFolder(order.work / name), root=order.files):
            now = time.perf_counter()
            if isinstance(event, Stepped):
                epoch = max(1, math.ceil(event.report.epoch - 1e-6))
                ran.epochs[epoch] = ran.epochs.get(epoch, 0.0) + now - last
            elif isinstance(event, Finished):
                ran.report = event.report
            is_training = is_training or isinstance(event, StageStarted)
            if is_training and isinstance(event, StageStarted | Stepped | Evaluated | Saved):
                last = now
    return ran


@contextmanager
def first_step(clock: Clock) -> Generator[None]:
    """Tell ``clock`` when an engine has taken its first step."""
    from weft.train.engine import Engine

    step = Engine.step

    def timed(self: Engine, *args: Any, **kwargs: Any) -> Any:
        result = step(self, *args, **kwargs)
        clock.first()
        return result

    Engine.step = timed
    try:
        yield
    finally:
        Engine.step = step


def recipe(
    tasks: Sequence[str],
    stage: str,
    order: Order,
    *,
    model: str = "{path: minilm, max_tokens: 128}",
) -> str:
    """Return a recipe of one stage, with the order's levers.

    Args:
        tasks: YAML lines, one a task.
        stage: keys and values of the stage, YAML flow text.
        order: seed and levers.
        model: YAML flow text.
    """
    keys = ", ".join(["name: only", stage, *order.stage])
    lines = [f"seed: {order.seed}", f"model: {model}", *order.recipe, "tasks:"]
    return "\n".join([*lines, *(f"  {task}" for task in tasks), "stages:", f"  - {{{keys}}}", ""])


def sst2(order: Order) -> str:
    """Return the task line of SST-2."""
    return f"sst2: {{kind: classification, train: 'train.jsonl[:{order.rows}]', dev: dev.jsonl}}"


def epochs_of(order: Order) -> str:
    """Return the stage's length."""
    return f"length: {order.epochs} epochs"
