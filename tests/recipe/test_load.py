from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from weft.errors import RecipeError
from weft.recipe.duration import Duration
from weft.recipe.load import load, loads
from weft.recipe.spec import Catalogue, HeadCarry, MixtureKind, Recipe, TrunkCarry

Read = Callable[..., Recipe]
Refused = Callable[..., tuple[str, ...]]

EIGHT = """\
model: minilm
seed: -1
tasks:
  sentiment:
    kind: clasification
    train: sentiment.csv
  entities:
    kind: tagging
    train: ner.conll
    wieght: 2
stages:
  - name: together
    tasks: [sentiment, entitis]
    length: 3 weeks
    strategy:
      - {sites: ffn, train: lora, rank: 0}
  - name: expert
    parent: togehter
    lr: fast
"""


def test_eight_mistakes_are_eight_problems_with_their_lines(refused: Refused):
    problems = refused(EIGHT)
    assert [problem.split(": ")[0:2] for problem in problems] == [
        ["r.yaml:2", "seed"],
        ["r.yaml:5", "tasks.sentiment.kind"],
        ["r.yaml:10", "tasks.entities.wieght"],
        ["r.yaml:13", "stages.0.tasks.1"],
        ["r.yaml:14", "stages.0.length"],
        ["r.yaml:16", "stages.0.strategy.0.rank"],
        ["r.yaml:18", "stages.1.parent"],
        ["r.yaml:19", "stages.1.lr"],
    ]
    assert problems[0] == "r.yaml:2: seed: must be at least 0, but is -1."
    assert "Did you mean 'classification'? Choices: classification, tagging." in problems[1]
    assert "Did you mean 'weight'?" in problems[2]
    assert "Did you mean 'entities'?" in problems[3]
    assert problems[4].endswith("or '20 minutes', but is '3 weeks'.")
    assert "must be at least 1, but is 0" in problems[5]
    assert "Did you mean 'together'? Choices: base, together." in problems[6]
    assert problems[7] == "r.yaml:19: stages.1.lr: must be a number, but is 'fast'."


def test_the_yardstick(yardstick: str, read: Read):
    assert len(yardstick.splitlines()) <= 30
    recipe = read(yardstick)
    together, expert = recipe.stages
    assert recipe.model.path == "minilm"
    assert recipe.tasks["sentiment"].train == ("sentiment.csv",)
    assert recipe.tasks["entities"].weight == 2.0
    assert together.mixture.kind is MixtureKind.FIXED
    assert together.tasks == {"sentiment": 0.5, "entities": 0.5}
    assert recipe.tasks_of(together) == ("sentiment", "entities")
    assert expert.mixture.kind is MixtureKind.PROPORTIONAL
    assert recipe.tasks_of(expert) == ("entities",)
    assert (expert.lr, expert.length) == (1e-5, Duration.parse("1 epoch"))
    assert (expert.carry.trunk, expert.carry.heads) == (TrunkCarry.MERGE, HeadCarry.KEEP)
    assert recipe.parents_of(together) == ()
    assert recipe.parents_of(expert) == (together,)


def test_load_names_the_file_and_takes_overrides(tmp_path: Path, yardstick: str, catalogue: Catalogue):
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + yardstick.encode())
    assert load(path, catalogue, ["seed=7"]) == loads(yardstick, catalogue, overrides=["seed=7"])
    assert load(path, catalogue, ["seed=7"]).seed == 7
    path.write_text("modle: x\n", encoding="utf-8")
    with pytest.raises(RecipeError) as info:
        load(path, catalogue)
    assert all(problem.startswith(f"{path}:1: ") for problem in info.value.problems)


def test_a_file_that_is_not_there_names_its_neighbours(tmp_path: Path, catalogue: Catalogue):
    (tmp_path / "sentiment.yaml").touch()
    with pytest.raises(RecipeError, match=r"no such file or directory. Did you mean 'sentiment.yaml'\?"):
        load(tmp_path / "sentimnt.yaml", catalogue)
    with pytest.raises(RecipeError, match="is a directory"):
        load(tmp_path, catalogue)
    with pytest.raises(RecipeError, match="Give the path of a YAML file"):
        load(tmp_path / "none" / "a.yaml", catalogue)


