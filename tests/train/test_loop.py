"""The generator: it ends on time, goes on as if never stopped, and stops when training has diverged."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch

from weft.core.loss import Loss
from weft.data.mixture import Mixture, row_keys
from weft.errors import DivergenceError
from weft.recipe.duration import Duration
from weft.recipe.spec import MixtureKind, Schedule
from weft.train.feed import Feed
from weft.train.loop import Course, train
from weft.train.optimizer import load_optimizer_state, optimizer_state
from weft.train.order import EpochOrder, Texts
from weft.train.progress import Progress

SIZES = {"classify": 14, "score": 9}


def make_parts(toy, *, batch=4, losses=None, weights=None, dropout=0.2):
    """Return network, engine, order and feed of a run of two tasks: 6 steps an epoch."""
    rows = {name: toy.make_rows(name, size, source="shared") for name, size in SIZES.items()}
    shares = {name: size / sum(SIZES.values()) for name, size in SIZES.items()}
    keys = {name: row_keys("shared", [row.where for row in rows[name]]) for name in rows}
    mixture = Mixture(0, "stage", MixtureKind.PROPORTIONAL, shares, keys)
    order = EpochOrder(mixture, {name: Texts.of(rows[name]) for name in rows}, batch=batch, window=2)
    sites = toy.make_network(dropout=dropout)
    engine = toy.make_engine(sites, losses=losses, weights=weights)
    return sites, engine, order, Feed(toy.TASKS, rows, pad=0, budget=24)


def course(length: str, *, schedule=Schedule.LINEAR, warmup=0.2) -> Course:
    return Course(Duration.parse(length), schedule, warmup)


def state_of(sites, engine):
    return {
        **toy_copy(sites),
        **{key: tensor.clone() for key, tensor in optimizer_state(engine.optimizer).items()},
    }


def toy_copy(sites):
    return {path: parameter.detach().clone() for path, parameter in sites.parameters()}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        ("2 epochs", 12),
        ("0.5 epochs", 3),
        ("7 steps", 7),
        ("25 examples", 7),
        ("60 tokens", None),
        ("1 epoch", 6),
    ],
)
def test_it_ends_when_its_length_is_reached(toy, length, steps):
    _, engine, order, feed = make_parts(toy)
    events = list(train(engine, order, feed, course=course(length), start=Progress()))
    assert steps in (None, len(events))
    assert [event.result.step for event in events] == list(range(len(events)))
    last = events[-1].settled()
    assert last.step == len(events)
    assert last.num_examples == sum(sum(event.result.examples.values()) for event in events)
    assert last.tokens == sum(event.result.tokens for event in events)
    assert last.padded_tokens == sum(event.result.padded_tokens for event in events)
    if length.endswith("tokens"):
        assert events[-2].progress.tokens < 60 <= last.tokens


def test_minutes_end_by_the_clock_of_the_steps(toy):
    _, engine, order, feed = make_parts(toy)
    events = list(train(engine, order, feed, course=course("0.001 minutes"), start=Progress()))
    assert events[-1].progress.seconds >= 0.06
    assert len(events) == 1 or events[-2].progress.seconds < 0.06
    assert list(train(engine, order, feed, course=course("1 minute"), start=Progress(seconds=60.0))) == []


def test_time_between_steps_is_not_training_time(toy):
    import time

    _, engine, order, feed = make_parts(toy)
    run = train(engine, order, feed, course=course("4 steps"), start=Progress())
    next(run)
    time.sleep(0.3)
    assert next(run).progress.seconds < 0.3


def test_a_finished_stage_takes_no_step(toy):
    sites, engine, order, feed = make_parts(toy)
    before = toy_copy(sites)
    end = list(train(engine, order, feed, course=course("1 epoch"), start=Progress()))[-1].settled()
    after = toy_copy(sites)
    assert list(train(engine, order, feed, course=course("1 epoch"), start=end)) == []
    assert same(toy_copy(sites), after)
    assert not same(before, after)


@pytest.mark.parametrize("every", [1, 5])
def test_stopped_and_resumed_at_any_step_the_end_is_bit_equal(toy, every):
    sites, engine, order, feed = make_parts(toy)
    straight = list(train(engine, order, feed, course=course("2 epochs"), start=Progress()))
    wanted, total = state_of(sites, engine), len(straight)
    for stop in range(1, total, every):
        sites, engine, order, feed = make_parts(toy)
        run = train(engine, order, feed, course=course("2 epochs"), start=Progress())
        first = list(islice(run, stop))
        saved, progress = state_of(sites, engine), Progress.from_json(first[-1].settled().to_json())

        sites, engine, order, feed = make_parts(toy)
        for path, parameter in sites.parameters():
            parameter.data.copy_(saved[path])
        load_optimizer_state(engine.optimizer, {key: saved[key] for key in saved if "/" in key})
        rest = list(train(engine, order, feed, course=course("2 epochs"), start=progress))
        assert [event.result.ids for event in first + rest] == [event.result.ids for event in straight]
        assert [event.result.lr for event in first + rest] == [event.result.lr for event in straight]
        assert same(state_of(sites, engine), wanted), stop
        assert rest[-1].settled().to_json() | {"seconds": 0} == straight[-1].settled().to_json() | {
            "seconds": 0
        }


@pytest.mark.parametrize("forgotten", ["position", "optimizer", "step"])
def test_negative_control_what_is_not_restored_shows(toy, forgotten):
    sites, engine, order, feed = make_parts(toy)
    list(train(engine, order, feed, course=course("9 steps"), start=Progress()))
    wanted = state_of(sites, engine)
    sites, engine, order, feed = make_parts(toy)
    run = train(engine, order, feed, course=course("9 steps"), start=Progress())
    progress = list(islice(run, 4))[-1].settled()
    if forgotten == "optimizer":
        load_optimizer_state(engine.optimizer, {})
    wrong = {"position": {"step_in_epoch": 0}, "step": {"step": 3}}.get(forgotten, {})
    start = Progress.from_json(progress.to_json() | wrong)
    list(train(engine, order, feed, course=course("9 steps"), start=start))
    assert not same(state_of(sites, engine), wanted)


def test_the_rate_is_that_of_the_middle_of_each_step(toy):
    _, engine, order, feed = make_parts(toy)
    events = list(train(engine, order, feed, course=course("10 steps"), start=Progress()))
    middles = [(step + 0.5) / 10 for step in range(10)]
    factors = [middle / 0.2 if middle < 0.2 else (1 - middle) / 0.8 for middle in middles]
    assert [event.result.lr for event in events] == pytest.approx(
        [0.02 * factor for factor in factors], rel=1e-12
    )
    assert min(event.result.lr for event in events) > 0


def test_one_single_step_moves(toy):
    sites, engine, order, feed = make_parts(toy)
    before = toy_copy(sites)
    list(train(engine, order, feed, course=course("1 step"), start=Progress()))
    assert not same(toy_copy(sites), before)


class _Diverging:
    """Cross entropy that is not a number in the calls of ``bad``."""

    def __init__(self, good, bad):
        self.good, self.bad, self.calls = good, bad, 0

    def __call__(self, outputs, target):
        loss = self.good(outputs, target)
        self.calls += 1
        return Loss(loss.total * math.nan, loss.weight) if self.calls - 1 in self.bad else loss


def _diverging(toy, bad):
    """Return parts whose every step is one batch with both tasks, and not finite in the steps ``bad``."""
    losses = {"classify": _Diverging(toy.TASKS["classify"].loss, bad)}
    sites, engine, order, feed = make_parts(toy, losses=losses, batch=12)
    feed = Feed(feed.tasks, feed.rows, pad=0, budget=1000)
    assert all(len({draw.task for draw in step}) == 2 for epoch in range(6) for step in order.steps(epoch))
    return sites, engine, order, feed


def test_skipped_steps_are_counted_and_training_goes_on(toy):
    sites, engine, order, feed = _diverging(toy, {1, 4, 5, 6, 9})
    events = list(train(engine, order, feed, course=course("10 steps"), start=Progress()))
    assert [int(event.result.skipped) for event in events] == [0, 1, 0, 0, 1, 1, 1, 0, 0, 1]
    assert [event.settled().skipped for event in events] == [0, 1, 1, 1, 2, 3, 4, 4, 4, 5]
    assert [event.settled().skipped_in_row for event in events] == [0, 1, 0, 0, 1, 2, 3, 0, 0, 1]
    assert all(value.isfinite().all() for value in toy_copy(sites).values())


def test_more_than_three_in_a_row_stop_and_name_steps_and_rows(toy):
    sites, engine, order, feed = _diverging(toy, {2, 3, 4, 5, 6, 7, 8, 9})
    run = train(engine, order, feed, course=course("10 steps"), start=Progress())
    taken = []
    with pytest.raises(DivergenceError, match="4 steps in a row; none of them was applied") as caught:
        taken.extend((event, toy_copy(sites)) for event in run)
    assert [event.result.step for event, _ in taken] == [0, 1, 2, 3, 4, 5]
    for event, _ in taken[2:]:
        assert f"step {event.result.step}: {event.result.ids[0]}, " in str(caught.value)
    assert "step 1:" not in str(caught.value)
    assert same(toy_copy(sites), taken[1][1])


def test_divergence_in_the_last_steps_is_not_missed(toy):
    _, engine, order, feed = _diverging(toy, {6, 7, 8, 9})
    with pytest.raises(DivergenceError):
        list(train(engine, order, feed, course=course("10 steps"), start=Progress()))


def test_steps_in_a_row_are_counted_across_a_resume(toy):
    _, engine, order, feed = _diverging(toy, {0, 1})
    start = Progress(skipped=2, skipped_in_row=2)
    with pytest.raises(DivergenceError, match="4 steps in a row"):
        list(train(engine, order, feed, course=course("5 steps"), start=start))


def test_training_learns(toy):
    _, engine, order, feed = make_parts(toy, dropout=0.0)
    events = list(train(engine, order, feed, course=course("60 epochs", warmup=0.05), start=Progress()))

    def loss(some):
        weights = sum(event.result.weights.get("classify", 0) for event in some)
        return (
            sum(float(event.result.totals["classify"]) for event in some if "classify" in event.result.totals)
            / weights
        )

    assert loss(events[-6:]) < 0.3 * loss(events[:6])
