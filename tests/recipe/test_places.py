from __future__ import annotations

import pytest

from weft.recipe.places import Form, find
from weft.recipe.spec import Carry, Catalogue, MixtureSpec, ModelSpec, Recipe, Rule, StageSpec, TaskSpec
from weft.recipe.yaml import parse

TEXT = """\
model: minilm
tasks: {a: {kind: tagging}, b: {kind: nonsense}, c: 3}
stages:
  - {name: x, strategy: [{train: lora}, {train: nonsense}]}
"""


@pytest.mark.parametrize(
    ("path", "form", "spec"),
    [
        ((), Form.KEYS, Recipe),
        (("seed",), Form.VALUE, None),
        (("model",), Form.KEYS, ModelSpec),
        (("tasks",), Form.MAPPING, TaskSpec),
        (("tasks", "b"), Form.KEYS, TaskSpec),
        (("tasks", "c"), Form.KEYS, TaskSpec),
        (("tasks", "b", "columns"), Form.MAPPING, None),
        (("tasks", "b", "columns", "text"), Form.VALUE, None),
        (("tasks", "b", "train"), Form.LIST, None),
        (("tasks", "b", "train", 0), Form.VALUE, None),
        (("stages",), Form.LIST, StageSpec),
        (("stages", 0), Form.KEYS, StageSpec),
        (("stages", 0, "lr"), Form.VALUE, None),
        (("stages", 0, "length"), Form.VALUE, None),
        (("stages", 0, "tasks"), Form.MAPPING, None),
        (("stages", 0, "mixture"), Form.KEYS, MixtureSpec),
        (("stages", 0, "carry"), Form.KEYS, Carry),
        (("stages", 0, "strategy"), Form.LIST, Rule),
        (("stages", 0, "strategy", 1), Form.KEYS, Rule),
    ],
)
def test_find(path: tuple[str | int, ...], form: Form, spec: type | None, catalogue: Catalogue):
    place = find(path, parse(TEXT, "r.yaml"), catalogue)
    assert place is not None
    assert (place.form, place.spec) == (form, spec)


@pytest.mark.parametrize(
    "path", [("nonsense",), ("seed", "x"), ("stages", "x"), ("stages", 0, "lr", "x"), ("a", "b")]
)
def test_there_is_nothing(path: tuple[str | int, ...], catalogue: Catalogue):
    assert find(path, parse(TEXT, "r.yaml"), catalogue) is None


def test_members_bring_their_own_keys(catalogue: Catalogue):
    document = parse(TEXT, "r.yaml")
    task = find(("tasks", "a"), document, catalogue)
    rule = find(("stages", 0, "strategy", 0), document, catalogue)
    assert task is not None
    assert rule is not None
    assert set(task.keys()) - set(TaskSpec.model_fields) == {"scheme"}
    assert set(rule.keys()) - set(Rule.model_fields) == {"rank", "alpha", "scale"}
    tasks = find(("tasks",), document, catalogue)
    assert tasks is not None
    assert tasks.keys() == ()
