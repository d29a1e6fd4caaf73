"""The steps of an epoch: exact contents, pure functions, equal texts together, little padding."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from itertools import groupby, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.core.seeds import fold
from weft.data.mixture import Mixture, mixed, row_keys, shares
from weft.recipe.spec import MixtureKind, MixtureSpec
from weft.train.order import LENGTH_NOISE, Draw, EpochOrder, Texts, repeats, text_key


def make_order(
    toy,
    sizes,
    *,
    kind=MixtureKind.PROPORTIONAL,
    batch=4,
    homogeneous=False,
    window=16,
    seed=0,
    source=None,
    rates=None,
):
    rows = {name: toy.make_rows(name, size, source=source) for name, size in sizes.items()}
    mixture = Mixture(
        seed=seed,
        stage="one",
        kind=kind,
        shares=shares(MixtureSpec(kind=kind), sizes, rates or {}),
        keys={name: row_keys(source or name, [row.where for row in rows[name]]) for name in sizes},
    )
    texts = {name: Texts.of(rows[name]) for name in mixture.tasks}
    return EpochOrder(mixture, texts, batch=batch, homogeneous=homogeneous, window=window)


KINDS = list(MixtureKind)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(8, 60), st.integers(8, 60)),
    st.integers(1, 9),
    st.booleans(),
    st.sampled_from(KINDS),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_an_epoch_holds_exactly_the_mixtures_draws(toy, sizes, batch, homogeneous, kind, window, epoch):
    sizes = dict(zip(("classify", "score"), sizes, strict=True))
    order = make_order(toy, sizes, kind=kind, batch=batch, homogeneous=homogeneous, window=window)
    steps = order.steps(epoch)
    wanted = Counter(
        Draw(task, row) for task in order.mixture.tasks for row in order.mixture.rows(task, epoch).tolist()
    )
    assert Counter(draw for step in steps for draw in step) == wanted
    assert len(steps) == order.steps_per_epoch
    assert sum(map(len, steps)) == order.epoch_size
    short = [index for index, step in enumerate(steps) if len(step) != batch]
    if homogeneous:
        assert all(len({draw.task for draw in step}) == 1 for step in steps)
        assert len(short) <= 2
    else:
        assert short in ([], [len(steps) - 1])
    assert steps == make_order(
        toy, sizes, kind=kind, batch=batch, homogeneous=homogeneous, window=window
    ).steps(epoch)


def test_order_is_as_it_was_when_it_was_released(toy):
    steps = make_order(toy, {"classify": 4, "score": 3}, batch=3).steps(0)
    assert [[f"{draw.task[0]}{draw.row}" for draw in step] for step in steps] == [
        ["s1", "c3", "c1"],
        ["s0", "s2", "c2"],
        ["c0"],
    ]


def test_every_epoch_and_seed_has_an_order_of_its_own(toy):
    sizes = {"classify": 40, "score": 20}
    order = make_order(toy, sizes)
    assert order.steps(0) != order.steps(1)
    assert order.steps(0) != make_order(toy, sizes, seed=1).steps(0)
    assert sorted(sum(order.steps(0), ())) == sorted(sum(order.steps(1), ()))


def test_a_task_with_rate_0_changes_nothing(toy):
    alone = make_order(toy, {"classify": 30}, kind=MixtureKind.FIXED)
    beside = make_order(toy, {"score": 25, "classify": 30}, kind=MixtureKind.FIXED, rates={"score": 0.0})
    for epoch in range(3):
        assert alone.steps(epoch) == beside.steps(epoch)


def _walk(order, epoch, step):
    """Yield the steps from a position on, as a resumed run takes them."""
    while True:
        yield from order.steps(epoch)[step:]
        epoch, step = epoch + 1, 0


@pytest.mark.parametrize("homogeneous", [False, True])
def test_resumed_at_any_step_the_order_goes_on_as_if_never_stopped(toy, homogeneous):
    order = make_order(toy, {"classify": 13, "score": 8}, homogeneous=homogeneous)
    total = 3 * order.steps_per_epoch
    straight = list(islice(_walk(order, 0, 0), total))
    wrong = 0
    for stop in range(total):
        epoch, step = divmod(stop, order.steps_per_epoch)
        resumed = make_order(toy, {"classify": 13, "score": 8}, homogeneous=homogeneous)
        assert straight[:stop] + list(islice(_walk(resumed, epoch, step), total - stop)) == straight
        # negative control: without the position, or with the order of epoch 0 again, the test must bite
        wrong += straight[:stop] + list(islice(_walk(resumed, 0, step), total - stop)) != straight
    assert (
        wrong >= total - order.steps_per_epoch - 1
    )  # the one step left of the last stop may be equal by chance


def test_texts_of_two_tasks_share_a_step_whenever_both_are_in_the_window(toy):
    order = make_order(toy, {"classify": 64, "score": 64}, batch=8, source="shared")
    steps = order.steps(0)
    for step in steps:
        rows = {task: {draw.row for draw in step if draw.task == task} for task in ("classify", "score")}
        assert rows["classify"] == rows["score"]
        assert len(step) == 8


def test_over_an_epoch_of_many_windows_nearly_all_shared_texts_meet(toy):
    order = make_order(toy, {"classify": 1500, "score": 1500}, batch=8, window=8, source="shared")
    met = sum(
        len({d.row for d in step if d.task == "classify"} & {d.row for d in step if d.task == "score"})
        for step in order.steps(1)
    )
    assert met / 1500 > 0.95


def test_a_text_that_does_not_fit_waits_and_one_larger_than_a_step_is_split(toy):
    texts = {"classify": Texts(np.full(7, 3), np.array([5, 5, 5, 5, 5, 6, 6], np.uint64))}
    mixture = Mixture(
        0, "s", MixtureKind.UNIFORM, {"classify": 1.0}, {"classify": row_keys("x", list("abcdefg"))}
    )
    steps = EpochOrder(mixture, texts, batch=3).steps(0)
    keys = sorted(sorted(int(texts["classify"].keys_R[draw.row]) for draw in step) for step in steps)
    assert sorted(map(len, steps)) == [1, 3, 3]
    assert Counter(key for step in keys for key in step) == {5: 5, 6: 2}
    assert sum({5, 6} <= set(step) for step in keys) <= 1


def test_grouping_by_length_leaves_little_padding(toy):
    sizes = {"classify": 800}

    def padding(window):
        order = make_order(toy, sizes, batch=8, window=window)
        lengths = order.texts["classify"].lengths_R
        widths = [max(lengths[d.row] for d in step) * len(step) for step in order.steps(0)]
        return sum(widths) / lengths.sum()

    assert padding(1) > 1.5
    assert padding(16) < 1.1


def test_steps_of_one_length_are_not_neighbours(toy):
    order = make_order(toy, {"classify": 800}, batch=8)
    lengths = order.texts["classify"].lengths_R
    means = np.array([np.mean([lengths[d.row] for d in step]) for step in order.steps(0)])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3


def test_the_short_step_is_not_always_the_longest_rows(toy):
    order = make_order(toy, {"classify": 21}, batch=4)
    lengths = order.texts["classify"].lengths_R
    lasts = {int(lengths[order.steps(epoch)[-1][0].row]) for epoch in range(20)}
    assert len(lasts) >= 4


def test_round_robin_homogeneous_steps_come_in_turn(toy):
    order = make_order(
        toy, {"classify": 16, "score": 16}, kind=MixtureKind.ROUND_ROBIN, homogeneous=True, batch=4
    )
    assert [step[0].task for step in order.steps(2)] == ["classify", "score"] * 4


def test_text_keys_know_tokens_and_segments_only(toy):
    one = toy.row((1, 2, 3), 0)
    assert text_key(one) == text_key(toy.row((1, 2, 3), 2, "y.csv:9"))
    segmented = type(one)((1, 2, 3), (0, 0, 1), 0, 0, "x")
    assert (
        len(
            {
                text_key(one),
                text_key(segmented),
                text_key(toy.row((1, 2), 0)),
                text_key(toy.row((1, 2, 3, 0), 0)),
            }
        )
        == 4
    )
    texts = Texts.of([one, segmented])
    assert texts.lengths_R.tolist() == [3, 3]
    assert texts.keys_R.tolist() == [text_key(one), text_key(segmented)]


def test_small_data_meets_in_other_steps_in_every_epoch(toy):
    """One window holds all rows: the steps must differ in what they hold, not only in their order."""
    order = make_order(toy, {"classify": 64}, batch=4)
    held = [{frozenset(draw.row for draw in step) for step in order.steps(epoch)} for epoch in range(3)]
    assert all(len(steps) == 16 for steps in held)
    assert len(held[0] & held[1]) < 8
    assert len(held[1] & held[2]) < 8


class Plain:
    """The steps of an order draw by draw, window by window, as record 0005 tells them."""

    def __init__(self, order: EpochOrder, epoch: int) -> None:
        self.order, self.epoch, self.mixture = order, epoch, order.mixture

    def random(self, *keys):
        seed = fold(self.mixture.seed, self.mixture.stage, "order", self.epoch, *keys)
        return np.random.default_rng(seed)

    def steps(self):
        tasks = self.mixture.tasks
        rows = {task: iter(self.mixture.rows(task, self.epoch).tolist()) for task in tasks}
        drawn = [tasks[index] for index in self.mixture.draws(self.epoch)]
        draws = [Draw(task, next(rows[task])) for task in drawn]
        if not self.order.homogeneous:
            return self.shuffled(draws, "")
        queues = [self.shuffled([draw for draw in draws if draw.task == task], task) for task in tasks]
        if self.mixture.kind is MixtureKind.ROUND_ROBIN:
            turns = range(max(map(len, queues)))
            return [queue[turn] for turn in turns for queue in queues if turn < len(queue)]
        whose = [index for index, queue in enumerate(queues) for _ in queue]
        return [queues[turn].pop(0) for turn in self.random("tasks").permutation(whose)]

    def shuffled(self, draws, task):
        size = self.order.batch * self.order.window
        windows = [draws[start : start + size] for start in range(0, len(draws), size)]
        steps = [step for number, window in enumerate(windows) for step in self.cut(window, task, number)]
        full = [step for step in steps if len(step) == self.order.batch]
        order = self.random("steps", task).permutation(len(full))
        return [full[index] for index in order] + [step for step in steps if len(step) < self.order.batch]

    def cut(self, window, task, number):
        sizes = [self.order.batch] * (len(window) // self.order.batch)
        if short := len(window) % self.order.batch:
            sizes.insert(self.random("short", task, number).integers(len(sizes) + 1), short)
        waiting = [list(unit) for _, unit in groupby(sorted(window, key=self.place), key=self.key)]
        for size in sizes:
            step = []
            while room := size - len(step):
                fits = [index for index, unit in enumerate(waiting) if len(unit) <= room]
                if fits:
                    step += waiting.pop(fits[0])
                else:
                    step += waiting[0][:room]
                    waiting[0] = waiting[0][room:]
            yield tuple(step)

    def key(self, draw):
        return self.order.texts[draw.task].keys_R[draw.row]

    def place(self, draw):
        salt = np.uint64(fold(self.mixture.seed, self.mixture.stage, "lengths", self.epoch))
        chance = float(mixed(np.array([self.key(draw)]) ^ salt)[0]) / 2.0**64
        length = self.order.texts[draw.task].lengths_R[draw.row]
        return length * (1 + LENGTH_NOISE * chance) if self.order.by_length else chance, self.key(draw)


@st.composite
def _orders(draw: st.DrawFn) -> EpochOrder:
    """Draw an order of one to three tasks over few texts, so that many are equal: within a task, and of two tasks."""
    sizes = {name: draw(st.integers(8, 70)) for name in "abc"[: draw(st.integers(1, 3))]}
    kind = draw(st.sampled_from(KINDS))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    distinct = draw(st.sampled_from([1, 3, 20, 10**6]))
    shared = random.integers(distinct, size=max(sizes.values())).astype(np.uint64)
    texts = {}
    for name, size in sizes.items():
        keys_R = (
            shared[:size] if draw(st.booleans()) else random.integers(distinct, size=size).astype(np.uint64)
        )
        texts[name] = Texts((keys_R % 5 + 1).astype(np.int64), keys_R)
    keys = {name: row_keys("x", [f"f:{row}" for row in range(size)]) for name, size in sizes.items()}
    mixture = Mixture(1, "one", kind, shares(MixtureSpec(kind=kind), sizes, {}), keys)
    return EpochOrder(
        mixture,
        texts,
        batch=draw(st.integers(1, 12)),
        homogeneous=draw(st.booleans()),
        window=draw(st.integers(1, 5)),
        by_length=draw(st.booleans()),
    )


@settings(max_examples=250, deadline=None)
@given(_orders(), st.integers(0, 3))
def test_the_order_of_whole_epochs_is_that_of_draw_after_draw(order, epoch):
    assert order.steps(epoch) == Plain(order, epoch).steps()


def test_the_order_of_large_epochs_is_that_of_draw_after_draw(toy):
    order = make_order(toy, {"classify": 700, "score": 500}, batch=8, source="shared")
    assert order.steps(2) == Plain(order, 2).steps()
    assert math.ceil(1200 / 8) == len(order.steps(2))


def test_a_row_that_is_drawn_again_and_again_is_spread_over_the_steps(toy):
    """Ninety rows of one class and three of another: every step of the balanced order has both, many times over."""
    strata = np.array([0] * 90 + [1] * 3, dtype=np.int64)
    plain = make_order(toy, {"classify": 93}, batch=8)
    mixture = dataclasses.replace(plain.mixture, strata={"classify": strata})
    order = dataclasses.replace(plain, mixture=mixture, by_length=False)
    rare, most = [], 0
    for epoch in range(4):
        for step in order.steps(epoch):
            rare += [strata[draw.row] for draw in step]
            most = max(most, *Counter(draw.row for draw in step).values())
    assert sum(rare) / len(rare) == pytest.approx(0.5, abs=0.01)
    assert most <= 6  # of one row in a step of 8; equal texts together would make it all 8
    assert Counter(d for s in order.steps(1) for d in s) == Counter(
        Draw("classify", row) for row in mixture.rows("classify", 1).tolist()
    )


def test_repeats_count_what_came_before():
    numbers = np.array([4, 4, 1, 4, 1, 0])
    assert repeats(numbers).tolist() == [0, 1, 0, 2, 1, 0]
    assert repeats(np.array([], dtype=np.int64)).tolist() == []
