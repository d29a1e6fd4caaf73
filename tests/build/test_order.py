"""What is foreseen of a stage is what training it does, in every unit of length."""

from __future__ import annotations

from collections import Counter
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.build.order import foresee, order_of
from weft.data.mixture import Mixture, row_keys, shares
from weft.recipe.duration import Duration
from weft.recipe.spec import MixtureKind, MixtureSpec
from weft.train.order import EpochOrder, Texts
from weft.train.progress import Progress, is_over


def toy_order(sizes, *, batch, kind, rates, homogeneous, distinct=7):
    """Return an order over tasks that share texts: a text's number is its length."""
    share = shares(MixtureSpec(kind=kind), sizes, rates)
    mixture = Mixture(
        seed=3,
        stage="toy",
        kind=kind,
        shares=share,
        keys={name: row_keys("source", [f"f:{row}" for row in range(size)]) for name, size in sizes.items()},
    )
    texts = {
        name: Texts(
            lengths_R=np.arange(size, dtype=np.int64) % distinct + 1,
            keys_R=(np.arange(size) % distinct).astype(np.uint64),
        )
        for name, size in sizes.items()
    }
    return EpochOrder(mixture=mixture, texts=texts, batch=batch, homogeneous=homogeneous)


def simulated(length: Duration, order: EpochOrder) -> Progress:
    """Take every step of the stage, as ``weft.train.loop`` counts them."""
    progress = Progress()
    for epoch in count():
        for step in order.steps(epoch):
            progress = progress.counted(
                Counter(draw.task for draw in step),
                tokens=sum({draw.row % 7 + 1 for draw in step}),
                padded_tokens=0,
                steps_per_epoch=order.steps_per_epoch,
            )
            if is_over(length, progress, epoch_size=order.epoch_size):
                return progress
    raise AssertionError


orders = st.builds(
    toy_order,
    st.fixed_dictionaries({"a": st.integers(3, 40), "b": st.integers(3, 40)}),
    batch=st.integers(1, 9),
    kind=st.sampled_from([kind for kind in MixtureKind if kind is not MixtureKind.FIXED]),
    rates=st.just({}),
    homogeneous=st.booleans(),
)
exact = st.one_of(
    st.integers(1, 400).map(lambda amount: f"{amount} steps"),
    st.integers(1, 900).map(lambda amount: f"{amount} examples"),
    st.integers(1, 60).map(lambda tenths: f"{tenths / 10} epochs"),
)


@settings(max_examples=60, deadline=None)
@given(orders, exact)
def test_steps_and_draws_are_exact_in_steps_examples_and_epochs(order, text):
    found, real = foresee(Duration.parse(text), order), simulated(Duration.parse(text), order)
    assert (found.step, dict(found.examples)) == (real.step, dict(real.examples))
    assert found.epoch == real.epoch
    if real.epoch < 2:
        assert found.tokens == real.tokens
    else:
        assert found.tokens == pytest.approx(real.tokens, rel=0.35)


@settings(max_examples=40, deadline=None)
@given(orders, st.integers(1, 4000))
def test_a_length_in_tokens_is_foreseen_to_the_step_for_two_epochs(order, amount):
    length = Duration.parse(f"{amount} tokens")
    found, real = foresee(length, order), simulated(length, order)
    assert found.tokens >= amount
    if real.epoch < 2 and found.epoch < 2:
        assert (found.step, found.tokens, dict(found.examples)) == (
            real.step,
            real.tokens,
            dict(real.examples),
        )
    assert found.step == pytest.approx(real.step, rel=0.35, abs=1)


def test_a_length_in_minutes_cannot_be_foreseen():
    order = toy_order({"a": 5}, batch=2, kind=MixtureKind.UNIFORM, rates={}, homogeneous=False)
    assert foresee(Duration.parse("5 minutes"), order) is None


def test_long_stages_are_foreseen_without_walking_through_them(monkeypatch):
    order = toy_order({"a": 50, "b": 30}, batch=8, kind=MixtureKind.PROPORTIONAL, rates={}, homogeneous=False)
    walked = []
    real = EpochOrder.steps
    monkeypatch.setattr(EpochOrder, "steps", lambda self, epoch: walked.append(epoch) or real(self, epoch))
    found = foresee(Duration.parse("100k epochs".replace("100k", "100000")), order)
    assert found.step == 100_000 * 10
    assert found.examples == {"a": 5_000_000, "b": 3_000_000}
    assert len(walked) <= 3


def test_the_order_of_a_stage_is_made_of_its_recipe_and_data(kit, open_kit):
    stage = {
        "name": "one",
        "tasks": {"mood": 3, "names": 1},
        "batch": 5,
        "mixture": {"batches": "homogeneous"},
    }
    opened = open_kit([stage])
    order = order_of(opened.recipe, opened.recipe.stages[0], opened.data, by_length=True)
    assert order.mixture.shares == {"mood": 0.75, "names": 0.25}
    assert (order.epoch_size, order.batch, order.homogeneous) == (18, 5, True)
    assert order.mixture.quotas() == {"mood": 14, "names": 4}
    drawn = Counter(draw.task for step in order.steps(0) for draw in step)
    assert drawn == order.mixture.quotas()
    assert all(len({draw.task for draw in step}) == 1 for step in order.steps(0))


def test_balanced_sampling_reaches_the_draws(kit, tmp_path, tiny_bert):
    labels = ["pos"] * 14 + ["neg"] * 2
    lines = [f"film {number},{label}" for number, label in enumerate(labels)]
    (tmp_path / "all.csv").write_text("\n".join(["text,label", *lines, ""]), encoding="utf-8")

    def drawn(**keys):
        task = {"kind": "classification", "train": "all.csv", "dev": "all.csv", **keys}
        recipe = kit.make_recipe(tiny_bert, [{"name": "one", "batch": 4}], {"mood": task})
        opened = kit.open_kit(recipe, root=tmp_path)
        order = order_of(recipe, recipe.stages[0], opened.data, by_length=True)
        return Counter(labels[draw.row] for epoch in (0, 1) for step in order.steps(epoch) for draw in step)

    assert drawn() == {"pos": 28, "neg": 4}
    assert drawn(balance="sampling") == {"pos": 16, "neg": 16}
