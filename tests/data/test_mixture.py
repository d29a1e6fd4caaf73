"""Quotas, draws and rows of a mixture: exact values, and pure functions of (seed, stage, epoch)."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data.mixture import Mixture, row_keys, shares
from weft.errors import DataError, RecipeError
from weft.recipe.spec import MixtureKind, MixtureSpec


def keys_of(source: str, size: int):
    return row_keys(source, [f"{source}.csv:{line}" for line in range(size)])


def mixture(sizes, rates=None, *, kind=MixtureKind.FIXED, seed=0, stage="one", temperature=2.0, sources=None):
    spec = MixtureSpec(kind=kind, temperature=temperature)
    sources = sources or {name: name for name in sizes}
    return Mixture(
        seed=seed,
        stage=stage,
        kind=kind,
        shares=shares(spec, sizes, rates or {}),
        keys={name: keys_of(sources[name], size) for name, size in sizes.items()},
    )


SIZES = {"a": 300, "b": 100}


@pytest.mark.parametrize(
    ("spec", "rates", "expected"),
    [
        (MixtureSpec(kind=MixtureKind.FIXED), {"a": 1, "b": 3}, {"a": 0.25, "b": 0.75}),
        (MixtureSpec(kind=MixtureKind.PROPORTIONAL), {"a": 1, "b": 3}, {"a": 0.75, "b": 0.25}),
        (MixtureSpec(kind=MixtureKind.UNIFORM), {}, {"a": 0.5, "b": 0.5}),
        (MixtureSpec(kind=MixtureKind.ROUND_ROBIN), {}, {"a": 0.5, "b": 0.5}),
        (MixtureSpec(kind=MixtureKind.UNIFORM), {"b": 0}, {"a": 1.0, "b": 0.0}),
        (MixtureSpec(kind=MixtureKind.TEMPERATURE, temperature=1), {}, {"a": 0.75, "b": 0.25}),
    ],
)
def test_shares_of_every_kind(spec, rates, expected):
    assert shares(spec, SIZES, rates) == expected


def test_temperature_is_the_root_of_the_size():
    got = shares(MixtureSpec(kind=MixtureKind.TEMPERATURE, temperature=4), SIZES, {})
    assert got["a"] / got["b"] == pytest.approx(3 ** (1 / 4), rel=1e-12)


@pytest.mark.parametrize("rate", [-0.5, math.nan, math.inf])
def test_a_rate_that_is_no_rate_is_refused(rate):
    with pytest.raises(RecipeError, match=r"tasks\.b: a rate must be 0 or more and finite"):
        shares(MixtureSpec(kind=MixtureKind.FIXED), SIZES, {"a": 1, "b": rate})


def test_nothing_to_draw_is_refused():
    with pytest.raises(RecipeError, match="one rate at least must be above 0"):
        shares(MixtureSpec(), SIZES, {"a": 0, "b": 0})
    with pytest.raises(DataError, match="b: a task that is drawn needs training rows"):
        shares(MixtureSpec(), {"a": 5, "b": 0}, {})
    assert shares(MixtureSpec(), {"a": 5, "b": 0}, {"b": 0}) == {"a": 1.0, "b": 0.0}


def test_a_share_too_small_for_one_draw_is_refused():
    with pytest.raises(DataError, match="b: a task that is drawn must be drawn once an epoch"):
        mixture({"a": 10, "b": 10}, {"a": 1.0, "b": 1e-9})


def test_quotas_by_largest_remainder():
    assert mixture({"a": 4, "b": 3, "c": 3}, {"a": 1, "b": 1, "c": 1}).quotas() == {"a": 4, "b": 3, "c": 3}
    # 11 draws at 0.5, 0.3, 0.2: 5.5, 3.3, 2.2; the one left goes to the largest remainder
    assert mixture({"a": 5, "b": 3, "c": 3}, {"a": 0.5, "b": 0.3, "c": 0.2}).quotas() == {
        "a": 6,
        "b": 3,
        "c": 2,
    }


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 200), st.floats(0.05, 1)), min_size=1, max_size=5),
    st.integers(0, 2**63 - 1),
    st.integers(0, 5),
    st.sampled_from(list(MixtureKind)),
)
def test_an_epoch_holds_its_quotas_and_nothing_else(tasks, seed, epoch, kind):
    sizes = {f"t{i}": size + 20 for i, (size, _) in enumerate(tasks)}
    rates = {f"t{i}": rate for i, (_, rate) in enumerate(tasks)}
    made = mixture(sizes, rates, kind=kind, seed=seed)
    assert made.epoch_size == sum(sizes.values())
    counts = np.bincount(made.draws(epoch), minlength=len(made.tasks))
    assert dict(zip(made.tasks, counts.tolist(), strict=True)) == made.quotas()
    for name, quota in made.quotas().items():
        assert abs(quota - made.shares[name] * made.epoch_size) < 1
    again = mixture(sizes, rates, kind=kind, seed=seed)
    assert np.array_equal(made.draws(epoch), again.draws(epoch))


def test_proportional_sees_every_row_once_an_epoch():
    made = mixture({"a": 37, "b": 11}, kind=MixtureKind.PROPORTIONAL)
    assert made.quotas() == {"a": 37, "b": 11}
    for epoch in range(3):
        assert sorted(made.rows("a", epoch)) == list(range(37))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.1, 0.9), st.integers(0, 4))
def test_rows_of_an_epoch_are_the_draws_one_by_one(size_a, size_b, rate, epoch):
    made = mixture({"a": size_a + 9, "b": size_b + 9}, {"a": rate, "b": 1 - rate})
    for name, quota in made.quotas().items():
        assert made.rows(name, epoch).tolist() == [made.row(name, epoch * quota + k) for k in range(quota)]


def test_every_pass_is_a_permutation_and_a_new_one():
    made = mixture({"a": 50, "b": 10}, {"a": 0.5, "b": 0.5})
    passes = [[made.row("a", 50 * number + k) for k in range(50)] for number in range(3)]
    assert all(sorted(order) == list(range(50)) for order in passes)
    assert len({tuple(order) for order in passes}) == 3
    assert passes[0] != list(range(50))


def test_order_is_as_it_was_when_it_was_released():
    made = mixture({"a": 5, "b": 3}, {"a": 0.5, "b": 0.5}, seed=7)
    assert made.draws(0).tolist() == [0, 1, 1, 0, 1, 0, 0, 1]
    assert made.rows("a", 0).tolist() == [0, 3, 2, 4]


def test_seed_stage_and_epoch_each_change_the_order():
    base = mixture(SIZES, {"a": 0.4, "b": 0.6})
    others = [
        mixture(SIZES, {"a": 0.4, "b": 0.6}, seed=1),
        mixture(SIZES, {"a": 0.4, "b": 0.6}, stage="two"),
    ]
    for other in others:
        assert not np.array_equal(base.draws(0), other.draws(0))
        assert not np.array_equal(base.rows("a", 0), other.rows("a", 0))
    assert not np.array_equal(base.draws(0), base.draws(1))
    assert not np.array_equal(base.rows("b", 0), base.rows("b", 1))


@pytest.mark.parametrize("kind", list(MixtureKind))
def test_a_task_with_rate_0_changes_nothing(kind):
    with_it = mixture({"z": 70, **SIZES}, {"z": 0.0, "a": 0.3, "b": 0.7}, kind=kind)
    without = mixture(SIZES, {"a": 0.3, "b": 0.7}, kind=kind)
    assert with_it.tasks == without.tasks == ("a", "b")
    assert "z" not in with_it.quotas()
    for epoch in range(2):
        assert np.array_equal(with_it.draws(epoch), without.draws(epoch))
        assert np.array_equal(with_it.rows("b", epoch), without.rows("b", epoch))


def test_round_robin_goes_strictly_in_turn():
    made = mixture({"a": 2, "b": 3, "c": 3}, kind=MixtureKind.ROUND_ROBIN)
    assert made.draws(0).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert made.quotas() == {"a": 3, "b": 3, "c": 2}


def test_draws_are_random_but_evenly_spread():
    made = mixture({"a": 3000, "b": 1000}, kind=MixtureKind.PROPORTIONAL)
    draws = made.draws(0)
    windows = draws.reshape(20, 200).sum(1)  # draws of b in each twentieth, 50 expected
    assert windows.min() >= 48
    assert windows.max() <= 52
    gaps = {int(b - a) for a, b in pairwise(np.flatnonzero(draws))}
    assert len(gaps) >= 6  # a fixed pattern would have one gap


def test_tasks_of_one_source_walk_it_side_by_side_whatever_rows_each_dropped():
    wheres = [f"/somewhere/x.csv:{line}" for line in range(2000)]
    kept_b = list(range(0, 2000, 2))
    made = Mixture(
        seed=3,
        stage="s",
        kind=MixtureKind.PROPORTIONAL,
        shares={"a": 2 / 3, "b": 1 / 3},
        keys={"a": row_keys("digest", wheres), "b": row_keys("digest", [wheres[i] for i in kept_b])},
    )
    rows_b = [kept_b[i] for i in made.rows("b", 0)]
    place_in_a = {row: place for place, row in enumerate(made.rows("a", 0).tolist())}
    places = [place_in_a[row] for row in rows_b]
    assert places == sorted(places)


def test_row_keys_know_the_record_and_not_the_folder():
    here = row_keys("digest", ["/some/where/x.csv:7", "/some/where/x.csv:8"])
    there = row_keys("digest", ["x.csv:7", "C:\\data\\x.csv:8"])
    assert here.tolist() == there.tolist()
    assert len({*here.tolist(), *row_keys("other", ["x.csv:7"]).tolist()}) == 3
    assert row_keys("digest", []).shape == (0,)


def stratified(numbers, *, others=None, seed=0):
    sizes = {"a": len(numbers), **(others or {})}
    made = mixture(sizes, kind=MixtureKind.PROPORTIONAL, seed=seed)
    return dataclasses.replace(made, strata={"a": np.array(numbers, dtype=np.int64)})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0, 2, 5]), min_size=4, max_size=60), st.integers(0, 3), st.integers(0, 99))
def test_rows_of_every_stratum_are_drawn_equally_often_and_each_in_its_turn(numbers, epoch, seed):
    made = stratified(numbers, seed=seed)
    strata = np.array(numbers)
    drawn = np.array([made.row("a", draw) for draw in range((epoch + 1) * len(numbers))])
    assert made.rows("a", epoch).tolist() == drawn[epoch * len(numbers) :].tolist()
    counts = np.unique(strata[drawn], return_counts=True)[1]
    if len(drawn) >= len(np.unique(strata)):
        assert len(counts) == len(np.unique(strata))
        assert counts.max() - counts.min() <= 1
    for number in np.unique(strata):
        own = drawn[strata[drawn] == number]
        times = np.bincount(own, minlength=len(numbers))[strata == number]
        assert times.max() - times.min() <= 1  # no row a second time before all had their first


def test_one_stratum_is_drawn_as_none_at_all():
    plain = mixture({"a": 30}, kind=MixtureKind.PROPORTIONAL)
    assert np.array_equal(stratified([4] * 30).rows("a", 2), plain.rows("a", 2))


def test_strata_of_one_task_leave_the_draws_of_others_as_they_were():
    plain, made = (
        mixture({"a": 12, "b": 9}, kind=MixtureKind.PROPORTIONAL),
        stratified([0] * 10 + [1, 2], others={"b": 9}),
    )
    assert np.array_equal(plain.rows("b", 1), made.rows("b", 1))
    assert np.array_equal(plain.draws(1), made.draws(1))
    assert not np.array_equal(plain.rows("a", 1), made.rows("a", 1))
