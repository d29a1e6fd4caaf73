"""Scores with n, interval and baseline, of the rows that have a gold answer."""

from __future__ import annotations

import pytest

from weft.core.example import Answer
from weft.errors import DataError
from weft.evaluate.judge import judge


def says(label):
    return Answer(label=label, probabilities={"bad": 0.5, "good": 0.5})


def judged(toy, golds, labels, *, seed=0, train=("bad", "bad", "good")):
    rows = [toy.row((1,), gold=gold, where=f"f:{at}") for at, gold in enumerate(golds)]
    answers = [says(label) for label in labels]
    return judge(
        toy.tasks["mood"], rows, answers, split="dev", train_golds=list(train), resamples=300, seed=seed, loss=0.25
    )  # fmt: skip


GOLDS = ["good"] * 6 + ["bad"] * 4
LABELS = ["good"] * 8 + ["bad"] * 2


def test_value_interval_baseline_and_n(toy):
    report = judged(toy, GOLDS, LABELS)
    first = report.scores[0]
    assert (first.metric, first.value, first.n) == ("accuracy", 0.8, 10)
    assert first.baseline == 0.4, "the majority of the training answers, 'bad', is right four times"
    assert first.low < 0.8 < first.high
    assert (report.split, report.loss, report.kind) == ("dev", 0.25, "classification")
    assert [score.metric for score in report.scores] == [metric.name for metric in toy.tasks["mood"].metrics]


def test_rows_without_gold_are_not_judged(toy):
    report = judged(toy, [*GOLDS, None, None], [*LABELS, "good", "bad"])
    assert report.scores[0].n == 10
    assert report.scores[0].value == 0.8


def test_the_same_seed_gives_the_same_interval_and_another_one_may_not(toy):
    assert judged(toy, GOLDS, LABELS) == judged(toy, GOLDS, LABELS)
    ends = {(judged(toy, GOLDS, LABELS, seed=seed).scores[1].low) for seed in range(4)}
    assert len(ends) > 1


def test_perfect_answers_leave_no_doubt(toy):
    first = judged(toy, GOLDS, GOLDS).scores[0]
    assert (first.low, first.value, first.high) == (1.0, 1.0, 1.0)


def test_without_any_gold_there_is_nothing_to_judge(toy):
    with pytest.raises(DataError, match="none of 2 has one"):
        judged(toy, [None, None], ["good", "bad"])


def test_errors_are_judged_downwards(toy):
    rows = [toy.row((1,), gold=float(at), where=f"f:{at}") for at in range(5)]
    answers = [Answer(value=at + 0.5) for at in range(5)]
    report = judge(
        toy.tasks["score"], rows, answers, split="test", train_golds=[0.0, 4.0], resamples=200, seed=0
    )  # fmt: skip
    rmse = next(score for score in report.scores if score.metric == "rmse")
    assert (rmse.value, rmse.best, rmse.higher_is_better) == (0.5, 0.0, False)
    assert rmse.baseline == pytest.approx(2**0.5)
    assert report.scores[0].value == pytest.approx(1.0)
