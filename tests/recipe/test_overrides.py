from __future__ import annotations

from collections.abc import Callable

import pytest

from weft.recipe.duration import Duration
from weft.recipe.spec import MixtureKind, Recipe, TrunkCarry

Read = Callable[..., Recipe]
Refused = Callable[..., tuple[str, ...]]


def get(recipe: Recipe, path: str) -> object:
    value: object = recipe
    for part in path.split("."):
        if isinstance(value, dict):
            value = value[part]
        elif isinstance(value, tuple):
            value = value[int(part)]
        else:
            value = getattr(value, part)
    return value


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=7", "seed", 7),
        ("model=other", "model.path", "other"),
        ("model.max_tokens=128", "model.max_tokens", 128),
        ("stages.0.lr=1e-4", "stages.0.lr", 1e-4),
        ("stages.expert.lr=2e-4", "stages.1.lr", 2e-4),
        ("stages.expert.length=2k steps", "stages.1.length", Duration.parse("2000 steps")),
        ("stages.1.carry.trunk=drop", "stages.1.carry.trunk", TrunkCarry.DROP),
        ("stages.1.carry={trunk: drop}", "stages.1.carry.trunk", TrunkCarry.DROP),
        ("stages.1.lr=", "stages.1.lr", None),
        ("stages.1.lr=null", "stages.1.lr", None),
        ("stages.1.mixture=uniform", "stages.1.mixture.kind", MixtureKind.UNIFORM),
        ("stages.0.tasks.entities=3", "stages.0.tasks", {"sentiment": 0.5, "entities": 3.0}),
        ("stages.1.tasks.sentiment=3", "stages.1.tasks", {"sentiment": 3.0, "entities": 1.0}),
        ("stages.1.tasks=[sentiment]", "stages.1.tasks", {"sentiment": 1.0}),
        ("tasks.sentiment.weight=2", "tasks.sentiment.weight", 2.0),
        ("tasks.sentiment.train=data.csv[:500]", "tasks.sentiment.train", ("data.csv[:500]",)),
        ("tasks.sentiment.columns.text=review", "tasks.sentiment.columns", {"text": "review"}),
        ("tasks.sentiment.labels=[no, 1]", "tasks.sentiment.labels", ("no", "1")),
        ("tasks.entities.scheme=bioes", "tasks.entities.scheme", "bioes"),
        ("stages.1.strategy=lora", "stages.1.strategy", "lora"),
        (" seed = 7", "seed", 7),
    ],
)
def test_an_override_sets_one_value(override: str, path: str, value: object, read: Read, yardstick: str):
    recipe = read(yardstick, override)
    assert get(recipe, path) == value
    assert recipe != read(yardstick)


def test_later_overrides_win_and_see_earlier_ones(read: Read, yardstick: str):
    recipe = read(yardstick, "seed=1", "seed=2", "stages.1.name=last", "stages.last.batch=4")
    assert recipe.seed == 2
    assert recipe.stages[1].batch == 4


def test_rules_are_reached_by_index(read: Read, yardstick: str):
    recipe = read(yardstick, "stages.1.strategy=[{train: none}, {train: lora}]", "stages.1.strategy.1.rank=3")
    assert recipe.stages[1].strategy[1].rank == 3


def test_rates_given_to_a_list_of_tasks_make_the_mixture_fixed(read: Read, yardstick: str):
    recipe = read(yardstick, "stages.1.tasks.entities=2")
    assert recipe.stages[1].mixture.kind is MixtureKind.FIXED


def test_an_override_may_mend_a_mistake(read: Read, yardstick: str):
    broken = yardstick.replace("1e-5", "fast")
    assert read(broken, "stages.1.lr=1e-5") == read(yardstick)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("seed", "override seed: must be key.sub=value, but has no key or no '='. Example: stages.0.lr=1e-4."),
        ("=3", "override =3: must be key.sub=value"),
        ("sed=3", "override sed=3: sed: must be a key that exists here, but is not. Did you mean 'seed'?"),
        ("seed.x=3", "override seed.x=3: seed.x: must have something below it, but seed is a plain value."),
        ("stages.0.lx=3", "override stages.0.lx=3: stages.0.lx: must be a key that exists here"),
        ("stages.exprt.lr=1", "override stages.exprt.lr=1: stages.exprt: must be an element that exists, but is not. Did you mean 'expert'? Choices: 0, 1, expert, together."),
        ("stages.2.lr=1", "override stages.2.lr=1: stages.2: must be an element that exists"),
        ("stages.-1.lr=1", "override stages.-1.lr=1: stages.-1: must be an element that exists"),
        ("tasks.sentimnt.weight=1", "override tasks.sentimnt.weight=1: tasks.sentimnt: must exist already, but does not. Did you mean 'sentiment'?"),
        ("tasks.new={kind: tagging, train: x}", "override tasks.new={kind: tagging, train: x}: tasks.new: must exist already"),
        ("tasks.entities.labels=[a]", "override tasks.entities.labels=[a]: tasks.entities.labels: must be a key that exists here"),
        ("tasks.entities.columns.a.b=c", "override tasks.entities.columns.a.b=c: tasks.entities.columns.a: must exist already"),
        ("stages.0.strategy.0.rank=1", "override stages.0.strategy.0.rank=1: stages.0.strategy.0: must have something below it, but stages.0.strategy is a plain value. Set stages.0.strategy itself."),
        ("seed=[1", "override seed=[1: must be YAML, but expected"),
        ("seed=!!int 3", "override seed=!!int 3: must hold plain values, but has the tag"),
        ("model={path: a, path: b}", "override model={path: a, path: b}: path: must be given once"),
        ("stages.0.lr=abc", "override stages.0.lr=abc: stages.0.lr: must be a number, but is 'abc'."),
        ("model.max_tokens=1", "override model.max_tokens=1: model.max_tokens: must be at least 8, but is 1."),
        ("stages.1.parent=nobody", "override stages.1.parent=nobody: stages.1.parent: must be 'base' or an earlier stage"),
        ("tasks.sentiment={kind: tagging}", "override tasks.sentiment={kind: tagging}: tasks.sentiment: must have the key 'train'"),
    ],
)  # fmt: skip
def test_what_cannot_be_set(override: str, problem: str, refused: Refused, yardstick: str):
    problems = refused(yardstick, override)
    assert len(problems) == 1, problems
    assert problems[0].startswith(problem)


def test_problems_of_the_file_come_before_those_of_overrides(refused: Refused, yardstick: str):
    problems = refused(yardstick.replace("1e-5", "fast"), "stages.0.lr=x", "nonsense=1", "stages.1.clip=0")
    assert [problem.split(": ")[0] for problem in problems] == [
        "r.yaml:7",
        "override stages.0.lr=x",
        "override nonsense=1",
        "override stages.1.clip=0",
    ]


def test_overrides_of_a_recipe_without_the_parts_they_name(refused: Refused):
    problems = refused("model: 3\nstages: 4\n", "stages.0.lr=1", "tasks.a.weight=2")
    assert (
        "override stages.0.lr=1: stages.0: must have something below it, but stages is a plain value. Set stages itself."
        in problems
    )
    assert any(
        problem.startswith("override tasks.a.weight=2: tasks.a: must exist already") for problem in problems
    )
