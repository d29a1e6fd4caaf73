from __future__ import annotations

from collections.abc import Callable

import pytest

from weft.recipe.spec import CombineMethod, Recipe, TrunkCarry

StageRefused = Callable[..., tuple[str, ...]]
FIRST = "{name: one}"


@pytest.mark.parametrize(
    ("stage", "path", "words"),
    [
        ("{name: one}", "name", "must differ from all others, but stages.0 is 'one' too"),
        ("{name: two, parent: two}", "parent", "must be 'base' or an earlier stage, but is 'two'. Choices: base, one."),
        ("{name: two, parent: oen}", "parent", "Did you mean 'one'?"),
        ("{name: two, tasks: [a, c]}", "tasks.1", "must be a task of this recipe, but 'c' is not. Choices: a, b."),
        ("{name: two, tasks: c}", "tasks", "'c' is not"),
        ("{name: two, tasks: {a: 1, c: 1}}", "tasks.c", "'c' is not"),
        ("{name: two, tasks: {a: 0, b: 0}}", "tasks.b", "must be above 0 where no other rate is"),
        ("{name: two, tasks: {a: 1}, mixture: uniform}", "tasks", "must be a list of tasks where the mixture is uniform"),
        ("{name: two, tasks: {a: 1}, mixture: {kind: round_robin}}", "tasks", "Leave out the rates, or set mixture: fixed."),
        ("{name: two, mixture: fixed}", "mixture", "must have rates with its tasks when it is fixed"),
        ("{name: two, tasks: [a, b], mixture: {kind: fixed}}", "mixture", "must have rates"),
        ("{name: two, mixture: {temperature: 3}}", "mixture.temperature", "unless kind is temperature, but kind is proportional"),
        ("{name: two, mixture: {kind: uniform, temperature: 3}}", "mixture.temperature", "but kind is uniform"),
        ("{name: two, tasks: {a: 1}, mixture: {temperature: 3}}", "mixture.temperature", "but kind is fixed"),
        ("{name: two, carry: {optimizer: continue}}", "carry.optimizer", "must be 'fresh' unless 'trunk: continue'"),
        ("{name: two, carry: {trunk: drop, optimizer: continue}}", "carry.optimizer", "with trunk 'drop'"),
        ("{name: two, parent: base, carry: {trunk: drop}}", "carry.trunk", "must be left out where a stage starts from the base"),
        ("{name: two, parent: base, carry: {heads: new}}", "carry.heads", "but is 'new'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together(stage: str, path: str, words: str, stage_refused: StageRefused):
    problems = stage_refused(FIRST, stage)
    assert len(problems) == 1, problems
    assert problems[0].startswith(f"r.yaml:7: stages.1.{path}: ")
    assert words in problems[0]


def test_the_first_stage_has_nothing_to_carry(stage_refused: StageRefused):
    problems = stage_refused("{name: one, carry: {trunk: continue, heads: drop}}")
    assert [problem.split(": ")[1] for problem in problems] == [
        "stages.0.carry.trunk",
        "stages.0.carry.heads",
    ]


def test_adapters_on_the_base_model_can_be_carried_and_nothing_else_of_it(refused):
    head = "model: {path: m, adapters: {sft: x}}\ntasks:\n  a: {kind: tagging, train: a}\nstages:\n"
    (problem,) = refused(f"{head}  - {{name: one, carry: {{trunk: stack, heads: drop}}}}\n")
    assert problem.split(": ")[1] == "stages.0.carry.heads"


@pytest.mark.parametrize(
    "stage",
    [
        "{name: two, parent: base}",
        "{name: two, parent: base, carry: {trunk: merge, heads: keep, optimizer: fresh}}",
        "{name: two, parent: one, carry: {trunk: continue, optimizer: continue}}",
        "{name: two, tasks: {a: 0, b: 1}}",
        "{name: two, tasks: {a: 1}, mixture: {batches: homogeneous}}",
        "{name: two, tasks: {a: 1}, mixture: fixed}",
        "{name: two, tasks: [b], mixture: {kind: temperature, temperature: 4}}",
        "{name: two, mixture: round_robin, patience: 2}",
    ],
)
def test_what_fits(stage: str, read: Callable[..., Recipe]):
    text = "model: m\ntasks: {a: {kind: tagging, train: a}, b: {kind: tagging, train: b}}\nstages:\n"
    assert [one.name for one in read(f"{text}  - {FIRST}\n  - {stage}\n").stages] == ["one", "two"]


def test_rates_without_a_kind_make_the_mixture_fixed(read: Callable[..., object]):
    text = "model: m\ntasks: {a: {kind: tagging, train: a}}\nstages: [{name: s, tasks: {a: 2}, mixture: {batches: homogeneous}}]"
    mixture = read(text).stages[0].mixture
    assert (mixture.kind, mixture.batches) == ("fixed", "homogeneous")


def test_stages_with_other_mistakes_are_still_checked(stage_refused: StageRefused):
    problems = stage_refused(
        "{name: one, nonsense: 1, tasks: [c], lr: x}", "3", "{name: [], parent: three}", "{tasks: {d: 1}}"
    )
    paths = [problem.split(": ")[1] for problem in problems]
    assert {"stages.0.tasks.0", "stages.2.parent", "stages.3.tasks.d"} <= set(paths)
    assert {"stages.0.nonsense", "stages.0.lr", "stages.1", "stages.2.name", "stages.3"} <= set(paths)
    assert len(paths) == 8


THREE = """\
model: m
tasks: {{a: {{kind: tagging, train: a}}}}
stages:
  - {{name: one}}
  - {{name: two, parent: base}}
  - {{name: three, parent: [one, two], {more}}}
"""


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("carry: {trunk: stack}", "must be merge where a stage has several parents, but is 'stack'"),
        ("combine: ties, carry: {trunk: stack}", "must be merge where a stage has several parents"),
        ("combine: union, carry: {trunk: continue}", "must be merge or stack where a stage has several parents"),
        ("combine: {method: union}, carry: {optimizer: continue, trunk: stack}", "must be fresh where a stage has several"),
        ("combine: {density: 0.3}", "combine.density: must be left out unless method is dare, dare_ties, ties, but method is average"),
        ("combine: {method: [ties], density: 0.3}", "combine.method: must be one of its choices, but is a list"),
        ("combine: {method: arithmetic, density: 0.3}", "but method is arithmetic, which keeps all changes"),
    ],
)  # fmt: skip
def test_what_several_parents_hand_on(more: str, words: str, refused: Callable[..., tuple[str, ...]]):
    assert sum(words in problem for problem in refused(THREE.format(more=more))) == 1


@pytest.mark.parametrize("method", ["ties", "dare", "dare_ties"])
def test_density_stands_where_changes_are_left_out(method: str, read: Callable[..., Recipe]):
    stage = read(THREE.format(more=f"combine: {{method: {method}, density: 0.3}}")).stages[2]
    assert stage.combine.density == 0.3


@pytest.mark.parametrize("method", ["union", "{method: union}"])
def test_adapters_of_a_union_may_be_stacked(method: str, read: Callable[..., Recipe]):
    stage = read(THREE.format(more=f"combine: {method}, carry: {{trunk: stack}}")).stages[2]
    assert (stage.combine.method, stage.carry.trunk) == (CombineMethod.UNION, TrunkCarry.STACK)
