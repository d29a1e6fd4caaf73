"""A run that generates: dev loss on all rows, answers for some, the end judged whole, options that can be changed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from weft.build.catalogue import open_recipe
from weft.build.data import DEV, TEST, read_data
from weft.cli import main
from weft.evaluate.predict import sum_losses
from weft.evaluate.predictions import read_predictions
from weft.export.bundle import open_bundle
from weft.report.html import render_html
from weft.report.markdown import render_markdown
from weft.report.records import RunReport
from weft.run.events import Evaluated
from weft.run.judging import spread

RECIPE = """\
model: {{path: {model}, max_tokens: 48}}
precision: fp32
bootstrap: 100
tasks:
  story: {{kind: generation, train: story.jsonl, dev: story.dev.jsonl, test: story.test.jsonl, max_new_tokens: 6, judge: 3}}
  code:
    kind: generation
    train: code.jsonl
    dev: code.jsonl
    max_new_tokens: 6
    metrics: [pass@1, bleu]
    execute: true
stages:
  - {{name: one, strategy: full, length: 2 steps, batch: 8, evaluate: 1 steps, lr: 1e-4}}
"""
WORDS = ("cat", "dog", "boy", "girl", "sun", "tree", "ball")


@pytest.fixture(scope="module")
def done(little: ModuleType, stories260k: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the job's folder and the events of its run."""
    home = tmp_path_factory.mktemp("generating")
    for file, count in (("story", 12), ("story.dev", 7), ("story.test", 5)):
        rows = [
            {"instruction": f"{file} {word} {at}", "output": f"the {word}"}
            for at, word in enumerate((WORDS * 2)[:count])
        ]
        little.write_rows(home / f"{file}.jsonl", rows)
    code = [{"instruction": f"code {word}", "output": "x = 1", "tests": ["y = 1"]} for word in WORDS]
    little.write_rows(home / "code.jsonl", code)
    job = home / "recipe.yaml"
    job.write_text(RECIPE.format(model=stories260k), encoding="utf-8")
    return home, little.run(job, home / "run")


def test_some_dev_rows_are_answered_and_all_have_a_loss(done):
    home, events = done
    evaluations = [event.report for event in events if isinstance(event, Evaluated)]
    assert len(evaluations) == 2
    for report in evaluations:
        story, code = report.tasks
        assert (story.scores[0].n, code.scores[0].n) == (3, 7)
        assert story.is_chosen_by_loss
        assert not code.is_chosen_by_loss
        assert report.seconds > story.seconds > 0
    final = RunReport.model_validate_json((home / "run" / "report.json").read_bytes()).final[0]
    assert [(task.split, task.scores[0].n) for task in final.tasks] == [("test", 5), ("dev", 7)]
    assert all(task.loss is not None for task in final.tasks)


def test_the_dev_loss_is_that_of_all_rows_by_teacher_forcing(done):
    home, _ = done
    bundle = open_bundle(home / "run", precision="fp32")
    data = read_data(open_recipe(home / "recipe.yaml"), bundle.tokenizer, root=home)
    assert {name: set(own.taught) for name, own in data.tasks.items()} == {
        "story": {DEV, TEST},
        "code": {DEV},
    }
    taught = {"story": data.tasks["story"].taught[TEST]}
    options: Any = {"pad": bundle.tokenizer.pad, "dtype": torch.float32}
    together = sum_losses(bundle.network, bundle.tasks, taught, budget=4096, **options)["story"]
    alone = [
        sum_losses(bundle.network, bundle.tasks, {"story": [row]}, budget=1, **options)["story"]
        for row in taught["story"]
    ]
    assert (
        together.weight
        == sum(one.weight for one in alone)
        == sum(row.target.texts[0][0].end - row.target.texts[0][0].start for row in taught["story"])
    )
    assert together.total == pytest.approx(sum(one.total for one in alone), rel=1e-5)
    with torch.no_grad():
        row = taught["story"][0]
        ((span,),) = row.target.texts
        logits = bundle.network.trunk.model(torch.tensor([row.tokens])).logits[0].log_softmax(-1)
    by_hand = -sum(float(logits[at - 1, row.tokens[at]]) for at in range(span.start, span.end))
    assert alone[0].total == pytest.approx(by_hand, rel=1e-5)
    final = RunReport.model_validate_json((home / "run" / "report.json").read_bytes()).final[0]
    assert final.tasks[0].loss == pytest.approx(together.mean, rel=1e-5)


def test_checkpoints_are_chosen_by_the_loss_and_by_named_metrics(done):
    _, events = done
    for report in (event.report for event in events if isinstance(event, Evaluated)):
        story, code = report.tasks
        assert story.loss is not None
        assert code.loss is not None
        code_gain = max(code.scores[0].value, 0.01 / (1 + code.loss))
        assert report.selection == pytest.approx(math.sqrt(code_gain / (1 + story.loss)))


def test_programs_ran_at_every_evaluation_and_at_the_end(done):
    home, _ = done
    answers = read_predictions(home / "run" / "predictions" / "dev" / "code.jsonl")
    assert all(row.answer.extra["programs"] == 1 for row in answers.rows)


def test_the_report_says_how_bleu_was_taken_and_what_answers_cost(done):
    home, _ = done
    report = RunReport.model_validate_json((home / "run" / "report.json").read_bytes())
    score = next(score for task in report.final[0].tasks for score in task.scores if score.metric == "bleu")
    assert "tok:13a" in score.signature
    assert "tok:13a" in render_markdown(report).replace("&#58;", ":").replace("\\", "")
    assert "of it answers" in render_markdown(report)
    assert "tok:13a" in render_html(report)


def test_a_bundle_answers_as_told_and_runs_no_code_by_itself(done, capsys):
    home, _ = done
    run = str(home / "run")
    bundle = open_bundle(home / "run")
    assert not any(task.answering.execute for task in bundle.tasks.values())
    assert main(["predict", run, "story cat", "-t", "story", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)["answers"]["story"]["text"]
    assert (
        main(["predict", run, "story cat", "-t", "story", "--json", "--set", "story.max_new_tokens=2"]) == 0
    )
    short = json.loads(capsys.readouterr().out)["answers"]["story"]["text"]
    assert plain.startswith(short)
    assert len(short) < len(plain)
    assert main(["predict", run, "story cat", "--set", "story.beams=2"]) == 5
    assert "story.beams: must be an option" in capsys.readouterr().err


def test_eval_takes_the_same_scores_and_needs_leave_for_programs(done, capsys):
    home, _ = done
    assert main(["eval", str(home / "run"), "--json"]) == 5
    assert "--set TASK.execute=true" in capsys.readouterr().err
    assert main(["eval", str(home / "run"), "--json", "--set", "code.execute=true"]) == 0
    found = json.loads(capsys.readouterr().out)
    final = RunReport.model_validate_json((home / "run" / "report.json").read_bytes()).final[0]
    for own, task in zip(found["tasks"], final.tasks, strict=True):
        assert own["loss"] == pytest.approx(task.loss, rel=1e-5)
        assert [score["value"] for score in own["scores"]] == pytest.approx([s.value for s in task.scores])


def test_rows_are_spread_evenly():
    assert spread(range(10), None) == range(10)
    assert spread(range(10), 10) == range(10)
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(7), 3) == [0, 2, 4]
