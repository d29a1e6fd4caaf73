"""One stage: enter, train with evaluating and saving around the step generator, leave."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from weft.build.estimate import plan_stage
from weft.build.order import order_of
from weft.build.stage import Entered, enter
from weft.core.parts import Parts
from weft.errors import Interrupted
from weft.evaluate.predict import Watch
from weft.objective.supervised import Supervised
from weft.recipe.spec import OptimizerCarry, StageSpec, TrunkCarry
from weft.report.records import StagePlan, StageReport
from weft.run.checkpoints import Checkpoints, History
from weft.run.context import Context
from weft.run.events import Evaluated, Event, Saved, StageStarted, Stepped
from weft.run.judging import DEV, Bench, evaluate
from weft.run.probe import check_entry, probe
from weft.train.engine import Engine, StepResult, summary
from weft.train.feed import Feed
from weft.train.loop import Course, StepEvent, train
from weft.train.optimizer import FusedAdamW, load_optimizer_state, make_optimizer
from weft.train.order import EpochOrder
from weft.train.progress import Progress, due, fraction_done

_LOG_SECONDS = 2.0  # of training between two lines of the curve, at least


class Parent(NamedTuple):
    """What the parent stage left: its parts, the states its network gave for the probe rows, its name."""

    parts: Parts
    probe_TD: Tensor
    name: str


class Left(NamedTuple):
    """What a stage leaves behind."""

    parts: Parts
    probe_TD: Tensor
    report: StageReport


@dataclass(slots=True)
class StageRun:
    """A stage under way: the network being trained and where it is."""

    context: Context
    stage: StageSpec
    entered: Entered
    plan: StagePlan
    optimizer: FusedAdamW
    order: EpochOrder
    progress: Progress = field(default_factory=Progress)
    history: History = field(default_factory=History)
    stopped: str = "length"

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.context, self.stage.name)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that this stage trains."""
        return self.context.recipe.tasks_of(self.stage)

    @property
    def bench(self) -> Bench:
        """How this stage's networks are judged."""
        context = self.context
        return Bench(
            data=context.data,
            pad=context.tokenizer.pad,
            budget=max(self.stage.budget, 4096),
            dtype=context.dtype,
            resamples=context.recipe.bootstrap,
            seed=context.recipe.seed,
            watch=Watch(stop=context.stop),
        )


def open_stage(context: Context, stage: StageSpec, parent: Parent | None) -> tuple[StageRun, StageStarted]:
    """Return ``stage`` entered, or taken up again from its newest checkpoint.

    Raises:
        HandOverError: entering would change the function.
        CheckpointError: there are checkpoints, but none can be used.
    """
    parts = Parts() if parent is None else parent.parts
    entered = enter(
        context.recipe,
        stage,
        base=context.base,
        tasks=context.data.fitted,
        parts=parts,
        device=context.device,
    )
    run = StageRun(
        context=context,
        stage=stage,
        entered=entered,
        plan=plan_stage(context.recipe, stage, entered, context.data, context.machine),
        optimizer=make_optimizer(entered.table, entered.sites, decay=stage.decay),
        order=order_of(context.recipe, stage, context.data),
    )
    path, rejected = run.checkpoints.newest()
    if path is None:
        _begin(run, parent)
    else:
        run.progress, run.history = run.checkpoints.restore(path, entered, run.optimizer)
    return run, StageStarted(run.plan, run.progress.step, run.history.entry_difference, rejected)


def _begin(run: StageRun, parent: Parent | None) -> None:
    if parent is None:
        return
    if run.stage.carry.trunk is not TrunkCarry.DROP:
        run.history.entry_difference = check_entry(run.stage.name, parent.probe_TD, probe(run.entered.sites))
    if run.stage.carry.optimizer is OptimizerCarry.CONTINUE:
        load_optimizer_state(run.optimizer, Checkpoints(run.context, parent.name).optimizer_of_end())


