"""Every shipped recipe is decoded, checked, planned and run in tiny form; every example runs."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from weft.build.catalogue import catalogue, open_recipe
from weft.build.estimate import Machine
from weft.build.opened import open_all
from weft.data.reference import parse
from weft.model.quiet import quiet
from weft.recipe.dump import dump
from weft.recipe.load import loads
from weft.recipe.spec import Recipe
from weft.run.events import Finished
from weft.run.folder import RunFolder
from weft.run.session import train

REPOSITORY = Path(__file__).resolve().parents[2]
HUB = REPOSITORY / "recipes" / "data" / "hub"
NAMES = "chat clue cmrc conll customer_service families glue gsm8k imdb instruct quickstart squad summarise super_glue translate xnli yardstick".split()
RECIPES = sorted((REPOSITORY / "recipes").glob("*.yaml"))
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
ROWS = 24
FAST = ("instruct", "quickstart", "squad", "super_glue", "yardstick")  # of each family one

Tiny = Callable[[Path], tuple[str, ...]]


@pytest.fixture(scope="module")
def six_layers(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random BERT with as many layers as MiniLM, so that the recipes' selectors mean the same.

    It knows every Chinese sign of the stand-ins for sets of the Hub: unknown ones would make different texts equal.
    """
    folder = shutil.copytree(tiny_bert, tmp_path_factory.mktemp("models") / "six_layers")
    signs = sorted({sign for file in HUB.rglob("*.jsonl") for sign in file.read_text(encoding="utf-8")})
    with quiet(), torch.random.fork_rng(devices=[]):
        tokenizer = BertTokenizer.from_pretrained(tiny_bert)
        known = tokenizer.get_vocab()
        new = [sign for sign in signs if "\u4e00" <= sign <= "\u9fff" and sign not in known]
        vocabulary = {**known, **{sign: len(known) + place for place, sign in enumerate(new)}}
        BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=128).save_pretrained(folder)
        torch.manual_seed(0)
        config = BertConfig.from_pretrained(tiny_bert, num_hidden_layers=6, vocab_size=len(vocabulary))
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def offline(six_layers: Path, stories260k: Path) -> Tiny:
    """Return a function that gives the overrides with which a recipe needs no connection: small models, stand-ins."""

    def overrides(path: Path) -> tuple[str, ...]:
        recipe = open_recipe(path)
        if (path.parent / recipe.model.path).is_dir():
            return ()
        is_causal = any(task.kind == "generation" for task in recipe.tasks.values())
        most = min(recipe.model.max_tokens, 512 if is_causal else 128)
        model = (f"model.path={stories260k if is_causal else six_layers}", f"model.max_tokens={most}")
        # MiniLM is 90 MB, from a wheel that a test machine may lack; its recipes have data of their own.
        return model if recipe.model.path == "minilm" else (*model, "data_root=data/hub")

    return overrides


@pytest.fixture
def tiny(offline: Tiny) -> Tiny:
    """Return a function that gives the overrides which make a recipe a matter of seconds."""

    def overrides(path: Path) -> tuple[str, ...]:
        recipe = open_recipe(path)
        found = ["bootstrap=100", "precision=fp32", *offline(path)]
        for name, task in recipe.tasks.items():
            if task.kind == "generation":
                found.append(f"tasks.{name}.max_new_tokens=4")
            for split in ("train", "dev", "test"):
                references: tuple[str, ...] = getattr(task, split)
                short = [one if one.endswith("]") or "#" in one else f"{one}[:{ROWS}]" for one in references]
                found += [f"tasks.{name}.{split}={json.dumps(short)}"] * bool(short)
        return (*found, *(f"stages.{stage.name}.length=2 steps" for stage in recipe.stages))

    return overrides


