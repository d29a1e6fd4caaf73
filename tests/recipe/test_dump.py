from __future__ import annotations

import string
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.recipe.dump import dump
from weft.recipe.load import loads
from weft.recipe.spec import Catalogue, Recipe

TRAPS = ["no", "on", "true", "null", "~", "1e-4", "0x1F", "1_000", "12:30", "2001-01-01", ".inf", "<<", "=", "- a", "a: b", "#c", " x ", "", "*a", "&a", "!a", "%a", "@a", "'", '"', "a\nb", "\ttab", "电影", "\ufeff", "\x85", "\u2028", "🙂"]  # fmt: skip
texts = st.sampled_from(TRAPS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8).filter(
    lambda name: (
        name.lower() not in ("base", "con", "prn", "aux", "nul")
        and not name.lower().startswith(("com", "lpt"))
    )
)
rates = st.floats(1e-6, 10, allow_nan=False)
durations = st.builds(
    lambda amount, unit: f"{amount} {unit}",
    st.integers(1, 10**8),
    st.sampled_from(["epochs", "steps", "examples", "tokens", "minutes"]),
)


def maybe(**fields: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    return st.fixed_dictionaries({}, optional=fields)


sources = st.lists(texts, max_size=3)
common = {"columns": st.dictionaries(texts, texts, max_size=3), "dev": sources, "test": sources}
tasks = st.one_of(
    st.builds(
        lambda train, rest: {"kind": "classification", "train": train, **rest},
        st.lists(texts, min_size=1, max_size=3),
        maybe(
            labels=st.lists(texts, unique=True), multi_label=st.booleans(), weight=st.floats(0, 1e6), **common
        ),
    ),
    st.builds(lambda train, rest: {"kind": "tagging", "train": train, **rest}, texts, maybe(**common)),
)
rules = st.one_of(
    st.builds(lambda rest: {"train": "full", **rest}, maybe(lr=rates, sites=texts)),
    st.builds(
        lambda rest: {"train": "lora", **rest},
        maybe(rank=st.integers(1, 99), alpha=rates, scale=st.just("auto") | st.integers(), sites=texts),
    ),
)


@st.composite
def stages(draw: st.DrawFn, name: str, before: list[str], task_names: list[str]) -> dict[str, object]:
    stage = draw(
        maybe(
            strategy=texts | st.lists(rules, min_size=1, max_size=3),
            length=durations,
            evaluate=durations,
            save=durations,
            lr=rates,
            warmup=st.floats(0, 0.99),
            patience=st.none() | st.integers(1, 9),
            schedule=st.sampled_from(["linear", "cosine", "constant"]),
        )
    )
    chosen = draw(st.lists(st.sampled_from(task_names), min_size=1, unique=True))
    kind = draw(st.sampled_from([None, "proportional", "uniform", "temperature", "round_robin", "fixed"]))
    if kind == "fixed":
        stage["tasks"] = {task: draw(rates) for task in chosen}
    elif draw(st.booleans()):
        stage["tasks"] = chosen
    if kind is not None:
        stage["mixture"] = {"kind": kind, "batches": draw(st.sampled_from(["mixed", "homogeneous"]))}
    if kind == "temperature":
        stage["mixture"]["temperature"] = draw(st.floats(1, 100))
    if before and draw(st.booleans()):
        stage["parent"] = draw(st.sampled_from(before))
        stage["carry"] = draw(maybe(trunk=st.sampled_from(["merge", "stack", "drop"]), heads=st.just("new")))
    return {"name": name, **stage}


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, object]:
    task_names = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    stage_names = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    return {
        "model": {"path": draw(texts), "revision": draw(st.none() | texts)},
        "tasks": {name: draw(tasks) for name in task_names},
        "stages": [draw(stages(name, stage_names[:i], task_names)) for i, name in enumerate(stage_names)],
        "seed": draw(st.integers(0, 2**63 - 1)),
        "precision": draw(st.sampled_from(["auto", "fp32", "bf16"])),
    }


@given(data=recipes())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_dumped_loads_to_an_equal_recipe(data: dict[str, object], catalogue: Catalogue):
    recipe = Recipe.model_validate(data, context=catalogue)
    loaded = loads(dump(recipe), catalogue)
    assert loaded == recipe
    assert loaded.digest() == recipe.digest()


def test_every_default_is_written(read: Callable[..., Recipe], yardstick: str):
    text = dump(read(yardstick))
    for line in (
        "seed: 0",
        "  max_tokens: 256",
        "  warmup: 0.06",
        "    scheme: bio",
        "    multi_label: false",
        "  save: 5 minutes",
        "keep: 2",
    ):
        assert f"\n{line}\n" in f"\n{text}"
    assert text.index("seed:") < text.index("model:") < text.index("tasks:") < text.index("stages:")


def test_rules_keep_the_keys_of_their_method(read: Callable[..., Recipe], yardstick: str):
    recipe = read(yardstick, "stages.1.strategy=[{train: none}, {train: lora, rank: 3}]")
    assert "    rank: 3\n" in dump(recipe)
    assert read(dump(recipe)) == recipe


def test_a_default_that_may_not_be_spelled_out_is_left_out(read: Callable[..., Recipe], yardstick: str):
    single, several = read(yardstick), read(yardstick, "tasks.sentiment.multi_label=true")
    assert "threshold" not in dump(single)
    assert "threshold: 0.5" in dump(several)
    assert read(dump(several)) == several


def test_dumping_twice_gives_the_same_text_and_leaves_the_recipe(read: Callable[..., Recipe], yardstick: str):
    recipe = read(yardstick)
    digest = recipe.digest()
    assert dump(recipe) == dump(recipe)
    assert recipe.digest() == digest


@pytest.mark.parametrize(
    "override",
    ["seed=1", "tasks.sentiment.weight=2", "stages.0.lr=1e-4", "stages.0.length=1 epoch", "tasks.entities.scheme=bioes", "model.revision=x"],
)  # fmt: skip
def test_any_change_changes_the_digest(override: str, read: Callable[..., Recipe], yardstick: str):
    assert read(yardstick).digest() != read(yardstick, override).digest()


def test_short_and_long_forms_have_one_digest(read: Callable[..., Recipe], yardstick: str):
    long = yardstick.replace("model: minilm", "model: {path: minilm}").replace(
        "tasks: entities,", "tasks: [entities],"
    )
    assert long != yardstick
    assert read(long).digest() == read(yardstick).digest()


@pytest.mark.parametrize(
    "combine", ["average", "union", "{weights: {one: 2}}", "{method: ties, density: 0.3}"]
)
def test_parents_that_are_combined_are_read_back(combine: str, catalogue: Catalogue):
    text = (
        "model: m\ntasks: {a: {kind: tagging, train: a}}\nstages:\n  - {name: one}\n  - {name: two, parent: base}\n"
        f"  - {{name: three, parent: [one, two], combine: {combine}}}\n"
    )
    recipe = loads(text, catalogue, name="r.yaml")
    again = loads(dump(recipe), catalogue, name="r.yaml")
    assert (again, again.digest()) == (recipe, recipe.digest())