def train_stage(run: StageRun) -> Iterator[Event]:
    """Train ``run`` to its end or until its patience is out; evaluate and save on the way.

    Raises:
        Interrupted: the run was asked to stop; the state is saved.
        DivergenceError: too many steps in a row were not finite.
    """
    pending: list[StepResult] = []
    began = run.progress
    for event in _steps(run):
        before, run.progress = run.progress, event.settled()
        pending.append(event.result)
        size = run.order.epoch_size
        is_judged = due(run.stage.evaluate, before, run.progress, epoch_size=size)
        if is_judged or run.progress.seconds - began.seconds >= _LOG_SECONDS:
            yield _note(run, pending, since=began)
            began = run.progress
        if is_judged:
            yield _judge(run)
        if is_judged or due(run.stage.save, before, run.progress, epoch_size=size) or run.context.stop():
            yield _save(run)
        if run.context.stop():
            raise Interrupted(
                f"{run.stage.name}: stopped by {run.context.stop.reason} after step {run.progress.step}."
            )
        if run.stage.patience is not None and run.history.best.since >= run.stage.patience:
            run.stopped = "patience"
            break
    if pending:
        yield _note(run, pending, since=began)
    if not run.history.evaluations or run.history.evaluations[-1].step != run.progress.step:
        yield _judge(run)
        yield _save(run)


def _steps(run: StageRun) -> Iterator[StepEvent]:
    context, stage = run.context, run.stage
    names = run.order.mixture.tasks
    data = {name: context.data.tasks[name] for name in names}
    engine = Engine(
        run.entered.network,
        Supervised({name: task_data.task.loss for name, task_data in data.items()}),
        optimizer=run.optimizer,
        weights={name: context.recipe.tasks[name].weight for name in names},
        device=context.device,
        dtype=context.dtype,
        clip=stage.clip,
        seed=(context.recipe.seed, stage.name),
    )
    feed = Feed(
        tasks={name: task_data.task for name, task_data in data.items()},
        rows={name: task_data.train for name, task_data in data.items()},
        pad=context.tokenizer.pad,
        budget=stage.budget,
    )
    course = Course(stage.length, stage.schedule, stage.warmup)
    with closing(train(engine, run.order, feed, course=course, start=run.progress)) as steps:
        yield from steps


def _note(run: StageRun, pending: list[StepResult], *, since: Progress) -> Stepped:
    """Put the steps since the last line into the curve, and forget them."""
    report = summary(
        pending,
        stage=run.stage.name,
        epoch=run.progress.num_examples / run.order.epoch_size,
        seconds=run.progress.seconds - since.seconds,
    )
    pending.clear()
    run.history.curve.append(report)
    run.context.folder.append("step", report)
    return Stepped(report, fraction_done(run.stage.length, run.progress, epoch_size=run.order.epoch_size))


def _judge(run: StageRun) -> Evaluated:
    judged = evaluate(run.entered.network, run.bench, run.tasks, split=DEV)
    place = {"stage": run.stage.name, "step": run.progress.step}
    report = judged.report.model_copy(
        update={**place, "epoch": run.progress.num_examples / run.order.epoch_size}
    )
    run.history.evaluations.append(report)
    run.history.seconds_evaluating += judged.seconds
    run.history.best = run.history.best.seen(report.selection, step=run.progress.step)
    run.context.folder.append("evaluation", report)
    return Evaluated(report, is_best=run.history.best.step == run.progress.step)


def _save(run: StageRun) -> Saved:
    path = run.checkpoints.save(run.entered, run.optimizer, run.progress, run.history)
    return Saved(path, run.progress.step)


def leave_stage(run: StageRun) -> Left:
    """Put the best weights back and return what the stage hands on, with its report."""
    best = run.history.best.step
    assert best is not None, "train_stage ends with an evaluation"
    run.checkpoints.restore_best(best, run.entered)
    leaving = evaluate(run.entered.network, run.bench, tuple(run.entered.tasks), split=DEV)
    report = StageReport(
        name=run.stage.name,
        parent=run.plan.parent,
        plan=run.plan,
        steps=run.progress.step,
        epochs=run.progress.num_examples / run.order.epoch_size,
        examples=dict(run.progress.examples),
        tokens=run.progress.tokens,
        padded_tokens=run.progress.padded_tokens,
        skipped=run.progress.skipped,
        seconds=run.progress.seconds,
        seconds_evaluating=run.history.seconds_evaluating + leaving.seconds,
        peak_memory_bytes=peak_memory_bytes(),
        entry_difference=run.history.entry_difference,
        best_step=best,
        stopped=run.stopped,
        curve=tuple(run.history.curve),
        evaluations=tuple(run.history.evaluations),
        leaving=leaving.report.model_copy(update={"stage": run.stage.name, "step": best}),
    )
    return Left(run.entered.leave(), probe(run.entered.sites), report)


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
