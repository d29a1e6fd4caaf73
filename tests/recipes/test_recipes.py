"""Every shipped recipe is decoded, checked, planned and run in tiny form; every example runs."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import BertConfig, BertModel

from weft.build.catalogue import catalogue, open_recipe
from weft.build.estimate import Machine
from weft.build.opened import open_all
from weft.model.quiet import quiet
from weft.recipe.dump import dump
from weft.recipe.load import loads
from weft.recipe.spec import Recipe
from weft.run.events import Finished
from weft.run.folder import RunFolder
from weft.run.session import train

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = sorted((REPOSITORY / "recipes").glob("*.yaml"))
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
ROWS = 24

Tiny = Callable[[Path], tuple[str, ...]]


@pytest.fixture(scope="module")
def six_layers(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random BERT with as many layers as MiniLM, so that the recipes' selectors mean the same."""
    folder = shutil.copytree(tiny_bert, tmp_path_factory.mktemp("models") / "six_layers")
    config = BertConfig.from_pretrained(tiny_bert, num_hidden_layers=6)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(six_layers: Path) -> Tiny:
    """Return a function that gives the overrides which make a recipe a matter of seconds."""

    def overrides(path: Path) -> tuple[str, ...]:
        recipe = open_recipe(path)
        found = ["bootstrap=100", "precision=fp32"]
        if recipe.model.path == "minilm":  # 90 MB, from a wheel that a test machine may lack
            found.append(f"model.path={six_layers}")
        for name, task in recipe.tasks.items():
            for split in ("train", "dev", "test"):
                references: tuple[str, ...] = getattr(task, split)
                found += [f"tasks.{name}.{split}={reference}[:{ROWS}]" for reference in references]
        return (*found, *(f"stages.{stage.name}.length=2 steps" for stage in recipe.stages))

    return overrides


def test_there_are_recipes_and_examples():
    assert [path.name for path in RECIPES] == ["instruct.yaml", "quickstart.yaml", "yardstick.yaml"]
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_comes_back_from_its_dump(path: Path):
    recipe = open_recipe(path)
    assert loads(dump(recipe), catalogue()).digest() == recipe.digest()


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_checked_and_planned(path: Path, tiny: Tiny):
    """All data, on a small model: a mistake in a file shows, weights are not needed."""
    model = [override for override in tiny(path) if override.startswith("model.path")]
    opened = open_all(path, tuple(model))
    for report in opened.data.report.tasks:
        assert all(split.dropped == {} and split.used == split.read for split in report.splits)
        assert set(report.overlap.values()) == {0}, "scores of a shipped recipe are honest"
    plans = opened.plans(Machine(1e11, torch.float32))
    assert [plan.name for plan in plans] == [stage.name for stage in opened.recipe.stages]
    for plan in plans:
        assert plan.steps
        assert 0 < plan.num_trained <= plan.num_values


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs(path: Path, tiny: Tiny, tmp_path: Path):
    recipe = open_recipe(path, tiny(path))
    *_, last = train(recipe, RunFolder(tmp_path / "run"), root=path.parent)
    assert isinstance(last, Finished)
    assert [task.task for task in last.report.final[0].tasks] == list(recipe.tasks)
    assert [stage.steps for stage in last.report.stages] == [2] * len(recipe.stages)
    assert (tmp_path / "run" / "bundle" / "weft.json").is_file()


def test_the_yardstick_is_short():
    lines = (REPOSITORY / "recipes" / "yardstick.yaml").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 30


def test_every_recipe_is_in_the_list():
    text = (REPOSITORY / "recipes" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in RECIPES if f"`{path.name}`" not in text] == []


# -------------------------------------------------------------------------------------------- examples


def example(name: str) -> ModuleType:
    path = REPOSITORY / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_examples_are_short_and_say_how_to_run_them():
    for path in EXAMPLES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 60
        assert f"\npython examples/{path.name}" in text


def test_train_and_follow_then_ask(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, run = REPOSITORY / "recipes" / "yardstick.yaml", str(tmp_path / "run")
    example("train_and_follow").main([str(path), run, *tiny(path)])
    told = capsys.readouterr().out
    assert "tasks: sentiment, entities" in told
    assert "stage together: " in told
    assert "100%" in told
    assert "sentiment: accuracy 0." in told
    assert told.rstrip().endswith(f"bundle: {run}/bundle")
    example("ask_bundle").main([run, "a joy to watch", "dull"])
    answers = capsys.readouterr().out
    assert answers.startswith("a joy to watch\n  sentiment: Answer(label=")
    assert "\ndull\n" in answers


def test_recipe_in_python(tiny_bert: Path, capsys: pytest.CaptureFixture[str]):
    module = example("recipe_in_python")
    data = str(REPOSITORY / "recipes" / "data" / "quickstart" / f"sentiment.train.csv[:{ROWS}]")
    module.main([data, str(tiny_bert)])
    out = capsys.readouterr().out
    text, _, table = out.partition("\n\n")
    assert isinstance(loads(text, catalogue()), Recipe)
    trained = [int(line.split()[-4].replace(",", "")) for line in table.strip().splitlines()]
    assert len(trained) == len(module.STRATEGIES)
    assert trained == sorted(trained), "each strategy trains more than the one before"


# ------------------------------------------------------------------------------------------------ data


def test_instruction_data_is_whole_and_its_splits_are_apart():
    folder = REPOSITORY / "recipes" / "data" / "instruct"
    splits = {
        split: [
            json.loads(line)
            for line in (folder / f"tasks.{split}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for split in ("train", "dev", "test")
    }
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 50, "dev": 10, "test": 10}
    rows = [row for found in splits.values() for row in found]
    assert all(list(row) == ["instruction", "input", "output"] and row["output"] for row in rows)
    assert len({row["instruction"] for row in rows}) == len(rows)
    licences = (folder / "LICENSES.md").read_text(encoding="utf-8")
    assert "## `tasks.*.jsonl`" in licences
    assert "Apache License 2.0" in licences
