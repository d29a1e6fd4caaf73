"""Label columns as people write them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.task.labels import (
    are_ids,
    difference,
    given_labels,
    in_order,
    is_absent,
    label_set,
    label_text,
    labels_in,
    named,
)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("pos", "pos"),
        ("  pos\t", "pos"),
        (1, "1"),
        (1.0, "1"),
        (-0.5, "-0.5"),
        (True, "true"),
        (False, "false"),
        (np.int64(3), "3"),
        (np.bool_(True), "true"),
        ("好评", "好评"),
        (None, None),
        ("", None),
        ("  ", None),
        (float("nan"), None),
        (np.float64("nan"), None),
    ],
)
def test_label_text(value, name):
    assert label_text(value) == name


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (["a", "b", "a"], ("a", "b")),
        ("a|b", ("a", "b")),
        ("a | b|", ("a", "b")),
        ("a", ("a",)),
        (3, ("3",)),
        ([1, True, None], ("1", "true")),
        (np.array(["x", "y"]), ("x", "y")),
        ([], ()),
        ("", None),
        (None, None),
    ],
)
def test_label_set(value, names):
    assert label_set(value) == names


def test_numbers_are_sorted_by_value_and_words_by_code_point():
    assert in_order(["10", "9", "-1", "2.5", "9"]) == ("-1", "2.5", "9", "10")
    assert in_order(["10", "9", "x"]) == ("10", "9", "x")
    assert in_order(["负", "正"]) == ("正", "负")
    assert in_order([]) == ()


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))))
def test_any_numbers_are_sorted_by_value(numbers):
    names = in_order(str(label_text(number)) for number in numbers)
    assert [float(name) for name in names] == sorted(float(name) for name in names)


def test_a_recipes_labels_have_the_names_they_have_in_data():
    assert given_labels([0, 1, True, "x"]) == ("0", "1", "true", "x")
    assert given_labels("not a list") == "not a list"
    with pytest.raises(ValueError, match="must not be empty"):
        given_labels(["a", ""])
    with pytest.raises(ValueError, match="a is repeated"):
        given_labels(["a", "b", "a"])


def test_differences_are_said():
    assert difference(["a", "b"], ["a", "b"]) is None
    assert difference(["a", "b"], ["b", "a"]) == "the labels are in another order"
    assert difference(["a", "b"], ["a", "c"]) == "the labels changed: now without b and with c"
    assert difference(["a"], ["a", "c"]) == "the labels changed: now with c"


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (["0", "1", "2", "-1"], ("0", "1", "2")),  # SNLI on the Hub
        (["neutral", "entailment", "-"], ("entailment", "neutral")),  # SNLI and OCNLI as published
        (["neutral", "entailment", "-1"], ("entailment", "neutral")),
        (["-1", "0", "1"], ("-1", "0", "1")),  # moods
        (["-1", "1"], ("-1", "1")),
        (["-2", "-1", "0", "1", "2"], ("-2", "-1", "0", "1", "2")),
        (["0", "1", "-1", "-"], ("-1", "0", "1")),
        (["+", "-"], ("+", "-")),
        (["1", "2", "3", "-1"], ("-1", "1", "2", "3")),
        ([], ()),
    ],
)
def test_what_stands_for_a_missing_label_is_none(seen, expected):
    assert labels_in([None, *([label] for label in seen), ()]) == expected


def test_only_what_is_no_label_is_absent():
    assert is_absent(["-"], ["a"])
    assert is_absent(["-1"], ["0", "1"])
    assert not is_absent(["-"], ["+", "-"])
    assert not is_absent(["a"], ["b"])
    assert not is_absent(["-", "a"], ["b"])


def test_ids_are_numbers_of_labels_that_are_no_labels():
    assert are_ids({"0", "2"}, ["a", "b", "c"])
    assert not are_ids({"0", "3"}, ["a", "b", "c"])
    assert not are_ids({"0", "1"}, ["1", "0"])
    assert not are_ids({"a"}, ["a", "b"])
    assert not are_ids({"0"}, [])
    assert are_ids({"-1", "0", "1"}, ["a", "b"]), "-1 is what test sets have for no label"
    assert not are_ids({"-1", "0", "1"}, ["a", "b", "c"]), "-1 could be the first of three"
    assert not are_ids({"-1", "0", "1"}, ["-1", "1"])
    assert named(("1", "x", "9"), ["a", "b"]) == ("b", "x", "9")
