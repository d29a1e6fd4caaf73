"""The values themselves, made without a file."""

from __future__ import annotations

import copy
import pickle

import pytest
from pydantic import ValidationError

from weft.recipe.spec import Catalogue, MixtureKind, Recipe, StageSpec

DATA = {
    "model": "m",
    "tasks": {"a": {"kind": "tagging", "train": "a"}, "b": {"kind": "classification", "train": ["b"]}},
    "stages": [
        {"name": "one"},
        {"name": "two", "tasks": "b"},
        {"name": "three", "parent": "one"},
        {"name": "four", "parent": "base"},
    ],
}


@pytest.fixture
def recipe(catalogue: Catalogue) -> Recipe:
    return Recipe.model_validate(DATA, context=catalogue)


def test_members_of_the_catalogue_are_decoded_to_their_classes(recipe: Recipe, catalogue: Catalogue):
    assert type(recipe.tasks["a"]) is catalogue.tasks["tagging"]
    assert type(recipe.tasks["b"]) is catalogue.tasks["classification"]


def test_without_a_catalogue_no_kind_is_known():
    with pytest.raises(ValidationError, match="Choices"):
        Recipe.model_validate(DATA)


def test_made_values_may_stand_in_a_recipe(recipe: Recipe, catalogue: Catalogue):
    rule = catalogue.methods["lora"](rank=3)
    stage = StageSpec(name="s", strategy=(rule,))
    again = Recipe(model=recipe.model, tasks=recipe.tasks, stages=(stage,))
    assert again.stages[0].strategy == (rule,)
    assert again.tasks == recipe.tasks


def test_values_are_frozen(recipe: Recipe):
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 3


def test_recipes_survive_copy_and_pickle(recipe: Recipe):
    assert copy.deepcopy(recipe) == recipe
    assert pickle.loads(pickle.dumps(recipe.stages)) == recipe.stages


def test_parents(recipe: Recipe):
    one, two, three, four = recipe.stages
    assert recipe.parents_of(one) == ()
    assert recipe.parents_of(two) == (one,)
    assert recipe.parents_of(three) == (one,)
    assert recipe.parents_of(four) == ()
    assert recipe.stage("three") is three


def test_tasks_of_a_stage(recipe: Recipe):
    one, two, *_ = recipe.stages
    assert recipe.tasks_of(one) == ("a", "b")
    assert recipe.tasks_of(two) == ("b",)


def test_short_forms_of_a_stage():
    assert StageSpec(name="s", tasks="a").tasks == {"a": 1.0}
    assert StageSpec(name="s", tasks=["a", "b"]).tasks == {"a": 1.0, "b": 1.0}
    assert StageSpec(name="s", tasks=["a"]).mixture.kind is MixtureKind.PROPORTIONAL
    assert StageSpec(name="s", tasks={"a": 2}).mixture.kind is MixtureKind.FIXED
    assert StageSpec(name="s", mixture="round_robin").mixture.kind is MixtureKind.ROUND_ROBIN


def test_the_digest_is_stable_and_does_not_depend_on_the_order_of_tasks(recipe: Recipe, catalogue: Catalogue):
    turned = {**DATA, "tasks": dict(reversed(list(DATA["tasks"].items())))}
    assert Recipe.model_validate(turned, context=catalogue).digest() == recipe.digest()
    assert len(recipe.digest()) == 64
