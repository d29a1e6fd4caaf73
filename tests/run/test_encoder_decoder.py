"""An encoder-decoder from scratch: understanding and writing in one run, broken off and resumed, shipped and asked."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from weft.build.catalogue import open_recipe
from weft.build.opened import open_all
from weft.core.example import Answer, Row
from weft.errors import Interrupted, ModelError
from weft.evaluate.ask import ask
from weft.export.bundle import open_bundle
from weft.model.folder import CONFIG, TOKENIZER_FILES, locate
from weft.model.scratch import from_scratch
from weft.model.trunk import load_trunk
from weft.recipe.spec import Precision
from weft.run import session
from weft.run.events import Saved, StageStarted
from weft.run.folder import RunFolder

CPU = torch.device("cpu")
RECIPE = """\
seed: 3
model: {{path: {model}, init: random, max_tokens: 32}}
precision: PRECISION
bootstrap: 100
tasks:
  mood: {{kind: classification, train: mood.train.jsonl, dev: mood.dev.jsonl}}
  names: {{kind: tagging, train: names.train.conll, dev: names.dev.conll}}
  write: {{kind: generation, train: write.jsonl, max_new_tokens: 6, template: "translate: {{instruction}}"}}
stages:
  - {{name: together, strategy: full, lr: 3e-3, dropout: 0.1, length: 4 steps, batch: 16, evaluate: 4 steps, save: 1 steps}}
  - name: own
    strategy: [{{train: lora, rank: 2, per_task: true}}]
    length: 3 steps
    batch: 16
    evaluate: 3 steps
    save: 1 steps
  - name: writer
    tasks: write
    strategy: decoder
    carry: {{trunk: merge, heads: drop}}
    length: 3 steps
    batch: 8
    evaluate: 3 steps
    save: 1 steps
"""
PAIRS = [
    ("the cat sleeps", "他不好"),
    ("a dog runs", "你在北京"),
    ("mary is happy", "我是人"),
    ("one book", "小说"),
]


@pytest.fixture(scope="session")
def bare(tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the configuration and the tokenizer of a T5, and no weights."""
    folder = tmp_path_factory.mktemp("bare") / "small-t5"
    folder.mkdir()
    for name in (CONFIG, *TOKENIZER_FILES):
        if (tiny_t5 / name).is_file():
            shutil.copyfile(tiny_t5 / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def jobs(
    little: ModuleType, bare: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Path]]:
    """Return recipe and finished run by precision; treat both as read-only."""
    known: dict[str, tuple[Path, Path]] = {}

    def get(precision: str) -> tuple[Path, Path]:
        if precision not in known:
            home = tmp_path_factory.mktemp(precision)
            rows = [
                {"source": f"{source} {index}", "target": target}
                for index in range(8)
                for source, target in PAIRS
            ]
            little.write_rows(home / "write.jsonl", rows)
            recipe = little.write_job(home, bare, RECIPE.replace("PRECISION", precision))
            little.run(recipe, home / "run")
            known[precision] = recipe, home / "run"
        return known[precision]

    return get


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_run_broken_off_in_each_stage_is_the_unbroken_one(
    little: ModuleType, jobs: Callable[[str], tuple[Path, Path]], tmp_path: Path, precision: str
):
    recipe, unbroken = jobs(precision)
    where, wanted = "", [("own", 1), ("writer", 2)]
    folder = tmp_path / "run"
    events = session.train(open_recipe(recipe), RunFolder(folder), root=recipe.parent)
    for name, step in wanted:
        try:
            for event in events:
                where = event.plan.name if isinstance(event, StageStarted) else where
                if isinstance(event, Saved) and (where, event.step) == (name, step):
                    signal.raise_signal(signal.SIGTERM)
        except Interrupted:
            pass
        else:
            raise AssertionError("the run did not stop")
        events = session.resume(RunFolder(folder))
    list(events)
    assert little.differences(unbroken, folder) == []
    assert little.answers(unbroken) == little.answers(folder) != {}


def test_a_stage_for_the_decoder_leaves_the_encoder_as_it_was(jobs: Callable[[str], tuple[Path, Path]]):
    _, folder = jobs("fp32")
    before, after = (
        {
            name: tensor
            for path in sorted((folder / "stages" / stage / "final").rglob("delta.safetensors"))
            for name, tensor in load_file(path).items()
        }
        for stage in ("together", "writer")
    )
    own = {name for name in after if name.startswith("encoder.layers.0.norm")}
    assert own
    assert all(torch.equal(after[name], before[name]) for name in own)
    assert not torch.equal(
        after["decoder.layers.0.norm.ffn.weight"], before["decoder.layers.0.norm.ffn.weight"]
    )


def test_the_bundle_brings_its_base_along_and_answers(
    jobs: Callable[[str], tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, folder = jobs("fp32")
    shutil.copytree(folder / "bundle", tmp_path / "bundle")
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "empty"))
    bundle = open_bundle(tmp_path / "bundle", device=CPU, precision=Precision.FP32)
    assert bundle.base.folder.path == (tmp_path / "bundle" / "base").resolve()
    assert bundle.base.is_new
    rows = {name: [task.ask("the cat sleeps"), task.ask("他在北京")] for name, task in bundle.tasks.items()}
    asked: dict[str, list[Row | None]] = {name: list(own) for name, own in rows.items()}
    answers = ask(bundle.network, bundle.tasks, bundle.tokenizer, asked, budget=512, dtype=torch.float32)
    assert all(isinstance(answer, Answer) for answer in answers[0].values())
    assert list(answers[0]) == list(bundle.tasks) == ["write"]


def test_the_same_seed_is_the_same_model_and_another_is_not(bare: Path, tmp_path: Path):
    folder = locate(str(bare), None, root=Path(), needs_weights=False)
    before = torch.random.get_rng_state()
    made = [
        from_scratch(folder, seed=seed, home=tmp_path / home) for seed, home in ((1, "a"), (1, "b"), (2, "a"))
    ]
    assert torch.equal(before, torch.random.get_rng_state())
    assert made[0].digest == made[1].digest != made[2].digest
    assert from_scratch(folder, seed=1, home=tmp_path / "a") == made[0]
    trunk = load_trunk(made[0], wants_lm_head=True, dropout=0.0, device=CPU)
    assert trunk.info.is_encoder_decoder
    assert {path.name for path in (tmp_path / "a").iterdir()} == {one.path.name for one in (made[0], made[2])}


def test_every_kind_of_model_can_be_new(tiny_bert: Path, stories260k: Path, tmp_path: Path):
    for folder, wants in ((tiny_bert, False), (stories260k, True)):
        made = from_scratch(locate(str(folder), None, root=Path()), seed=0, home=tmp_path)
        new, old = (
            load_trunk(one, wants_lm_head=wants, dropout=0.0, device=CPU)
            for one in (made, locate(str(folder), None, root=Path()))
        )
        shapes = [(name, parameter.shape) for name, parameter in old.named_parameters()]
        assert [(name, parameter.shape) for name, parameter in new.named_parameters()] == shapes
        assert not torch.equal(next(new.parameters()), next(old.parameters()))


def test_without_being_asked_for_a_folder_without_weights_is_refused(
    little: ModuleType, bare: Path, tmp_path: Path
):
    little.write_rows(tmp_path / "write.jsonl", [{"source": "a", "target": "b"}] * 8)
    text = RECIPE.replace("PRECISION", "fp32").replace("init: random, ", "")
    recipe = little.write_job(tmp_path, bare, text)
    with pytest.raises(ModelError, match=r"must hold model\.safetensors"):
        open_all(recipe)
