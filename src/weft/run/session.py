"""A run from its recipe to its bundle, and the same run taken up again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import weft
from weft.build.catalogue import open_recipe
from weft.build.data import read_data
from weft.build.estimate import measure
from weft.build.network import META, open_base
from weft.build.stage import rehearse
from weft.core.parts import Parts
from weft.errors import CheckpointError, Interrupted, RecipeError
from weft.evaluate.predict import Watch
from weft.evaluate.predictions import write_predictions
from weft.export.bundle import put_parts, write_bundle
from weft.export.card import model_card
from weft.export.parts import load_parts, load_tensors, read_json, save_parts, save_tensors
from weft.model.device import describe_machine, pick_device, pick_precision
from weft.model.tokenizer import load_tokenizer
from weft.recipe.dump import dump
from weft.recipe.spec import Recipe, StageSpec
from weft.report.html import render_html
from weft.report.markdown import render_markdown
from weft.report.records import EvalReport, RunReport, StageReport
from weft.run.context import Context
from weft.run.events import DataRead, Event, Finished, StageFinished
from weft.run.folder import RunFolder, publish, write_atomic
from weft.run.judging import TEST, Bench, Judged, evaluate
from weft.run.stage import Left, Parent, leave_stage, open_stage, train_stage
from weft.run.stopping import StopFlag, listening


def train(recipe: Recipe, folder: RunFolder, *, root: Path, overwrite: bool = False) -> Iterator[Event]:
    """Run ``recipe`` from its beginning and yield what happens.

    Args:
        recipe: what to do.
        folder: where to write; must not hold a run unless ``overwrite``.
        root: folder that the recipe's relative paths start from.
        overwrite: whether a run that is in ``folder`` is removed first.

    Raises:
        RecipeError: the folder holds a run, or a stage cannot be entered.
        Interrupted: asked to stop; what was done is saved.
    """
    with folder.locked(), listening() as stop:
        if folder.origin.is_file():
            if not overwrite:
                raise RecipeError(
                    [f"{folder.path}: a new run needs a folder without one, but there is a run. Resume it, or overwrite."]
                )
            _clear(folder)
        context = _open(recipe, folder, root=root, stop=stop)
        rehearse(recipe, base=context.base, tasks=context.data.fitted)
        write_atomic(folder.recipe, dump(recipe))
        origin = {"weft": weft.__version__, "root": str(root.resolve()), **context.identity(), **describe_machine()}
        write_atomic(folder.origin, json.dumps(origin, indent=2) + "\n")
        yield from _run(context)


def resume(folder: RunFolder) -> Iterator[Event]:
    """Take up the run in ``folder`` where it stopped; a finished run only tells its report.

    Raises:
        CheckpointError: there is no run, it belongs to other data or another model now, or no checkpoint verifies.
    """
    with folder.locked(), listening() as stop:
        if not folder.origin.is_file():
            raise CheckpointError(f"{folder.path}: must hold a run, but holds none. Start one with 'weft train'.")
        origin = read_json(folder.origin)
        recipe = open_recipe(folder.recipe)
        context = _open(recipe, folder, root=Path(origin["root"]), stop=stop)
        for key, digest in context.identity().items():
            if origin[key] != digest:
                raise CheckpointError(
                    f"{folder.path}: the run's {key} must be what it started with, but it changed since. "
                    f"Put it back, or start a new run."
                )
        yield from _run(context)


def _clear(folder: RunFolder) -> None:
    for path in folder.path.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def _open(recipe: Recipe, folder: RunFolder, *, root: Path, stop: StopFlag) -> Context:
    base = open_base(recipe, root=root)
    tokenizer = load_tokenizer(base.folder, max_tokens=recipe.model.max_tokens)
    device = pick_device()
    return Context(
        recipe=recipe,
        folder=folder,
        base=base,
        tokenizer=tokenizer,
        data=read_data(recipe, tokenizer, root=root),
        machine=measure(device, pick_precision(recipe.precision, device)),
        device=device,
        stop=stop,
    )


def _run(context: Context) -> Iterator[Event]:
    start = time.perf_counter()
    yield DataRead(context.data.report)
    for stage in context.recipe.stages:
        if not context.folder.final(stage.name).is_dir():
            yield from _run_stage(context, stage)
    report = _finish(context, seconds=time.perf_counter() - start)
    yield Finished(report, context.folder.path)


def _run_stage(context: Context, stage: StageSpec) -> Iterator[Event]:
    if context.stop():
        raise Interrupted(f"{stage.name}: stopped by {context.stop.reason} before its first step.")
    run, started = open_stage(context, stage, _parent(context, stage))
    yield started
    yield from train_stage(run)
    left = leave_stage(run)
    _write_final(context, stage, left)
    context.folder.append("stage", left.report.model_dump(mode="json", exclude={"curve", "evaluations", "plan"}))
    yield StageFinished(left.report)


def _parent(context: Context, stage: StageSpec) -> Parent | None:
    parent = context.recipe.parent_of(stage)
    if parent is None:
        return None
    home = context.folder.final(parent.name)
    return Parent(_read_parts(context, parent), load_tensors(home / "probe.safetensors")["states"], parent.name)


def _read_parts(context: Context, stage: StageSpec) -> Parts:
    view = context.base.sites(context.base.network({}, device=META)).view
    return load_parts(context.folder.final(stage.name), view)


def _write_final(context: Context, stage: StageSpec, left: Left) -> None:
    def fill(home: Path) -> None:
        view = context.base.sites(context.base.network({}, device=META)).view
        save_parts(home, left.parts, view, base=context.base.folder.name)
        save_tensors(home / "probe.safetensors", {"states": left.probe_TD})
        write_atomic(home / "report.json", left.report.model_dump_json(indent=1))

    publish(context.folder.final(stage.name), fill)


def _finish(context: Context, *, seconds: float) -> RunReport:
    """Judge the last stage's network on test, write bundle, predictions and reports."""
    folder, recipe = context.folder, context.recipe
    last = recipe.stages[-1]
    parts = _read_parts(context, last)
    judged = _final_scores(context, parts)
    stages = tuple(_stage_report(folder, stage) for stage in recipe.stages)
    report = RunReport(
        weft=weft.__version__,
        name=folder.path.name,
        digest=recipe.digest(),
        seed=recipe.seed,
        model=recipe.model.path,
        data=context.data.report,
        stages=stages,
        final=(judged.report,),
        environment=describe_machine(),
        finished=True,
        seconds=max(seconds, sum(stage.seconds + stage.seconds_evaluating for stage in stages)),
    )
    _write_bundle(context, parts, report)
    write_atomic(folder.path / "report.json", report.model_dump_json(indent=1))
    write_atomic(folder.path / "report.md", render_markdown(report))
    write_atomic(folder.path / "report.html", render_html(report))
    folder.append("finished", {"selection": judged.report.selection})
    return report


