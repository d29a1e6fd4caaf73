"""Counting, and the arithmetic of durations."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import CheckpointError
from weft.recipe.duration import Duration, Unit
from weft.train.progress import Best, Progress, due, fraction_done, is_over


def length(text: str) -> Duration:
    return Duration.parse(text)


def walk(epoch_size: int, batch: int):
    """Yield the progress after every step of a straight run."""
    progress = Progress()
    while True:
        left = epoch_size - progress.num_examples % epoch_size
        progress = progress.counted(
            Counter(a=min(batch, left)), tokens=7, padded_tokens=9, steps_per_epoch=-(-epoch_size // batch)
        )
        yield progress


def test_counting_steps_and_epochs():
    steps = walk(10, 4)
    seen = [next(steps) for _ in range(7)]
    assert [(one.epoch, one.step_in_epoch, one.step) for one in seen] == [
        (0, 1, 1), (0, 2, 2), (1, 0, 3), (1, 1, 4), (1, 2, 5), (2, 0, 6), (2, 1, 7),
    ]  # fmt: skip
    assert seen[-1].examples == {"a": 24}
    assert (seen[-1].tokens, seen[-1].padded_tokens) == (49, 63)


def test_examples_are_counted_by_task():
    one = Progress(examples={"a": 3, "b": 1}).counted(
        Counter(b=2, c=4), tokens=0, padded_tokens=0, steps_per_epoch=9
    )
    assert one.examples == {"a": 3, "b": 3, "c": 4}
    assert one.num_examples == 10


def test_skips_in_a_row_end_with_a_step_that_is_applied():
    progress = Progress()
    rows = []
    for skipped in (True, True, False, True):
        progress = progress.settled(skipped=skipped)
        rows.append((progress.skipped, progress.skipped_in_row))
    assert rows == [(1, 1), (2, 2), (2, 0), (3, 1)]


def test_json_round_trip():
    progress = Progress(1, 2, 3, {"a": 4}, 5, 6, 7.25, 8, 1)
    assert Progress.from_json(json.loads(json.dumps(progress.to_json()))) == progress
    best = Best().seen(0.5, step=3).seen(0.5, step=6)
    assert Best.from_json(json.loads(json.dumps(best.to_json()))) == best


@pytest.mark.parametrize("kind", [Progress, Best])
def test_a_file_of_another_version_is_refused(kind):
    values = kind().to_json()
    first = next(iter(values))
    with pytest.raises(CheckpointError, match=f"{kind.__name__.lower()}: must have the fields.*: {first}"):
        kind.from_json({key: value for key, value in values.items() if key != first})
    with pytest.raises(CheckpointError, match="surprise"):
        kind.from_json({**values, "surprise": 1})


def test_best_keeps_the_earlier_of_equal_scores():
    best = Best().seen(0.2, step=10).seen(0.6, step=20).seen(0.6, step=30).seen(0.1, step=40)
    assert best == Best(score=0.6, step=20, evaluations=4, since=2)
    assert best.seen(0.7, step=50) == Best(score=0.7, step=50, evaluations=5, since=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2 epochs", 0.6), ("24 steps", 0.5), ("48 examples", 2.5), ("1k tokens", 0.25), ("5 minutes", 0.2)],
)
def test_fraction_done_in_every_unit(text, expected):
    progress = Progress(step=12, examples={"a": 90, "b": 30}, tokens=250, seconds=60.0)
    assert fraction_done(length(text), progress, epoch_size=100) == pytest.approx(expected, rel=1e-12)
    assert is_over(length(text), progress, epoch_size=100) == (expected >= 1)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4))
def test_epochs_are_over_with_their_last_example(epoch_size, batch, epochs):
    duration = length(f"{epochs} epochs")
    for progress in walk(epoch_size, batch):
        if is_over(duration, progress, epoch_size=epoch_size):
            assert (progress.epoch, progress.step_in_epoch) == (epochs, 0)
            assert progress.step == epochs * -(-epoch_size // batch)
            return


def test_a_tenth_of_an_epoch_is_due_ten_times_however_the_division_rounds():
    for epoch_size in (7, 10, 30, 49, 1000):
        counts = 0
        before = Progress()
        steps = walk(epoch_size, 1)
        for _ in range(3 * epoch_size):
            after = next(steps)
            counts += due(length("0.1 epochs"), before, after, epoch_size=epoch_size)
            before = after
        assert counts == min(30, 3 * epoch_size)


def test_due_at_every_multiple_and_only_there():
    steps = walk(10, 1)
    before, at = Progress(), []
    for _ in range(12):
        after = next(steps)
        if due(length("3 steps"), before, after, epoch_size=10):
            at.append(after.step)
        before = after
    assert at == [3, 6, 9, 12]
    assert not due(length("3 steps"), before, before, epoch_size=10)


def test_minutes_are_due_by_seconds_in_steps():
    one, two = Progress(seconds=299.9), Progress(seconds=300.1)
    assert due(length("5 minutes"), one, two, epoch_size=1)
    assert not due(length("5 minutes"), two, Progress(seconds=599.0), epoch_size=1)


@given(
    st.sampled_from(list(Unit)),
    st.integers(1, 10**9),
    st.tuples(*[st.integers(0, 10**12)] * 2),
    st.floats(0, 1e7),
    st.integers(1, 10**6),
)
def test_shares_are_those_of_exact_fractions(unit, millionths, counts, seconds, epoch_size):
    amount = millionths / 10**6 if unit in (Unit.EPOCHS, Unit.MINUTES) else millionths
    duration = Duration(amount, unit)
    exact = Fraction(millionths, 10**6) if unit in (Unit.EPOCHS, Unit.MINUTES) else Fraction(millionths)

    def share(count, seconds):
        done = {Unit.EPOCHS: Fraction(count, epoch_size), Unit.MINUTES: Fraction(seconds) / 60}
        return done.get(unit, Fraction(count)) / exact

    one, two = (Progress(step=c, examples={"a": c}, tokens=c, seconds=seconds) for c in sorted(counts))
    first, last = (share(c, seconds) for c in sorted(counts))
    assert fraction_done(duration, one, epoch_size=epoch_size) == float(first)
    assert is_over(duration, one, epoch_size=epoch_size) == (first >= 1)
    assert due(duration, one, two, epoch_size=epoch_size) == (last // 1 > first // 1)


def test_an_outcome_that_changes_nothing_makes_no_new_progress():
    progress = Progress(step=3, skipped=2)
    assert progress.settled(skipped=False) is progress
    assert Progress(skipped=2, skipped_in_row=2).settled(skipped=False) == Progress(skipped=2)
