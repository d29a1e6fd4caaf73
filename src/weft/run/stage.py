"""One stage: enter it, or take it up where a checkpoint left it; leave it with its best weights."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor

from weft.build.choosing import ByGradients
from weft.build.estimate import plan_stage
from weft.build.order import order_of
from weft.build.reuse import put_behind_store
from weft.build.stage import Entered, enter
from weft.core.network import Trunk
from weft.core.parts import AdapterState, Parts
from weft.core.states import StateStore
from weft.evaluate.selection import selection_score
from weft.model.backbone import HFTrunk
from weft.recipe.spec import Activations, OptimizerCarry, StageSpec, TrunkCarry
from weft.report.records import EvalReport, StagePlan, StageReport
from weft.run.checkpoints import Checkpoints, History
from weft.run.choice import Recorded
from weft.run.context import Context
from weft.run.events import StageStarted
from weft.run.judging import DEV, evaluate
from weft.run.probe import check_entry, probe
from weft.train.optimizer import FusedAdamW, load_optimizer_state, make_optimizer
from weft.train.order import EpochOrder
from weft.train.progress import Progress, is_over


class Parent(NamedTuple):
    """What the parent stage left.

    Attributes:
        parts: weights; of several parents, combined.
        probe: states its network gave for the probe rows, by task (``weft.run.probe``); None where there were several.
        report: what it did; None where there were several.
    """

    parts: Parts
    probe: Mapping[str, Tensor] | None = None
    report: StageReport | None = None


class Left(NamedTuple):
    """What a stage leaves behind."""

    parts: Parts
    probe: Mapping[str, Tensor]
    report: StageReport


@dataclass(slots=True)
class StageRun:
    """A stage under way: the network being trained, the store of its frozen layers if it has one, and where it is."""

    context: Context
    stage: StageSpec
    entered: Entered
    plan: StagePlan
    optimizer: FusedAdamW
    order: EpochOrder
    store: StateStore | None
    adapters: tuple[AdapterState, ...] = ()
    progress: Progress = field(default_factory=Progress)
    history: History = field(default_factory=History)

    @property
    def checkpoints(self) -> Checkpoints:
        """Where the stage is saved."""
        return Checkpoints(self.context, self.stage.name)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that this stage trains."""
        return self.context.recipe.tasks_of(self.stage)

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.progress.num_examples / self.order.epoch_size

    def enter_phase(self, moving: frozenset[str]) -> None:
        """Put the layers below what moves from now on behind a store, in the place of the one there was."""
        if self.store is not None:
            self.store.publish()
            self.store.close()
        self.store = put_behind_store(
            self.stage, self.entered, adapters=self.adapters, dtype=self.context.dtype, moving=moving
        )

    @property
    def is_impatient(self) -> bool:
        """Whether so many evaluations were no better than the best one that the stage ends."""
        return self.stage.patience is not None and self.history.best.since >= self.stage.patience

    @property
    def is_judged(self) -> bool:
        """Whether the network as it is now was evaluated."""
        return bool(self.history.evaluations) and self.history.evaluations[-1].step == self.progress.step

    @property
    def reason(self) -> str:
        """Why the stage ended."""
        is_done = is_over(self.stage.length, self.progress, epoch_size=self.order.epoch_size)
        return "length" if is_done else "patience"


def open_stage(context: Context, stage: StageSpec, parent: Parent | None) -> tuple[StageRun, StageStarted]:
    """Return ``stage`` entered, or taken up again from its newest checkpoint.

    Raises:
        HandOverError: entering would change the function.
        CheckpointError: there are checkpoints, but none can be used; or there is no room for them.
    """
    if context.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(context.device)
    parts = context.base.parts if parent is None else parent.parts
    entered = enter(
        context.recipe,
        stage,
        base=context.base,
        tasks=context.data.fitted,
        parts=parts,
        device=context.device,
        choose=partial(Recorded, context.folder.chosen(stage.name), _by_gradients(context, stage)),
    )
    run = StageRun(
        context=context,
        stage=stage,
        entered=entered,
        plan=plan_stage(context.recipe, stage, entered, context.data, context.machine),
        optimizer=make_optimizer(entered.table, entered.sites, decay=stage.decay, moments=stage.moments),
        order=order_of(
            context.recipe, stage, context.data, by_length=not cast(Trunk, entered.network.trunk).packs
        ),
        store=put_behind_store(stage, entered, adapters=parts.adapters, dtype=context.dtype),
        adapters=parts.adapters,
    )
    trunk = cast(HFTrunk, entered.network.trunk)
    trunk.activations, trunk.compiles = Activations(run.plan.activations), stage.compile
    path, rejected = run.checkpoints.newest()
    run.checkpoints.preflight(entered.table)
    if path is not None:
        run.progress, run.history = run.checkpoints.restore(path, entered, run.optimizer)
    elif parent is not None:
        _take_over(run, parent)
    return run, StageStarted(run.plan, run.progress.step, run.history.entry_difference, rejected)