def _stage_report(folder: RunFolder, stage: StageSpec) -> StageReport:
    return StageReport.model_validate_json((folder.final(stage.name) / "report.json").read_text(encoding="utf-8"))


def _final_scores(context: Context, parts: Parts) -> Judged:
    tasks = {name: context.data.fitted[name] for name in parts.heads}
    network = context.base.network(tasks, device=context.device)
    put_parts(context.base, network, parts)
    bench = Bench(
        data=context.data,
        pad=context.tokenizer.pad,
        budget=8192,
        dtype=context.dtype,
        resamples=context.recipe.bootstrap,
        seed=context.recipe.seed,
        watch=Watch(stop=context.stop),
    )
    judged = evaluate(network, bench, tuple(tasks), split=TEST)
    for task_report in judged.report.tasks:
        name = task_report.task
        path = context.folder.predictions(task_report.split, name)
        write_predictions(path, tasks[name], judged.rows[name], judged.answers[name], split=task_report.split)
    return judged


def _write_bundle(context: Context, parts: Parts, report: RunReport) -> None:
    def fill(home: Path) -> None:
        about = {"recipe": report.digest, "seed": report.seed, "scores": _scores(report.final[0])}
        write_bundle(
            home,
            parts,
            base=context.base,
            model=context.recipe.model,
            tokenizer=context.tokenizer,
            about=about,
        )
        write_atomic(home / "README.md", model_card(report, context.base.folder, context.data.fitted))

    if not context.folder.bundle.is_dir():
        publish(context.folder.bundle, fill)


def _scores(report: EvalReport) -> list[dict[str, object]]:
    return [task.model_dump(mode="json", include={"task", "split", "scores"}) for task in report.tasks]
