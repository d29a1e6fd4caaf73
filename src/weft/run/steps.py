"""Training a stage: evaluating, saving, logging and stopping are ordinary code around the generator of steps."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field

from weft.build.order import feed_of
from weft.core.seeds import fold
from weft.errors import DivergenceError, Interrupted
from weft.objective.supervised import Supervised
from weft.run.events import Evaluated, Event, Saved, Stepped
from weft.run.judging import DEV, evaluate
from weft.run.stage import StageRun
from weft.train.engine import Engine, summary
from weft.train.loop import Course, StepEvent, train
from weft.train.phases import Phases
from weft.train.progress import Progress, due, fraction_done

_LINE_SECONDS = 2.0  # of training between two lines of the curve, at least
_LINE_SHARE = (
    0.005  # of all training so far, at least: a curve of days has some thousand lines, not a million
)


def train_stage(run: StageRun) -> Iterator[Event]:
    """Train ``run`` to its end or until its patience is out; evaluate and save on the way.

    What happens after a resume is what would have happened without the break: an evaluation that was broken off
    comes first, and a stage that had come to its end takes no further step.

    Raises:
        Interrupted: the run was asked to stop; the state is saved.
        DivergenceError: too many steps in a row were not finite; the last checkpoint is as it was.
    """
    if run.history.is_owed:
        yield from _judge(run)
    if not run.is_impatient:
        yield from _take_steps(run)
    if not run.is_judged:
        yield from _judge(run)


@dataclass(slots=True)
class _Line:
    """The steps since the last line of the curve."""

    since: Progress
    events: list[StepEvent] = field(default_factory=list[StepEvent])

    def is_long(self) -> bool:
        """Whether it is time for a line."""
        seconds = self.events[-1].progress.seconds
        return seconds - self.since.seconds >= max(_LINE_SECONDS, _LINE_SHARE * seconds)


def _take_steps(run: StageRun) -> Iterator[Event]:
    line = _Line(run.progress)
    with closing(_steps(run)) as steps, _at_rest(run):
        try:
            for event in steps:
                line.events.append(event)
                yield from _after_step(run, line)
                if run.is_judged and run.is_impatient:
                    break
        except DivergenceError as error:
            if line.events:
                yield _note(run, line)
            run.context.log.append("diverged", {"stage": run.stage.name, "message": str(error)})
            raise
    if line.events:
        yield _note(run, line)


def _at_rest(run: StageRun) -> AbstractContextManager[object]:
    """Compute as in one long pass where only heads are trained: nobody looks at the trunk's own parameters then."""
    network = run.entered.network
    is_moved = any(not row.owner.startswith("head:") for row in run.entered.table.trained())
    return nullcontext() if is_moved else network.computing(run.context.dtype)


def _after_step(run: StageRun, line: _Line) -> Iterator[Event]:
    before, run.progress = run.progress, line.events[-1].progress
    size = run.order.epoch_size
    is_due = due(run.stage.evaluate, before, run.progress, epoch_size=size)
    is_saved = is_due or run.context.stop() or due(run.stage.save, before, run.progress, epoch_size=size)
    if is_saved or line.is_long():
        yield _note(run, line)
    if is_due:
        yield from _judge(run)
    elif is_saved:
        yield _save(run)
    if is_saved and run.context.stop():  # a signal since is_saved was asked waits for the next step
        raise run.context.stop.interrupted(f"stage {run.stage.name}, step {run.progress.step}")


def _steps(run: StageRun) -> Generator[StepEvent]:
    context, stage = run.context, run.stage
    tasks = {name: context.data.tasks[name].task for name in run.order.mixture.tasks}
    engine = Engine(
        run.entered.network,
        Supervised({name: task.loss for name, task in tasks.items()}),
        optimizer=run.optimizer,
        weights={name: context.recipe.tasks[name].weight for name in tasks},
        device=context.device,
        dtype=context.dtype,
        clip=stage.clip,
        seed=(context.recipe.seed, stage.name),
    )
    feed = feed_of(stage, run.order, context.data, run.entered.network, pad=context.tokenizer.pad)
    phases = Phases(
        run.entered.table,
        run.entered.sites,
        run.optimizer,
        seed=fold(context.recipe.seed, stage.name),
        entered=run.enter_phase,
    )
    course = Course(stage.length, stage.schedule, stage.warmup)
    return train(engine, run.order, feed, course=course, start=run.progress, phases=phases)


def _note(run: StageRun, line: _Line) -> Stepped:
    """Put the steps of ``line`` into curve and log, and begin the next line; waits for the device."""
    run.progress = line.events[-1].settled()
    report = summary(
        [event.result for event in line.events],
        stage=run.stage.name,
        epoch=run.epoch,
        seconds=run.progress.seconds - line.since.seconds,
    )
    line.events.clear()
    line.since = run.progress
    run.history.curve.append(report)
    run.context.log.append("step", report)
    return Stepped(report, fraction_done(run.stage.length, run.progress, epoch_size=run.order.epoch_size))


def _judge(run: StageRun) -> Iterator[Event]:
    """Evaluate on dev and save; what is broken off is owed, and the state before it is saved."""
    run.history.is_owed = True
    try:
        tasks = {name: run.entered.tasks[name] for name in run.tasks}
        judged = evaluate(run.context, run.stage, run.entered.network, tasks, split=DEV)
    except Interrupted:
        yield _save(run)
        where = f"stage {run.stage.name}, evaluation after step {run.progress.step}"
        raise run.context.stop.interrupted(where) from None
    run.history.is_owed = False
    report = judged.report.model_copy(update={"step": run.progress.step, "epoch": run.epoch})
    run.history.evaluations.append(report)
    run.history.seconds_evaluating += report.seconds
    run.history.best = run.history.best.seen(report.selection, step=run.progress.step)
    run.context.log.append("evaluation", report)
    yield Evaluated(report, is_best=run.history.best.step == run.progress.step)
    yield _save(run)


def _save(run: StageRun) -> Saved:
    if run.store is not None:
        run.store.publish()  # what a resumed run finds there is what this one has
    path = run.checkpoints.save(run.entered, run.optimizer, run.progress, run.history)
    run.context.log.append("saved", {"stage": run.stage.name, "step": run.progress.step})
    return Saved(path, run.progress.step)
