"""The model card: Hub metadata and measured scores, nothing that was not measured."""

from __future__ import annotations

import json
from collections.abc import Mapping

from weft.model.folder import ModelFolder
from weft.report.records import RunReport
from weft.report.tables import score_interval
from weft.task.base import Task


def model_card(report: RunReport, base: ModelFolder, tasks_of: Mapping[str, Task]) -> str:
    """Return the bundle's README: YAML metadata as the Hub reads it, then scores, data and how to use it."""
    tasks = report.final[0].tasks
    lines = [
        "---",
        f"base_model: {json.dumps(base.name)}",
        "base_model_relation: finetune",
        "library_name: weft",
        f"pipeline_tag: {tasks_of[tasks[0].task].stock().pipeline}",
        "tags: [weft, multi-task]",
        "---",
        "",
        f"# {report.name}",
        "",
        f"Answers {len(tasks)} task(s) on one trunk, made by Weft {report.weft} from `{base.name}` "
        f"(recipe {report.digest[:12]}, seed {report.seed}).",
        "",
        "| task | kind | split | metric | score [95 % interval] | baseline | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in tasks:
        for score in task.scores:
            lines.append(
                f"| {task.task} | {task.kind} | {task.split} | {score.metric} | {score_interval(score)} "
                f"| {score.baseline:.3f} | {score.n} |"
            )
    if any(task.split != "test" for task in tasks):
        lines += ["", "Scores on a split other than test are optimistic: the best checkpoint was chosen on it."]
    lines += ["", "## Stages", ""]
    lines += [
        f"- **{stage.name}** (from {stage.parent}): {stage.plan.strategy}, {stage.steps} steps, "
        f"{stage.plan.num_trained:,} of {stage.plan.num_values:,} parameters trained"
        for stage in report.stages
    ]
    lines += ["", "## Use", "", "    weft predict <this folder> 'some text'", ""]
    return "\n".join(lines)

