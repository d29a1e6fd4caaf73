"""The model card: Hub metadata and measured scores, nothing that was not measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from weft.model.folder import ModelFolder
from weft.report.grids import fitted
from weft.report.records import RunReport, TaskReport
from weft.report.tables import is_share, number, percent, plain, score_interval, whole
from weft.task.base import Task


def model_card(report: RunReport, base: ModelFolder, tasks_of: Mapping[str, Task]) -> str:
    """Return the bundle's README: YAML metadata as the Hub reads it, then scores, stages, data and how to use it.

    Args:
        report: of the finished run.
        base: the pretrained model.
        tasks_of: the fitted tasks by name.
    """
    tasks = report.final[0].tasks
    parts = [
        _metadata(tasks, base, tasks_of),
        _scores(report, base, tasks),
        _stages(report),
        _data(report),
        _use(tasks),
    ]
    return "\n".join(line for part in parts for line in (*part, ""))


def _metadata(
    tasks: tuple[TaskReport, ...], base: ModelFolder, tasks_of: Mapping[str, Task]
) -> Iterator[str]:
    metrics = dict.fromkeys(task.scores[0].metric for task in tasks)
    yield "---"
    yield f"base_model: {json.dumps(base.name, ensure_ascii=False)}"
    yield "base_model_relation: finetune"
    yield "library_name: weft"
    yield f"pipeline_tag: {tasks_of[tasks[0].task].stock().pipeline}"
    yield f"tags: {json.dumps(['weft', *(['multi-task'] if len(tasks) > 1 else [])])}"
    yield f"metrics: {json.dumps(list(metrics), ensure_ascii=False)}"
    yield "---"


def _scores(report: RunReport, base: ModelFolder, tasks: tuple[TaskReport, ...]) -> Iterator[str]:
    yield f"# {report.name}"
    yield ""
    yield (
        f"Answers {len(tasks)} task(s) on one trunk, made by Weft {report.weft} from `{base.name}` "
        f"(recipe {report.digest[:12]}, seed {report.seed})."
    )
    yield ""
    yield "| task | kind | split | metric | score [95 % interval] | baseline | n |"
    yield "|---|---|---|---|--:|--:|--:|"
    for task in tasks:
        for score in task.scores:
            hundredths = is_share(score.best, higher_is_better=score.higher_is_better)
            baseline = number(score.baseline, hundredths=hundredths)
            cells = (
                task.task,
                task.kind,
                task.split,
                score.metric,
                score_interval(score),
                baseline,
                whole(score.n),
            )
            yield f"| {' | '.join(cells)} |"
        if task.perplexity is not None:
            yield f"| {task.task} | {task.kind} | {task.split} | perplexity | {plain(task.perplexity)} | – | – |"
    yield ""
    yield "Baseline: what somebody would score who saw only the training labels (the most frequent, the mean)."
    for task in tasks:
        if task.fitted:
            yield f"Fitted to dev rows of {task.task}, not learnt: {fitted(task)}."
    if any(task.split != "test" for task in tasks):
        yield "Scores on a split other than test are optimistic: the best checkpoint was chosen on it."


def _stages(report: RunReport) -> Iterator[str]:
    yield "## Stages"
    yield ""
    for stage in report.stages:
        plan = stage.plan
        share = percent(plan.num_trained / plan.num_values)
        yield (
            f"- **{stage.name}** (from {stage.parent}): {plan.strategy}; {whole(stage.steps)} steps, "
            f"{whole(plan.num_trained)} of {whole(plan.num_values)} parameters trained ({share})"
        )


def _data(report: RunReport) -> Iterator[str]:
    yield "## Data"
    yield ""
    for task in report.data.tasks:
        splits = ", ".join(f"{whole(split.used)} {split.split}" for split in task.splits)
        columns = ", ".join(f"{role} in `{column}`" for role, column in task.columns.items())
        yield f"- **{task.task}**: {splits} rows; {columns}"
    yield from (f"- Warning: {warning}" for warning in report.data.warnings)


def _use(tasks: tuple[TaskReport, ...]) -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "    weft predict <this folder> 'some text'"
    yield f"    weft predict <this folder> rows.csv --task {tasks[0].task} -o answers.jsonl"
    yield "    weft export <this folder> <folder for stock transformers and peft>"
