"""A run from its recipe to its bundle, and the same run taken up again."""

from __future__ import annotations

import gc
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import weft
from weft.build.estimate import stage_plans
from weft.build.stage import parts_from, rehearse
from weft.errors import RecipeError
from weft.export.parts import load_tensors, save_parts, save_tensors
from weft.model.device import describe_machine
from weft.native.memory import give_back
from weft.recipe.dump import dump
from weft.recipe.spec import Recipe, StageSpec
from weft.run.context import Context, open_context
from weft.run.events import DataRead, Event, Finished, StageFinished
from weft.run.files import publish, write_text
from weft.run.finish import finish, stage_report
from weft.run.folder import RunFolder
from weft.run.origin import check_origin, read_origin, same_recipe, write_origin
from weft.run.stage import Left, Parent, leave_stage, open_stage
from weft.run.steps import train_stage
from weft.run.stopping import listening

_PROBE = "probe.safetensors"
_STATES = "states."
_NOT_BEGUN = "Nothing was trained yet: start again with 'weft train'."


def train(recipe: Recipe, folder: RunFolder, *, root: Path, overwrite: bool = False) -> Iterator[Event]:
    """Run ``recipe`` from its beginning and yield what happens.

    Args:
        recipe: what to do.
        folder: where to write; must not hold a run unless ``overwrite``.
        root: folder that the recipe's relative paths start from.
        overwrite: whether a run that is in ``folder`` is removed first.

    Raises:
        RecipeError: the folder holds a run or other people's files, or a stage cannot be entered.
        RunBusyError: another process works in the folder.
        Interrupted: asked to stop; what was done is saved.
    """
    folder.check_free()
    with folder.locked(), listening() as stop:
        if folder.origin.is_file() and not overwrite:
            raise RecipeError(
                [
                    f"{folder.path}: a new run needs a folder without one, but there is a run. Resume it, or overwrite."
                ]
            )
        with stop.at_once("reading model and data", _NOT_BEGUN):
            folder.clear()  # also what an overwriting that was killed left
            folder.tidy()
            context = open_context(recipe, folder, root=root, stop=stop)
            _begin(context, root=root)
        yield from _run(context)


def resume(folder: RunFolder) -> Iterator[Event]:
    """Take up the run in ``folder`` where it stopped; a finished run only tells its report and changes nothing.

    Raises:
        CheckpointError: there is no run, it belongs to another recipe, other data or another model now, or no
            checkpoint verifies.
        RunBusyError: another process works in the folder.
        Interrupted: asked to stop; what was done is saved.
    """
    read_origin(folder)  # before the lock, which makes the folder
    with folder.locked(), listening() as stop:
        origin = read_origin(folder)
        recipe = same_recipe(folder, origin)
        if (report := folder.finished()) is not None:
            yield Finished(report, folder.path)
            return
        with stop.at_once("reading model and data"):
            folder.tidy()
            context = open_context(recipe, folder, root=Path(origin["root"]), stop=stop)
            check_origin(context, origin)
        context.log.append("resumed", {"weft": weft.__version__, "machine": describe_machine()})
        yield from _run(context)


def _begin(context: Context, *, root: Path) -> None:
    """Enter every stage without weights; write recipe, plan and, last, the origin."""
    recipe, folder = context.recipe, context.folder
    entered = tuple(rehearse(recipe, base=context.base, tasks=context.data.fitted))
    plans = stage_plans(recipe, entered, context.data, context.machine)
    write_text(folder.recipe, dump(recipe))
    values = {"stages": [plan.model_dump(mode="json") for plan in plans]}
    write_text(folder.plan, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    write_origin(context, root=root)


def _run(context: Context) -> Iterator[Event]:
    yield DataRead(context.data.report)
    with _left_alone():
        for stage in context.recipe.stages:
            if not context.folder.final(stage.name).is_dir():
                yield from _run_stage(context, stage)
                give_back()
    with context.stop.at_once("final judging"):
        report = finish(context)
    yield Finished(report, context.folder.path)


@contextmanager
def _left_alone() -> Generator[None]:
    """Keep what is there now, modules and rows of data, out of the collector's walks, which come every few steps."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _run_stage(context: Context, stage: StageSpec) -> Iterator[Event]:
    where = f"stage {stage.name}"
    with context.stop.at_once(where):
        run, started = open_stage(context, stage, _parent(context, stage))
    about = {"stage": stage.name, "step": started.step, "rejected": started.rejected}
    context.log.append("entered", {**about, "entry_difference": started.entry_difference})
    yield started
    yield from train_stage(run)
    with context.stop.at_once(where):
        left = leave_stage(run)
        _write_final(context, stage, left)
    report = left.report
    context.log.append("left", {"stage": stage.name, "steps": report.steps, "best_step": report.best_step})
    yield StageFinished(report)


def _parent(context: Context, stage: StageSpec) -> Parent | None:
    parents = context.recipe.parents_of(stage)
    if not parents:
        return None
    parent, *others = parents
    if others:
        branches = {one.name: context.parts_of(one) for one in parents}
        cpu = torch.device("cpu")
        return Parent(parts_from(context.recipe, stage, branches, base=context.base, device=cpu))
    found = load_tensors(context.folder.final(parent.name) / _PROBE)
    states = {key.removeprefix(_STATES): tensor for key, tensor in found.items()}
    return Parent(context.parts_of(parent), states, stage_report(context, parent.name))


def _write_final(context: Context, stage: StageSpec, left: Left) -> None:
    with publish(context.folder.final(stage.name)) as home:
        save_parts(home, left.parts, context.base_view(), base=context.base.folder.name)
        save_tensors(home / _PROBE, {f"{_STATES}{task}": states for task, states in left.probe.items()})
        (home / "report.json").write_text(left.report.model_dump_json(indent=1), encoding="utf-8")
