"""Prefixes of encoder-decoders through a whole run: for all tasks and for each, continued, behind a gate, broken off, asked."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from weft.build.catalogue import open_recipe
from weft.core.example import Answer, Row
from weft.errors import RecipeError
from weft.evaluate.ask import ask
from weft.export.bundle import open_bundle
from weft.recipe.spec import Precision
from weft.run import session
from weft.run.events import Stepped
from weft.run.folder import RunFolder

RECIPE = """\
seed: 3
model: {{path: {model}, max_tokens: 32}}
precision: fp32
bootstrap: 100
tasks:
  names: {{kind: tagging, train: names.train.conll, dev: names.dev.conll}}
  write: {{kind: generation, train: write.jsonl, max_new_tokens: 6}}
stages:
  - {{name: first, strategy: RULES, PACE}}
  - {{name: further, strategy: RULES, carry: {{trunk: continue}}, PACE}}
  - {{name: gated, strategy: [{{train: prefix, tokens: 3, gate: true}}], carry: {{trunk: stack}}, PACE}}
"""
PACE = "length: 2 steps, batch: 8, evaluate: 2 steps, save: 1 steps, lr: 1e-2"
RULES = (
    '[{{train: prefix, tokens: 2, per_task: true, sites: "encoder.kv, cross_attention"}}, '
    "{{train: prompt, tokens: 2}}]"
)
PAIRS = [
    ("the cat sleeps", "他不好"),
    ("a dog runs", "你在北京"),
    ("mary is happy", "我是人"),
    ("one book", "小说"),
]


def job(little: ModuleType, folder: Path, model: Path, text: str = RECIPE) -> Path:
    rows = [
        {"source": f"{source} {index}", "target": target} for index in range(4) for source, target in PAIRS
    ]
    little.write_rows(folder / "write.jsonl", rows)
    return little.write_job(folder, model, text.replace("RULES", RULES).replace("PACE", PACE))


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_run_broken_off_is_the_unbroken_one_and_its_bundle_answers(
    little: ModuleType, request: pytest.FixtureRequest, tmp_path: Path, kind: str
):
    path = job(little, tmp_path, request.getfixturevalue(f"tiny_{kind}"))
    report = little.report_of(little.run(path, tmp_path / "whole"))
    assert [stage.entry_difference for stage in report.stages][1:] == pytest.approx([0, 0], abs=1e-5)
    events = session.train(open_recipe(path), RunFolder(tmp_path / "broken"), root=tmp_path, overwrite=False)
    num_steps = 3
    for event in events:
        num_steps -= isinstance(event, Stepped)
        if num_steps == 0:
            break
    events.close()
    little.resume(tmp_path / "broken")
    assert little.differences(tmp_path / "broken", tmp_path / "whole") == []
    assert little.answers(tmp_path / "broken") == little.answers(tmp_path / "whole")

    bundle = open_bundle(tmp_path / "whole" / "bundle", device=torch.device("cpu"), precision=Precision.FP32)
    own = {one.name: set(one.tasks) for one in bundle.parts.adapters}
    assert own == {
        "first-prefix-names": {"names"},
        "first-prefix-write": {"write"},
        "first-prompt": set(),
        "gated": set(),
    }
    asked: dict[str, list[Row | None]] = {
        name: [task.ask("the cat sleeps"), task.ask("他在北京")] for name, task in bundle.tasks.items()
    }
    answers = ask(bundle.network, bundle.tasks, bundle.tokenizer, asked, budget=512, dtype=torch.float32)
    assert all(isinstance(answer, Answer) for one in answers for answer in one.values())
    (gates,) = (tmp_path / "whole" / "bundle").glob("adapters/gated/*.safetensors")
    moved = [tensor for name, tensor in load_file(gates).items() if ".prefix_gate." in name]
    assert len(moved) == 2 * 3
    assert any(gate.abs().item() > 0 for gate in moved)


def test_rows_that_leave_no_room_are_refused_before_anything_is_read(
    little: ModuleType, tiny_bart: Path, tmp_path: Path
):
    text = RECIPE.partition("stages:")[0].replace("max_tokens: 32", "max_tokens: 126")
    text += "stages:\n  - {{name: one, strategy: [{{train: prefix, tokens: 4, sites: decoder.self_attention}}], PACE}}\n"
    with pytest.raises(RecipeError, match=r"at most 124 tokens of their own.*takes 4 of them"):
        little.run(job(little, tmp_path, tiny_bart, text), tmp_path / "run")
