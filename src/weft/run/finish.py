"""The end of a run: the network that its branches come to judged on test, its bundle, and the reports."""

from __future__ import annotations

import weft
from weft.build.leaves import owners, shipped
from weft.core.parts import Parts
from weft.evaluate.predictions import write_predictions
from weft.export.bundle import put_parts, write_bundle
from weft.export.card import model_card
from weft.model.device import describe_machine
from weft.report.details import TaskDetail
from weft.report.html import render_html
from weft.report.markdown import render_markdown
from weft.report.records import EvalReport, RunReport, StageReport
from weft.run.context import Context
from weft.run.files import publish, replacing, write_text
from weft.run.judging import TEST, details_of, evaluate
from weft.task.base import Told
from weft.task.registry import FAMILIES


def finish(context: Context) -> RunReport:
    """Return the report of a run whose stages are all done; write predictions, bundle and reports.

    May be broken off anywhere and called again: everything it writes appears whole, the JSON report last, and with
    it the run is finished.

    Raises:
        CheckpointError: something could not be written.
    """
    folder, recipe = context.folder, context.recipe
    leaves = set(owners(recipe).values())
    parts = shipped(recipe, {name: context.parts_of(recipe.stage(name)) for name in leaves})
    final, details = _final_scores(context, parts)
    report = RunReport(
        weft=weft.__version__,
        name=folder.path.resolve().name,
        digest=recipe.digest(),
        seed=recipe.seed,
        model=recipe.model.path,
        data=context.data.report,
        stages=tuple(stage_report(context, stage.name) for stage in recipe.stages),
        final=(final,),
        details=details,
        environment=describe_machine(),
        finished=True,
        seconds=context.log.seconds(),
    )
    _write_bundle(context, parts, report)
    write_text(folder.path / "report.md", render_markdown(report))
    write_text(folder.path / "report.html", render_html(report))
    context.log.append("finished", {"selection": final.selection})
    write_text(folder.report, report.model_dump_json(indent=1))
    return report


def stage_report(context: Context, stage: str) -> StageReport:
    """Return the report of a finished stage."""
    path = context.folder.final(stage) / "report.json"
    return StageReport.model_validate_json(path.read_bytes())


def _final_scores(context: Context, parts: Parts) -> tuple[EvalReport, tuple[TaskDetail, ...]]:
    """Return the scores of every head and what its answers look like; write the answers."""
    tasks = {
        name: FAMILIES[head.kind].from_config(name, head.config)  # with what was fitted to dev rows
        for name, head in parts.heads.items()
    }
    for name, task in tasks.items():
        fitted = context.data.fitted[name]
        if isinstance(task, Told) and isinstance(
            fitted, Told
        ):  # the recipe may allow what a bundle never does
            tasks[name] = task.told(fitted.options)
    network = context.base.network(tasks, device=context.device)
    put_parts(context.base, network, parts)
    judged = evaluate(context, context.recipe.stages[-1], network, tasks, split=TEST)
    for report in judged.report.tasks:
        name = report.task
        with replacing(context.folder.predictions(report.split, name)) as path:
            write_predictions(path, tasks[name], judged.rows[name], judged.answers[name], split=report.split)
    return judged.report, details_of(context, tasks, judged)


def _write_bundle(context: Context, parts: Parts, report: RunReport) -> None:
    if context.folder.bundle.is_dir():
        return
    about = {"recipe": report.digest, "seed": report.seed, "scores": _scores(report.final[0])}
    card = model_card(report, context.base.folder, context.data.fitted)
    with publish(context.folder.bundle) as home:
        write_bundle(
            home,
            parts,
            base=context.base,
            model=context.recipe.model,
            tokenizer=context.tokenizer,
            about=about,
        )
        (home / "README.md").write_text(card, encoding="utf-8")


def _scores(report: EvalReport) -> list[dict[str, object]]:
    return [task.model_dump(mode="json", include={"task", "split", "scores"}) for task in report.tasks]
