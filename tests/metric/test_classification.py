"""Classification metrics against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from weft.core.example import Answer
from weft.metric.classification import (
    label_f1,
    leaders,
    led_by,
    multi_label_metrics,
    single_label_metrics,
)


def _values(metrics, golds, answers):
    return {metric.name: metric.value(golds, answers) for metric in metrics}


def test_single_label_values():
    golds, answers = ["p", "p", "p", "n"], [Answer(label=x) for x in ("p", "p", "n", "n")]
    values = _values(single_label_metrics(), golds, answers)
    # p: 2 right of 2 answered and 3 gold; n: 1 right of 2 answered and 1 gold
    by_hand = {"accuracy": 0.75, "macro_f1": (0.8 + 2 / 3) / 2, "mcc": 1 / math.sqrt(3), "ece": 0.25}
    assert values == pytest.approx(by_hand)


def test_f1_of_one_label():
    golds, answers = ["p", "p", "p", "n"], [Answer(label=x) for x in ("p", "p", "n", "n")]
    assert label_f1("p").value(golds, answers) == pytest.approx(2 * 2 / (2 + 3))
    assert label_f1("n").value(golds, answers) == pytest.approx(2 * 1 / (2 + 1))
    assert label_f1("other").value(golds, answers) == 0.0
    assert label_f1("p").name == "f1:p"


def test_one_of_the_metrics_leads_and_none_is_lost():
    every = single_label_metrics()
    assert [metric.name for metric in led_by("mcc", every)] == ["mcc", "accuracy", "macro_f1", "ece"]
    assert [metric.name for metric in led_by("f1:a:b", every)] == [
        "f1:a:b",
        "accuracy",
        "macro_f1",
        "mcc",
        "ece",
    ]
    assert led_by(None, every) is every
    assert leaders(every) == ("accuracy", "macro_f1", "mcc"), "a calibration error chooses nothing"


def test_accuracy_leads():
    assert [metric.name for metric in single_label_metrics()] == ["accuracy", "macro_f1", "mcc", "ece"]
    assert [metric.name for metric in multi_label_metrics()] == [
        "micro_f1",
        "macro_f1",
        "subset_accuracy",
        "ece",
    ]


def test_macro_f1_averages_over_classes_that_occur():
    values = _values(single_label_metrics(), ["a", "a"], [Answer(label="b"), Answer(label="a")])
    assert values["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_mcc_of_a_majority_answer_is_zero():
    for labels in (["a", "b", "b"], ["b", "b", "b"]):
        assert _values(single_label_metrics(), labels, [Answer(label="b")] * 3)["mcc"] == 0.0


def test_mcc_of_swapped_labels_is_minus_one():
    values = _values(single_label_metrics(), ["a", "b"], [Answer(label="b"), Answer(label="a")])
    assert values["mcc"] == pytest.approx(-1.0)


def test_multi_label_values():
    golds = [("a", "b"), ("b",), ()]
    answers = [Answer(label=["a"]), Answer(label=["b", "c"]), Answer(label=[])]
    values = _values(multi_label_metrics(), golds, answers)
    # a: 1 of 1 and 1; b: 1 of 1 and 2; c: 0 of 1 and 0
    by_hand = {
        "micro_f1": 2 * 2 / (3 + 3),
        "macro_f1": (1 + 2 / 3 + 0) / 3,
        "subset_accuracy": 1 / 3,
        "ece": 2 / 4,
    }
    assert values == pytest.approx(by_hand)


def test_rows_without_any_label_are_right_as_sets_and_nothing_as_f1():
    values = _values(multi_label_metrics(), [(), ()], [Answer(label=[]), Answer(label=[])])
    assert values == {"micro_f1": 0.0, "macro_f1": 0.0, "subset_accuracy": 1.0, "ece": 0.0}
