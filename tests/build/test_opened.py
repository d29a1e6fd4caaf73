"""A recipe file opened for looking at it: everything is known but the weights."""

from __future__ import annotations

import pytest
import torch

from weft.build.catalogue import catalogue, open_recipe
from weft.build.estimate import Machine
from weft.build.opened import open_all
from weft.errors import DataError, RecipeError
from weft.strategy.named import STRATEGIES
from weft.strategy.registry import METHODS, RULES
from weft.task.registry import FAMILIES

RECIPE = """\
model: {{path: {model}, max_tokens: 32}}
tasks:
  train: {{kind: classification, train: reviews.csv, dev: dev.csv}}
  keys: {{kind: tagging, train: ner.conll, dev: ner.dev.conll, weight: 2}}
stages:
  - {{name: together, tasks: {{train: 0.5, keys: 0.5}}, strategy: lora, length: 3 epochs}}
  - {{name: expert, tasks: keys, strategy: full, lr: 1e-5, length: 1 epoch}}
"""


@pytest.fixture
def path(files, tiny_bert, tmp_path):
    """Return a recipe file beside its data; its tasks have names that modules use themselves."""
    for file in files.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(model=tiny_bert), encoding="utf-8")
    return tmp_path / "recipe.yaml"


def test_the_catalogue_holds_every_member_of_every_registry():
    known = catalogue()
    assert known.tasks.keys() == FAMILIES.keys()
    assert known.methods.keys() == RULES.keys() >= METHODS.keys()
    assert known.strategies == STRATEGIES.keys()
    assert all(spec.model_fields["kind"] for spec in known.tasks.values())


def test_everything_is_known_without_reading_a_weight(path, monkeypatch):
    monkeypatch.setattr("weft.build.network.load_trunk", None)
    opened = open_all(path)
    assert [stage.name for stage, _ in opened.stages] == ["together", "expert"]
    first, second = opened.plans(Machine(1e9, torch.float32))
    assert (first.parent, second.parent) == ("base", "together")
    assert first.tasks == {"train": 0.5, "keys": 0.5}
    assert first.passes == {"train": 3 * 9 / 12, "keys": 3 * 9 / 6}
    assert second.notes == ("the trunk moves under the kept heads of train: their scores may change",)
    assert {row.owner for row in first.table} >= {"head:train", "head:keys", "adapter:together"}
    assert opened.data.report.tasks[1].task == "keys"
    assert opened.base.folder.path.is_dir()


def test_overrides_come_before_everything_else(path):
    opened = open_all(path, ("stages.0.strategy=head", "model.max_tokens=8"))
    assert opened.tokenizer.max_tokens == 8
    assert {row.owner for row in opened.stages[0][1].table.trained()} == {"head:train", "head:keys"}


def test_mistakes_of_a_recipe_have_their_line_and_those_of_a_hand_over_their_stage(path):
    good = path.read_text(encoding="utf-8")
    path.write_text(good.replace("3 epochs", "3 parsecs"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"recipe\.yaml:6.*stages\.0\.length"):
        open_recipe(path)
    path.write_text(good, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"stages\.1 \(expert\): strategy: .* Did you mean 'encoder'"):
        open_all(path, ("stages.1.strategy=encodr",))


def test_missing_data_is_an_error_of_the_data(path):
    (path.parent / "dev.csv").unlink()
    with pytest.raises(DataError, match=r"dev\.csv"):
        open_all(path)


def test_tasks_called_like_methods_of_modules_are_entered_and_trained(kit, path):
    opened = open_all(path)
    ready = kit.Kit(opened.recipe, opened.base, opened.tokenizer, opened.data)
    entered = ready.enter("together")
    before = entered.leave()
    ready.trained(entered, "together")
    after = entered.leave()
    for name in ("train", "keys"):
        assert not torch.equal(
            before.heads[name].tensors["out.weight"], after.heads[name].tensors["out.weight"]
        )
    assert ready.enter("expert", after).changed


@pytest.mark.parametrize(
    ("rule", "end"),
    [
        (
            "{sites: linear, train: peft, method: VERA, options: {rr: 3}}",
            "Did you mean 'r'? Choices: d_initial, ",
        ),
        (
            "{train: lora, init: pissa, per_task: true}",
            "a weight has its values once. Leave out init or per_task.",
        ),
    ],
)
def test_what_keys_must_be_together_says_itself_what_is(path, rule, end):
    with pytest.raises(RecipeError) as caught:
        open_recipe(path, (f"stages.0.strategy=[{rule}]",))
    (problem,) = str(caught.value).splitlines()
    assert end in problem
    assert not problem.endswith("mapping.")
