"""Virtual positions through a whole run: trained, continued, stacked under, broken off and resumed, asked."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from weft.core.example import Purpose
from weft.errors import RecipeError
from weft.evaluate.predict import answer_all
from weft.export.bundle import open_bundle
from weft.recipe.spec import Precision
from weft.run import session
from weft.run.events import Stepped
from weft.run.folder import RunFolder

RECIPE = """\
seed: 3
model: {{path: {model}, max_tokens: 32}}
precision: PRECISION
bootstrap: 100
keep: 1
tasks:
  mood: {{kind: classification, train: mood.train.jsonl, dev: mood.dev.jsonl, test: mood.test.jsonl}}
  names: {{kind: tagging, train: names.train.conll, dev: names.dev.conll, test: names.test.conll}}
stages:
  - name: prompts
    strategy: [{{train: prompt, tokens: 2, per_task: true}}, {{train: prefix, tokens: 3, sites: "layers[1].kv"}}]
    PACE
  - name: further
    strategy: [{{train: prompt, tokens: 2, per_task: true}}, {{train: prefix, tokens: 3, sites: "layers[1].kv"}}]
    carry: {{trunk: continue}}
    PACE
  - name: gated
    strategy: [{{train: prefix, tokens: 4, gate: true}}, {{train: full, sites: top 1}}]
    carry: {{trunk: stack}}
    PACE
"""
PACE = "length: 3 steps\n    batch: 8\n    evaluate: 2 steps\n    save: 1 steps\n    lr: 1e-2"


def job(little: ModuleType, folder: Path, model: Path, precision: str = "fp32") -> Path:
    text = RECIPE.replace("PACE", PACE).replace("PRECISION", precision)
    return little.write_job(folder, model, text)


def stop_after(path: Path, folder: Path, *, num_steps: int) -> None:
    from weft.build.catalogue import open_recipe

    events = session.train(open_recipe(path), RunFolder(folder), root=path.parent, overwrite=False)
    for event in events:
        num_steps -= isinstance(event, Stepped)
        if num_steps == 0:
            break
    events.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_ends_with_the_same_bits_wherever_it_was_broken_off(
    little: ModuleType, tiny_bert: Path, tmp_path: Path, precision: str
):
    path = job(little, tmp_path, tiny_bert, precision)
    little.run(path, tmp_path / "whole")
    for num_steps in (2, 5) if precision == "fp32" else (8,):
        broken = tmp_path / str(num_steps)
        stop_after(path, broken, num_steps=num_steps)
        little.resume(broken)
        assert little.differences(broken, tmp_path / "whole") == []
        assert little.answers(broken) == little.answers(tmp_path / "whole")


def test_a_bundle_answers_as_the_run_did(little: ModuleType, tiny_bert: Path, tmp_path: Path):
    path = job(little, tmp_path, tiny_bert)
    report = little.report_of(little.run(path, tmp_path / "run"))
    assert [stage.entry_difference for stage in report.stages][1:] == pytest.approx([0, 0], abs=1e-5)
    bundle = open_bundle(tmp_path / "run" / "bundle", device=torch.device("cpu"), precision=Precision.FP32)
    assert {one.method for one in bundle.parts.adapters} == {"prompt", "prefix"}
    lines = (tmp_path / "mood.test.jsonl").read_text("utf-8").splitlines()
    task = bundle.tasks["mood"]
    rows = [task.ask(json.loads(line)["text"], None) for line in lines]
    encoded = task.encode(rows, bundle.tokenizer, Purpose.ANSWER)
    found = answer_all(
        bundle.network,
        {"mood": task},
        {"mood": encoded},
        pad=bundle.tokenizer.pad,
        budget=512,
        dtype=torch.float32,
    ).answers["mood"]
    said = [
        json.loads(line)["answer"]
        for file, text in little.answers(tmp_path / "run").items()
        if "mood" in file
        for line in text.splitlines()[1:]
    ]
    assert said[-len(rows) :] == [json.loads(json.dumps(one.to_json())) for one in found]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("[{{train: prefix, tokens: 2}}]", "entering a stage must not change what its parent computes"),
        ("prompt", r"or say that the function may change \(carry.trunk: drop\)"),
    ],
)
def test_a_new_one_behind_a_parent_is_refused_before_anything_is_read(
    little: ModuleType, tiny_bert: Path, tmp_path: Path, second: str, said: str
):
    about = RECIPE.replace("PRECISION", "fp32").partition("stages:")[0]
    stages = f"""stages:
  - {{{{name: one, strategy: lora, length: 1 steps}}}}
  - {{{{name: two, strategy: {second}, carry: {{{{trunk: merge}}}}, length: 1 steps}}}}
"""
    path = little.write_job(tmp_path, tiny_bert, about + stages)
    with pytest.raises(RecipeError, match=said):
        little.run(path, tmp_path / "run")
