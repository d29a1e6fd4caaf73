"""Plain texts in a run: a block is an example, in steps, epochs, counts and the report; resumed as never stopped."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from weft.build.catalogue import open_recipe
from weft.build.data import DEV, read_data
from weft.cli import main
from weft.errors import Interrupted
from weft.evaluate.predict import sum_losses
from weft.export.bundle import open_bundle
from weft.report.html import render_html
from weft.report.markdown import render_markdown
from weft.report.records import RunReport
from weft.report.tables import plain
from weft.run import session
from weft.run.events import Saved, StageStarted
from weft.run.folder import RunFolder

RECIPE = """\
model: {{path: {model}, max_tokens: 48}}
precision: fp32
bootstrap: 100
tasks:
  tales: {{kind: generation, train: tales.jsonl, dev: tales.dev.jsonl, max_new_tokens: 4, judge: 2}}
stages:
  - {{name: one, strategy: full, length: 2 epochs, batch: 4, budget: 100, evaluate: 1 epochs, save: 1 steps, lr: 1e-4}}
"""
TEXTS = (
    "Once upon a time there was a big red cat. " * 9,
    "春眠不觉晓，处处闻啼鸟。" * 5,
    "Tim ran home. ",
    "A sad dog.",
)


@pytest.fixture(scope="module")
def done(little: ModuleType, stories260k: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the job's folder, its data and the events of its run."""
    home = tmp_path_factory.mktemp("blocks")
    little.write_rows(home / "tales.jsonl", [{"text": text} for text in TEXTS])
    little.write_rows(
        home / "tales.dev.jsonl", [{"text": "The sun is big. " * 20}, {"text": "从前有一只猫。" * 8}]
    )
    job = home / "recipe.yaml"
    job.write_text(RECIPE.format(model=stories260k), encoding="utf-8")
    events = little.run(job, home / "run")
    bundle = open_bundle(home / "run", precision="fp32")
    return home, bundle, read_data(open_recipe(job), bundle.tokenizer, root=home), events


def report_of(home: Path) -> RunReport:
    return RunReport.model_validate_json((home / "run" / "report.json").read_bytes())


def test_steps_and_epochs_count_blocks(done):
    home, _, data, events = done
    blocks = data.tasks["tales"].train
    assert len(blocks) > 2 * len(TEXTS)
    (plan,) = (event.plan for event in events if isinstance(event, StageStarted))
    stage = report_of(home).stages[0]
    assert stage.steps == plan.steps == 2 * math.ceil(len(blocks) / 4)
    assert stage.examples == {"tales": 2 * len(blocks)}
    assert plan.passes == {"tales": 2.0}
    assert stage.tokens == 2 * sum(len(block.tokens) for block in blocks)
    assert sum(step.examples for step in stage.curve) == 2 * len(blocks)


def test_the_dev_loss_is_the_mean_over_the_tokens_of_all_blocks(done):
    home, bundle, data, _ = done
    taught = data.tasks["tales"].taught[DEV]
    assert len(taught) > len(data.tasks["tales"].dev) == 2
    options: Any = {"pad": bundle.tokenizer.pad, "budget": 4096, "dtype": torch.float32}
    summed = sum_losses(bundle.network, bundle.tasks, {"tales": taught}, **options)["tales"]
    assert summed.weight == sum(len(block.tokens) - 1 for block in taught)
    total = 0.0
    with torch.no_grad():
        for block in taught:
            logits = bundle.network.trunk.model(torch.tensor([block.tokens])).logits[0].log_softmax(-1)
            total -= sum(float(logits[at - 1, block.tokens[at]]) for at in range(1, len(block.tokens)))
    assert summed.total == pytest.approx(total, rel=1e-4)
    (task,) = report_of(home).final[0].tasks
    assert task.loss == pytest.approx(summed.mean, rel=1e-5)
    assert task.perplexity == pytest.approx(math.exp(task.loss))


def test_the_report_shows_blocks_beside_rows_and_the_perplexity(done):
    home, _, data, _ = done
    report = report_of(home)
    (train, _) = report.data.tasks[0].splits
    assert (train.used, train.examples) == (4, len(data.tasks["tales"].train))
    (task,) = report.final[0].tasks
    page, text = render_html(report), render_markdown(report)
    assert f"| {train.used} | {train.examples} |" in text
    assert "| perplexity |" in text
    assert "perplexity" in page
    card = (home / "run" / "bundle" / "README.md").read_text(encoding="utf-8")
    assert task.perplexity is not None
    assert f"| tales | generation | dev | perplexity | {plain(task.perplexity)} | – | – |" in card


def test_a_run_that_was_stopped_between_blocks_goes_on_as_if_it_never_was(
    done, little: ModuleType, tmp_path: Path
):
    home, *_ = done
    recipe, folder = open_recipe(home / "recipe.yaml"), tmp_path / "run"
    going = session.train(recipe, RunFolder(folder), root=home)
    next(event for event in going if isinstance(event, Saved) and event.step == 2)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        list(going)
    (started,) = (event for event in little.resume(folder) if isinstance(event, StageStarted))
    assert 2 <= started.step < report_of(home).stages[0].steps
    never, resumed = little.tensors(home / "run"), little.tensors(folder)
    assert never.keys() == resumed.keys()
    assert all(torch.equal(never[name], resumed[name]) for name in never)


def test_eval_on_a_file_takes_the_loss_of_all_blocks_too(done, capsys: pytest.CaptureFixture[str]):
    home, *_ = done
    command = ["eval", str(home / "run"), f"tales={home / 'tales.dev.jsonl'}"]
    assert main([*command, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["tasks"]
    (task,) = report_of(home).final[0].tasks
    assert found["loss"] == pytest.approx(
        task.loss, rel=1e-2
    )  # files are judged in bf16 where the machine has it
    assert main(command) == 0
    assert f"perplexity {plain(math.exp(found['loss']))}" in " ".join(capsys.readouterr().out.split())