def _by_gradients(context: Context, stage: StageSpec) -> ByGradients:
    return ByGradients(context.recipe, stage, context.data, pad=context.tokenizer.pad, dtype=context.dtype)


def _take_over(run: StageRun, parent: Parent) -> None:
    """Prove that entering changed nothing, and continue the parent's optimizer where the recipe says so."""
    if run.stage.carry.trunk is not TrunkCarry.DROP and parent.probe is not None:
        run.history.entry_difference = check_entry(
            run.stage.name, parent.probe, probe(run.entered.sites), tasks=run.entered.tasks
        )
    if run.stage.carry.optimizer is OptimizerCarry.CONTINUE and parent.report is not None:
        # Of the step whose weights are handed on: moments of later steps would belong to other weights.
        checkpoints = Checkpoints(run.context, parent.report.name)
        load_optimizer_state(run.optimizer, checkpoints.optimizer_state(parent.report.best_step))


def leave_stage(run: StageRun) -> Left:
    """Put the best weights back and return what the stage hands on, with its report."""
    best = run.history.best.step
    assert best is not None, "a stage ends with an evaluation"
    run.checkpoints.restore_weights(best, run.entered)
    leaving = _leaving(run, best)
    if run.store is not None:
        run.store.close()
    report = StageReport(
        name=run.stage.name,
        parent=run.plan.parent,
        plan=run.plan,
        steps=run.progress.step,
        epochs=run.epoch,
        examples=dict(run.progress.examples),
        tokens=run.progress.tokens,
        padded_tokens=run.progress.padded_tokens,
        skipped=run.progress.skipped,
        seconds=run.progress.seconds,
        seconds_evaluating=run.history.seconds_evaluating + leaving.seconds,
        peak_memory_bytes=peak_memory_bytes(run.context.device),
        entry_difference=run.history.entry_difference,
        best_step=best,
        stopped=run.reason,
        curve=tuple(run.history.curve),
        evaluations=tuple(run.history.evaluations),
        leaving=leaving,
    )
    return Left(_with_fitted(run.entered.leave(), leaving), probe(run.entered.sites), report)


def _with_fitted(parts: Parts, leaving: EvalReport) -> Parts:
    """Return ``parts`` with heads that say what was fitted to dev rows, with these weights."""
    fitted = {report.task: report.fitted for report in leaving.tasks}
    heads = {
        name: replace(head, config={**head.config, **fitted[name]}) for name, head in parts.heads.items()
    }
    return replace(parts, heads=heads)


def _leaving(run: StageRun, best: int) -> EvalReport:
    """Return the dev scores of every head: those of trained tasks are known, those of kept ones are taken now."""
    known = next(report for report in run.history.evaluations if report.step == best)
    kept = {name: task for name, task in run.entered.tasks.items() if name not in run.tasks}
    if not kept:
        return known.model_copy(update={"seconds": 0.0})
    judged = evaluate(run.context, run.stage, run.entered.network, kept, split=DEV).report
    tasks = {report.task: report for report in (*known.tasks, *judged.tasks)}
    ordered = tuple(tasks[name] for name in run.entered.tasks)
    return known.model_copy(
        update={"tasks": ordered, "selection": selection_score(ordered), "seconds": judged.seconds}
    )


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory in use so far: of the GPU in this stage, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