def test_there_are_recipes_and_examples():
    assert [path.stem for path in RECIPES] == NAMES
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_comes_back_from_its_dump(path: Path):
    recipe = open_recipe(path)
    assert loads(dump(recipe), catalogue()).digest() == recipe.digest()


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_checked_and_planned(path: Path, offline: Tiny):
    """All data, on a small model: a mistake in a file shows, weights are not needed."""
    opened = open_all(path, offline(path))
    for report in opened.data.report.tasks:
        assert all(split.dropped == {} and split.used == split.read for split in report.splits)
        assert set(report.overlap.values()) == {0}, "scores of a shipped recipe are honest"
    plans = opened.plans(Machine(1e11, torch.float32))
    assert [plan.name for plan in plans] == [stage.name for stage in opened.recipe.stages]
    for plan in plans:
        assert plan.steps
        assert 0 < plan.num_trained <= plan.num_values


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path.stem in FAST else pytest.mark.slow) for path in RECIPES],
    ids=lambda path: path.stem,
)
def test_a_recipe_runs(path: Path, tiny: Tiny, tmp_path: Path):
    recipe = open_recipe(path, tiny(path))
    *_, last = train(recipe, RunFolder(tmp_path / "run"), root=path.parent)
    assert isinstance(last, Finished)
    assert [task.task for task in last.report.final[0].tasks] == list(recipe.tasks)
    assert [stage.steps for stage in last.report.stages] == [2] * len(recipe.stages)
    assert (tmp_path / "run" / "bundle" / "weft.json").is_file()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_for_the_hub_finds_every_stand_in(path: Path):
    """What a recipe names is a hub id with a folder of its name, or a file beside it."""
    for task in open_recipe(path).tasks.values():
        for reference in (*task.train, *task.dev, *task.test):
            found = parse(reference, root=path.parent, data_root=HUB)
            assert found.path is not None, reference
            assert (found.split is None) == found.path.is_file(), reference


@pytest.mark.slow
def test_the_customer_service_job_learns(tmp_path: Path):
    """In small: three kinds of answer on one decoder; in the last stage the losses of all five tasks fall."""
    path = REPOSITORY / "recipes" / "customer_service.yaml"
    lengths = {"general": 2, "domain": 2, "task": 24}
    overrides = ["bootstrap=100", "precision=fp32"]
    overrides += [f"stages.{name}.length={steps} steps" for name, steps in lengths.items()]
    overrides += [f"tasks.{name}.max_new_tokens=4" for name in ("talk", "reply", "summary")]
    overrides += [
        f"tasks.{name}.{split}={getattr(task, split)[0]}[:16]"
        for name, task in open_recipe(path).tasks.items()
        for split in ("train", "dev", "test")
    ]
    recipe = open_recipe(path, tuple(overrides))
    *_, last = train(recipe, RunFolder(tmp_path / "run"), root=path.parent)
    assert isinstance(last, Finished)
    job = last.report.stages[-1]
    assert set(job.examples) == {"intent", "mood", "slots", "reply", "summary"}
    ends: list[tuple[float, float]] = []
    for task in job.examples:
        losses = [step.losses[task] for step in job.curve if task in step.losses]
        ends.append((sum(losses[:3]), sum(losses[-3:])))
    assert all(last < first for first, last in ends), ends
    assert sum(last for _, last in ends) < 0.95 * sum(first for first, _ in ends), ends


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


def test_every_folder_of_data_is_small_and_says_its_licences():
    data = REPOSITORY / "recipes" / "data"
    folders = sorted(path.name for path in data.iterdir())
    assert folders == ["hub", "instruct", "questions", "quickstart", "service"]
    for folder in ("hub", "instruct", "questions", "service"):
        assert all(path.stat().st_size <= 100_000 for path in (data / folder).rglob("*") if path.is_file())
        licences = (data / folder / "LICENSES.md").read_text(encoding="utf-8")
        for section in licences.split("\n## ")[1:]:
            assert [section.count(word) for word in ("- Source:", "- Licence:", "- Changes:")] == [1, 1, 1]
    named = re.findall(r"^## `([^`]+)`$", (data / "service" / "LICENSES.md").read_text("utf-8"), re.MULTILINE)
    files = [path for path in (data / "service").iterdir() if path.suffix != ".md"]
    assert [path.name for path in files if not any(path.match(pattern) for pattern in named)] == []


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


def test_questions_have_their_answers_and_their_splits_are_apart():
    folder = REPOSITORY / "recipes" / "data" / "questions"
    passages: list[str] = []
    for split, size in {"train": 150, "dev": 50, "test": 100}.items():
        lines = (folder / f"questions.{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(rows) == size
        for row in rows:
            for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
                assert row["context"][start : start + len(text)] == text
        passages += [row["context"] for row in rows]
    assert len(set(passages)) == len(passages)