@pytest.mark.parametrize(("text", "found"), [("- a\n", "a list"), ("3\n", "3"), ("text\n", "'text'")])
def test_what_is_not_a_mapping(text: str, found: str, refused: Refused):
    assert refused(text) == (
        f"r.yaml:1: must be a mapping with the keys model, tasks and stages, but is {found}.",
    )


def test_an_empty_file_lacks_the_three_keys(refused: Refused):
    problems = refused("")
    assert [
        f"'{key}'" in problem for key, problem in zip(("model", "tasks", "stages"), problems, strict=True)
    ] == [True] * 3


class TestYamlTraps:
    TEXT = """\
model: {path: m, revision: %s}
tasks:
  a: {kind: classification, train: a.csv, labels: %s, multi_label: %s, weight: %s}
stages: [{name: s, lr: %s}]
"""

    def recipe(
        self, read: Read, *, revision="x", labels="[]", multi_label="false", weight="1", lr="1e-4"
    ) -> Recipe:
        return read(self.TEXT % (revision, labels, multi_label, weight, lr))

    def test_numbers_with_an_exponent(self, read: Read):
        for written in ("1e-4", "1E-4", "0.0001", '"1e-4"', "1.0e-4"):
            assert self.recipe(read, lr=written).stages[0].lr == 1e-4

    def test_a_commit_of_digits_and_an_e_stays_what_it_is(self, read: Read):
        assert self.recipe(read, revision="12345e7").model.revision == "12345e7"
        assert self.recipe(read, revision="0123456").model.revision == "0123456"

    def test_labels_are_text_as_written(self, read: Read):
        labels = self.recipe(read, labels="[no, yes, true, False, 0, 01, 1.50, 2001-01-01]").tasks["a"].labels
        assert labels == ("no", "yes", "true", "False", "0", "01", "1.50", "2001-01-01")

    def test_null_is_not_a_label(self, refused: Refused):
        (problem,) = refused(self.TEXT % ("x", "[~, a]", "false", "1", "1"))
        assert problem == "r.yaml:3: tasks.a.labels.0: must be text, but is empty."

    @pytest.mark.parametrize(
        ("written", "value"), [("true", True), ("False", False), ("yes", True), ("no", False)]
    )
    def test_truth_values(self, read: Read, written: str, value: bool):
        assert self.recipe(read, multi_label=written).tasks["a"].multi_label is value

    def test_a_truth_value_is_not_a_number(self, refused: Refused):
        (problem,) = refused(self.TEXT % ("x", "[]", "false", "true", "1"))
        assert problem == "r.yaml:3: tasks.a.weight: must be a number, but is 'true'."

    def test_names_may_be_numbers(self, read: Read):
        recipe = read(
            "model: 7\ntasks: {2024: {kind: tagging, train: [1, 2]}}\n"
            "stages: [{name: 1, tasks: 2024}, {name: 2, tasks: [2024], parent: 1, strategy: 3}]\n"
        )
        assert recipe.model.path == "7"
        assert recipe.tasks["2024"].train == ("1", "2")
        assert [stage.tasks for stage in recipe.stages] == [{"2024": 1.0}] * 2
        assert recipe.stages[1].parent == "1"
        assert recipe.stages[1].strategy == "3"

    def test_infinity_is_not_a_rate(self, refused: Refused):
        (problem,) = refused(self.TEXT % ("x", "[]", "false", "1", ".inf"))
        assert problem == "r.yaml:4: stages.0.lr: must be a number, but is '.inf'."


def test_checks_and_duplicate_keys_are_reported_beside_decoding_errors(refused: Refused):
    text = "model: m\nseed: 1\nseed: x\nkeep: 0\ntasks: {a: {kind: tagging, train: a}}\nstages: [{name: s, tasks: [b]}]\n"
    assert [problem.split(":")[1] for problem in refused(text)] == ["3", "4", "6"]


def test_importing_the_room_brings_no_tensor_library():
    code = (
        "import json, pkgutil, importlib, sys, weft.recipe\n"
        "for found in pkgutil.iter_modules(weft.recipe.__path__):\n"
        "    importlib.import_module(f'weft.recipe.{found.name}')\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    source = Path(__file__).resolve().parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(source)},
    )
    loaded = set(json.loads(done.stdout))
    assert {"weft.recipe.load", "weft.recipe.schema"} <= loaded
    assert loaded & {"torch", "numpy", "scipy", "pyarrow", "transformers", "typer", "rich"} == set()
