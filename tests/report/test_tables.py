"""Numbers as people read them, and the parameter table condensed without losing a row."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.table import ParamRow, Role
from weft.report import tables
from weft.report.records import Score


def row(path, *, lr=0.0, owner="trunk", why="rule 1", shape=(2, 3)):
    return ParamRow(path, shape, Role.TRAINED if lr else Role.FROZEN, owner=owner, why=why, lr=lr)


def test_neighbours_of_one_fate_become_one_line():
    rows = [row(f"layers.{i}.attention.{name}.weight") for i in (0, 1, 2) for name in ("query", "value")]
    (group,) = tables.condense(rows)
    assert group.paths == "layers.{0-2}.attention.{query,value}.weight"
    assert (group.num_tensors, group.num_values, group.role, group.lr) == (6, 36, "frozen", 0.0)


def test_another_rate_owner_or_reason_opens_a_line():
    rows = [
        row("a.weight"),
        row("b.weight", lr=1e-3),
        row("c.weight", lr=1e-3, why="rule 2"),
        row("d.weight", owner="x"),
    ]
    assert [group.num_tensors for group in tables.condense(rows)] == [1, 1, 1, 1]


@given(st.lists(st.sampled_from([0.0, 1e-3, 1e-4]), max_size=12))
def test_condensing_loses_no_value(rates):
    rows = [row(f"layers.{at}.weight", lr=lr) for at, lr in enumerate(rates)]
    groups = tables.condense(rows)
    assert sum(group.num_tensors for group in groups) == len(rows)
    assert sum(group.num_values for group in groups) == sum(one.size for one in rows)
    assert [group.lr for group in groups] == list(dict.fromkeys(rates))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (987, "987"), (12_345, "12.3 k"), (999_600, "1.00 M"), (4_560_000, "4.56 M"), (7e9, "7.00 B")],
)
def test_short_counts(value, text):
    assert tables.short(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.085, "85 ms"),
        (12.4, "12.4 s"),
        (59.96, "1 min 00 s"),
        (221, "3 min 41 s"),
        (3840, "1 h 04 min"),
        (183_600, "2 d 03 h"),
    ],
)
def test_durations(seconds, text):
    assert tables.duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(512, "512 B"), (3.4 * 2**20, "3.4 MiB"), (1.2 * 2**30, "1.2 GiB")]
)
def test_memory(num_bytes, text):
    assert tables.memory(num_bytes) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (1, "100 %"), (0.123, "12.3 %"), (0.0084, "0.84 %"), (1e-6, "<0.01 %")]
)
def test_percent_of_what_is_not_zero_does_not_read_as_zero(share, text):
    assert tables.percent(share) == text


@pytest.mark.parametrize(("lr", "text"), [(0, "–"), (2e-4, "2e-4"), (1.5e-5, "1.5e-5"), (1, "1e0")])
def test_rates_as_people_write_them(lr, text):
    assert tables.rate(lr) == text


def score(**changes):
    values = {"metric": "accuracy", "value": 0.864, "low": 0.851, "high": 0.876, "n": 100, "baseline": 0.5}
    return Score(**{**values, **changes})


def test_scores_in_hundredths_and_errors_in_their_unit():
    assert tables.score_interval(score()) == "86.4 [85.1, 87.6]"
    rmse = score(
        metric="rmse", value=0.358, low=0.336, high=0.38, baseline=0.41, best=0.0, higher_is_better=False
    )
    assert tables.score_interval(rmse) == "0.358 [0.336, 0.380]"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({}, "above"),
        ({"baseline": 0.86}, "level"),
        ({"baseline": 0.9}, "below"),
        ({"value": math.nan}, "level"),
        ({"best": 0.0, "higher_is_better": False, "baseline": 0.9}, "above"),
        ({"best": 0.0, "higher_is_better": False, "baseline": 0.5}, "below"),
    ],
)
def test_standing_is_that_of_the_whole_interval(changes, where):
    assert tables.standing(score(**changes)) == where
