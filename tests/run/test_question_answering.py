"""A run of question answering from a nested file: the threshold chosen on dev is what the bundle answers by."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from weft.cli import main
from weft.evaluate.predictions import read_predictions
from weft.metric.question_answering import best, f1
from weft.report.records import RunReport

RECIPE = """\
seed: 3
model: {{path: {model}, max_tokens: 48}}
precision: fp32
bootstrap: 100
tasks:
  asked: {{kind: qa, train: asked.train.json, dev: asked.dev.json, test: asked.test.json, stride: 8}}
stages:
  - {{name: one, strategy: full, lr: 2e-3, length: 6 steps, batch: 8, evaluate: 3 steps}}
"""
NAMES, PLACES = ("john", "mary", "smith"), ("paris", "london", "berlin", "germany")
FILLER = "the old city is big and a cat sleeps in it "


def article(number: int) -> dict[str, Any]:
    name, place = NAMES[number % 3], PLACES[number % 4]
    context = f"{FILLER * (6 if number % 5 == 0 else 1)}{name} works in {place}"
    answer = {"text": place, "answer_start": context.rindex(place)}
    asked = {"id": f"q{number}", "question": f"where does {name} work", "answers": [answer]}
    unasked = {"id": f"n{number}", "question": "who likes the film", "answers": [], "is_impossible": True}
    qas = [{**asked, "is_impossible": False}, *([unasked] if number % 2 else [])]
    return {"title": place, "paragraphs": [{"context": context, "qas": qas}]}


@pytest.fixture(scope="module")
def done(little: ModuleType, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("asked")
    for split, numbers in (("train", range(24)), ("dev", range(24, 36)), ("test", range(36, 44))):
        content = {"version": "v2.0", "data": [article(number) for number in numbers]}
        (home / f"asked.{split}.json").write_text(json.dumps(content), encoding="utf-8")
    job = home / "recipe.yaml"
    job.write_text(RECIPE.format(model=tiny_bert), encoding="utf-8")
    little.run(job, home / "run")
    return home / "run"


def test_the_data_report_counts_questions(done: Path):
    report = RunReport.model_validate_json((done / "report.json").read_bytes())
    train = report.data.tasks[0].splits[0]
    assert (train.read, train.used, train.dropped) == (36, 36, {})
    assert train.labels == {"with an answer": 24, "without": 12}
    assert train.cut_share == 0, "a long context is windows, nothing of it is cut"
    assert train.tokens_max > 48
    assert report.data.tasks[0].columns["context"] == "context"


def test_the_threshold_of_the_best_evaluation_is_the_bundles(done: Path):
    report = RunReport.model_validate_json((done / "report.json").read_bytes())
    (stage,) = report.stages
    judged = next(one for one in stage.evaluations if one.step == stage.best_step).tasks[0]
    assert set(judged.fitted) == {"threshold"}
    config = json.loads((done / "bundle/heads/asked/head.json").read_text("utf-8"))["config"]
    assert config["threshold"] == judged.fitted["threshold"] != 0.0
    assert [score.metric for score in judged.scores] == ["f1", "exact_match", "has_answer_f1", "no_answer_f1"]
    assert report.final[0].tasks[0].split == "test"
    assert report.final[0].tasks[0].fitted == judged.fitted


def test_the_report_says_how_answers_are_wrong_and_shows_some(done: Path):
    report = json.loads((done / "report.json").read_text("utf-8"))
    (detail,) = report["details"]
    parts = {block["part"]: block for block in detail["blocks"]}
    assert {row[0] for row in parts["span_errors"]["rows"]} <= {
        "wrong_boundary",
        "elsewhere",
        "missed",
        "spurious",
    }
    example = parts["samples"]["examples"][0]
    assert example["text"].startswith("where does ")
    assert "works in" in example["text"]


def test_test_rows_are_answered_by_that_threshold(done: Path):
    found = read_predictions(done / "predictions" / "test" / "asked.jsonl")
    assert len(found.rows) == 8 + 4
    assert {row.where.rpartition(":")[2] for row in found.rows} >= {"q36", "n37"}
    for row in found.rows:
        extra = row.answer.extra
        assert (row.answer.text == "") is (extra["no_answer"] > found.config["threshold"])
        assert row.answer.text in ("", extra["best"])
    report = RunReport.model_validate_json((done / "report.json").read_bytes())
    total = sum(best(f1, row.gold, row.answer) for row in found.rows)
    assert report.final[0].tasks[0].scores[0].value == pytest.approx(total / len(found.rows))


def test_a_question_and_its_context_are_asked_on_the_command_line(
    done: Path, capsys: pytest.CaptureFixture[str]
):
    context = "mary works in london"
    assert main(["predict", str(done), "where does mary work", "--pair", context, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["answers"]["asked"]
    assert answer["best"] == context[answer["start"] : answer["end"]]
    assert main(["predict", str(done), "where does mary work", "--pair", context]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["asked", *(answer["text"] or "none").split()]
    assert main(["predict", str(done), "where does mary work"]) != 0
    assert "a question and its context" in capsys.readouterr().err
