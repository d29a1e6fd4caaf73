"""The selection score: relative gains over the baselines, which no single easy task can carry."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.evaluate.selection import FLOOR, gain, selection_score
from weft.report.records import Score, TaskReport


def task(value, *, name="t", baseline=0.5, best=1.0, higher_is_better=True):
    score = Score(
        metric="m", value=value, low=value, high=value, n=9, baseline=baseline, best=best,
        higher_is_better=higher_is_better,
    )  # fmt: skip
    return TaskReport(task=name, kind="k", split="dev", scores=(score,))


def test_one_task_counts_the_share_of_what_was_to_gain():
    assert selection_score([task(0.75)]) == pytest.approx(0.5)
    assert selection_score([task(1.0)]) == pytest.approx(1.0)
    assert selection_score([task(0.5, baseline=2.0, best=0.0, higher_is_better=False)]) == pytest.approx(0.75)


def test_several_tasks_count_by_their_geometric_mean():
    assert selection_score([task(0.75), task(0.98, baseline=0.0)]) == pytest.approx(math.sqrt(0.5 * 0.98))


@given(st.floats(0.5, 1.0), st.floats(0.5, 1.0))
def test_of_one_task_the_better_value_is_never_the_worse_score(a, b):
    low, high = sorted((a, b))
    assert selection_score([task(low)]) <= selection_score([task(high)])


def test_an_easy_task_cannot_carry():
    """From A to B the easy task gains four points and the hard one loses four: sum and mean see a tie."""
    a = [task(0.90, baseline=0.5), task(0.30, baseline=0.0)]
    b = [task(0.94, baseline=0.5), task(0.26, baseline=0.0)]
    assert sum(t.scores[0].value for t in a) == pytest.approx(sum(t.scores[0].value for t in b))
    assert selection_score(a) > selection_score(b)


def test_a_task_at_or_below_its_baseline_drags_but_does_not_hide_the_rest():
    stuck = [task(0.5), task(0.9, baseline=0.0)]
    worse = [task(0.1), task(0.9, baseline=0.0)]
    better = [task(0.5), task(0.95, baseline=0.0)]
    assert selection_score(stuck) == pytest.approx(math.sqrt(FLOOR * 0.9))
    assert selection_score(worse) == selection_score(stuck)
    assert selection_score(better) > selection_score(stuck)


def test_tasks_at_the_floor_are_told_apart_by_their_loss():
    def stuck(loss):
        return task(0.5).model_copy(update={"loss": loss})

    early, late, diverged = (selection_score([stuck(loss)]) for loss in (9.0, 4.0, math.nan))
    assert FLOOR > late > early > diverged > 0
    assert early == pytest.approx(FLOOR / 10)
    learnt = task(0.51).model_copy(update={"loss": 50.0})
    assert selection_score([learnt]) == pytest.approx(0.02), "a metric above its baseline decides alone"


def test_a_value_that_is_not_finite_counts_as_the_baseline():
    assert selection_score([task(math.nan)]) == pytest.approx(FLOOR)
    assert gain(task(math.inf).scores[0]) == 0.0


def test_nothing_to_gain():
    assert gain(task(1.0, baseline=1.0).scores[0]) == 1.0
    assert gain(task(0.9, baseline=1.0).scores[0]) == 0.0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="one task at least"):
        selection_score([])
    with pytest.raises(ValueError, match="finite"):
        gain(task(0.5, baseline=math.nan).scores[0])


def test_a_loss_is_on_the_scale_of_gains_and_orders_as_losses_do():
    def by_loss(loss):
        return task(0.3).model_copy(update={"loss": loss, "is_chosen_by_loss": True})

    assert selection_score([by_loss(3.0)]) == pytest.approx(0.25)
    assert selection_score([by_loss(0.0)]) == 1.0
    assert selection_score([by_loss(1.0)]) > selection_score([by_loss(1.1)])
    assert selection_score([by_loss(11.0)]) > selection_score([by_loss(12.0)]) > 2 * FLOOR, "a new model"
    assert selection_score([by_loss(math.nan)]) < FLOOR
    assert selection_score([by_loss(None)]) == selection_score([task(0.3)])
