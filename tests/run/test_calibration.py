"""What a task fits to dev rows: fitted at every evaluation, saved with the head, used and told from then on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from weft.cli import main
from weft.core.example import Answer
from weft.evaluate.predictions import read_predictions
from weft.report.html import render_html
from weft.report.records import RunReport
from weft.run.events import Evaluated
from weft.task.classification import Classification

TOPICS = (
    "  topics: {kind: classification, multi_label: true, train: topics.train.jsonl, dev: topics.dev.jsonl}\n"
)
STAGES = """\
  - {name: both, strategy: full, lr: 2e-3, length: 2 steps, batch: 8, evaluate: 1 steps}
  - {name: alone, tasks: names, strategy: head, length: 1 steps, batch: 8}
"""
FITTED = 0.0625


def fitting(
    self: Classification, golds: Sequence[Any], answers: Sequence[Answer]
) -> tuple[Any, list[Answer]]:
    """Stand in for a family that fits: a threshold so low that every label is answered."""
    assert self.threshold == 0.5, "each evaluation begins with what training rows said"
    assert len(golds) == len(answers)
    labels = list(self.labels)
    return replace(self, threshold=FITTED), [replace(answer, label=labels) for answer in answers]


def topics_row(index: int) -> dict[str, Any]:
    return {"text": f"dog {index} in the {'city' if index % 2 else 'park'}", "label": "ab"[index % 2]}


@pytest.fixture(scope="module")
def done(little: ModuleType, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the job's folder and the events of its run."""
    home = tmp_path_factory.mktemp("fitted")
    recipe = little.recipe_of(STAGES, tasks=("names",)).replace(
        "tasks:\n", f"tasks:\n{TOPICS}".replace("{", "{{").replace("}", "}}"), 1
    )
    job = little.write_job(home, tiny_bert, recipe)
    for split, count in (("train", 24), ("dev", 8)):
        little.write_rows(home / f"topics.{split}.jsonl", [topics_row(index) for index in range(count)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classification, "calibrated", fitting, raising=False)
        events = little.run(job, home / "run")
    return home / "run", events


def test_every_dev_evaluation_is_of_the_fitted_task(little: ModuleType, done: Any):
    judged = little.of_kind(done[1], Evaluated)
    reports = [task for event in judged for task in event.report.tasks if task.task == "topics"]
    assert len(reports) == 2
    for report in reports:
        assert report.fitted == {"threshold": FITTED}
        assert report.scores[0].value == pytest.approx(2 / 3), "micro-F1 of both labels where one is right"
    assert all(task.fitted == {} for event in judged for task in event.report.tasks if task.task == "names")


@pytest.mark.parametrize("home", ["stages/both/final", "stages/alone/final", "bundle"])
def test_what_was_fitted_stays_with_the_head(done: Any, home: str):
    """Also with the head that the second stage only kept, on a trunk of its own."""
    head = json.loads((done[0] / home / "heads" / "topics" / "head.json").read_text("utf-8"))
    assert head["config"]["threshold"] == FITTED


def test_the_final_answers_come_from_the_fitted_task(done: Any):
    """They are not fitted again: the network answers with the threshold that it has."""
    found = read_predictions(done[0] / "predictions" / "dev" / "topics.jsonl")
    assert found.config["threshold"] == FITTED
    for row in found.rows:
        shares = row.answer.probabilities or {}
        assert row.answer.label == [label for label, share in shares.items() if share > FITTED]
        assert len(row.answer.label) == 2


def test_reports_say_what_was_fitted(done: Any, capsys: pytest.CaptureFixture[str]):
    report = RunReport.model_validate_json((done[0] / "report.json").read_bytes())
    final = {task.task: task for task in report.final[0].tasks}
    assert final["topics"].fitted == {"threshold": FITTED}
    assert "fitted to dev: threshold 0.0625" in render_html(report)
    assert "- topics: fitted to dev: threshold 0.0625" in (done[0] / "report.md").read_text("utf-8")
    assert "Fitted to dev rows of topics, not learnt: threshold 0.0625." in (
        done[0] / "bundle/README.md"
    ).read_text("utf-8")
    assert main(["eval", str(done[0]), "--json"]) == 0
    judged = {task["task"]: task for task in json.loads(capsys.readouterr().out)["tasks"]}
    assert judged["topics"]["fitted"] == {"threshold": FITTED}
    assert judged["topics"]["scores"] == [score.model_dump(mode="json") for score in final["topics"].scores]


def test_the_report_shows_what_the_answers_look_like(done: Any):
    """With the texts of the rows as they stand in the file, which tokens have lost."""
    report = RunReport.model_validate_json((done[0] / "report.json").read_bytes())
    details = {one.task: one for one in report.details}
    assert list(details) == [task.task for task in report.final[0].tasks]
    parts = {name: [str(block.part) for block in one.blocks] for name, one in details.items()}
    assert parts["names"][:2] == ["span_types", "span_errors"]
    assert parts["topics"][:2] == ["classes", "reliability"]
    worst = next(block for block in details["topics"].blocks if str(block.part) == "worst")
    texts = {topics_row(index)["text"] for index in range(8)}
    assert {one.text for one in worst.examples} <= texts
    assert {one.gold for one in worst.examples} <= {"a", "b"}
    page = (done[0] / "report.html").read_text("utf-8")
    assert worst.examples[0].text in page
