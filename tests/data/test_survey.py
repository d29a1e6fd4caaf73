"""Counts before training, and rows held out for dev."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.example import Row
from weft.data.survey import duplicates, hold_out, lengths, overlap
from weft.data.text import normalise
from weft.errors import DataError

TEXTS = st.lists(st.text("abAB é\n", max_size=4))


def rows_of(texts: list[str]) -> list[Row]:
    return [Row({"text": text}, f"x:{line}") for line, text in enumerate(texts, start=1)]


def text_of(row: Row) -> str:
    return row.values["text"]


def test_lengths_in_closed_form():
    assert lengths(range(1, 101)) == (50.5, 95, 100)
    assert lengths([7]) == (7.0, 7, 7)
    assert lengths([]) == (0.0, 0, 0)


@given(st.lists(st.integers(0, 10_000), min_size=1))
def test_lengths_as_numpy_has_them(values: list[int]):
    mean, p95, largest = lengths(values)
    assert mean == pytest.approx(np.mean(values))
    assert p95 == np.percentile(values, 95, method="inverted_cdf")
    assert largest == max(values)


def test_duplicates_and_overlap_look_past_case_and_blanks():
    assert duplicates(["Good film", "good  film ", "ＧＯＯＤ film", "bad film", "bad film"]) == 3
    assert overlap(["Good film", "good film", "bad"], ["GOOD\tfilm", "worse"]) == 1
    assert duplicates([]) == overlap([], ["a"]) == 0


@given(TEXTS, TEXTS)
def test_overlap_by_definition(a: list[str], b: list[str]):
    known = {normalise(text) for text in b}
    assert overlap(a, b) == overlap(b, a) == len({normalise(text) for text in a if normalise(text) in known})
    assert duplicates(a) == sum(normalise(text) in map(normalise, a[:place]) for place, text in enumerate(a))


@given(st.lists(st.text("abAB ", max_size=3), min_size=2), st.floats(0.01, 0.99), st.integers(0, 2**63 - 1))
def test_held_out_rows_are_a_division_that_keeps_equal_texts_together(
    texts: list[str], share: float, seed: int
):
    rows = rows_of(texts)
    if len({normalise(text) for text in texts}) < 2:
        with pytest.raises(DataError, match="at least two different texts, but have 1"):
            hold_out(rows, share=share, seed=seed, key=text_of)
        return
    train, dev = hold_out(rows, share=share, seed=seed, key=text_of)
    assert len(train) >= 1
    assert len(dev) >= 1
    assert sorted([*train, *dev], key=rows.index) == rows
    assert [row for row in rows if row in train] == list(train)
    assert overlap(map(text_of, train), map(text_of, dev)) == 0


def test_the_share_is_kept_about():
    rows = rows_of([f"text {index}" for index in range(5_000)])
    for share in (0.02, 0.1, 0.5):
        _, dev = hold_out(rows, share=share, seed=0, key=text_of)
        deviation = (5_000 * share * (1 - share)) ** 0.5
        assert abs(len(dev) - 5_000 * share) < 4 * deviation


def test_the_seed_decides_and_nothing_else():
    rows = rows_of([f"text {index}" for index in range(200)])
    first = hold_out(rows, share=0.1, seed=3, key=text_of)
    assert hold_out(rows, share=0.1, seed=3, key=text_of) == first
    assert hold_out(rows, share=0.1, seed=4, key=text_of) != first
    backwards = hold_out(rows[::-1], share=0.1, seed=3, key=text_of)
    assert backwards == (first[0][::-1], first[1][::-1])


def test_a_text_has_the_same_side_among_others():
    """Two tasks on one file, or the file with more rows: what is dev in one must not be trained on by the other."""
    texts = [f"text {index}" for index in range(200)]
    _, few = hold_out(rows_of(texts[:100]), share=0.1, seed=3, key=text_of)
    _, many = hold_out(rows_of(texts), share=0.1, seed=3, key=text_of)
    assert {text_of(row) for row in few} == {text_of(row) for row in many} & set(texts[:100])


@pytest.mark.parametrize("share", [0.0001, 0.9999])
def test_no_side_stays_empty(share: float):
    train, dev = hold_out(rows_of(["a", "b", "c", "C"]), share=share, seed=0, key=text_of)
    few = dev if share < 0.5 else train
    assert len({normalise(text_of(row)) for row in few}) == 1


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_is_between_none_and_all(share: float):
    with pytest.raises(DataError, match="must lie between 0 and 1"):
        hold_out(rows_of(["a", "b"]), share=share, seed=0, key=text_of)
