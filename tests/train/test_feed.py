"""Micro-batches of a step."""

from __future__ import annotations

import pytest
import torch

from weft.task.batching import group_by_length
from weft.train.feed import Feed, filled
from weft.train.order import Draw


@pytest.fixture
def rows(toy):
    return {
        "classify": toy.make_rows("classify", 20, source="shared"),
        "score": toy.make_rows("score", 20, source="shared"),
    }


STEP = tuple(Draw(task, row) for row in range(12) for task in ("classify", "score"))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("budget", [12, 30, 10_000])
def test_batches_hold_every_draw_once_within_budget(toy, rows, budget, packed):
    batches = Feed(toy.TASKS, rows, pad=0, budget=budget, packed=packed)(STEP)
    assert sum(batch.targets["classify"].num_examples for batch in batches) == 12
    assert sum(batch.targets["score"].num_examples for batch in batches) == 12
    assert all(batch.tokens.numel() <= budget for batch in batches)
    assert {batch.layout.is_packed for batch in batches} == {packed}
    assert (len(batches) == 1) == (budget == 10_000)
    labels = torch.cat([batch.targets["classify"].values["labels_R"] for batch in batches])
    assert sorted(labels.tolist()) == sorted(row.target for row in rows["classify"][:12])


@pytest.mark.parametrize("budget", [12, 30])
def test_equal_texts_cost_one_pass_however_the_step_is_cut(toy, rows, budget):
    batches = Feed(toy.TASKS, rows, pad=0, budget=budget)(STEP)
    texts = {row.tokens for row in rows["classify"][:12]}
    assert sum(batch.layout.num_rows for batch in batches) == len(texts)
    for batch in batches:
        assert batch.targets["classify"].rows_R.tolist() == batch.targets["score"].rows_R.tolist()


def test_a_text_longer_than_the_budget_is_a_batch_of_its_own(toy):
    rows = {"classify": [toy.row(range(1, 19), 0), toy.row((1, 2), 1)]}
    batches = Feed(toy.TASKS, rows, pad=0, budget=16)((Draw("classify", 0), Draw("classify", 1)))
    assert sorted(batch.tokens.shape for batch in batches) == [(1, 2), (1, 18)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("budget", [12, 30, 10_000])
def test_a_step_of_one_task_is_cut_as_any_other(toy, budget, packed):
    rows = [toy.row([index + 1] * (index % 5 + 1), index % 3, f"x.csv:{index}") for index in range(14)]
    order = [3, 1, 4, 0, 5, 9, 2, 6, 13, 8]
    lengths = [len(rows[index].tokens) for index in order]
    cut = (
        filled(lengths, budget=budget) if packed else group_by_length(lengths, budget=budget, in_order=False)
    )
    feed = Feed(toy.TASKS, {"classify": rows}, pad=0, budget=budget, packed=packed)
    batches = feed(tuple(Draw("classify", index) for index in order))
    assert [batch.ids for batch in batches] == [
        tuple(rows[order[place]].where for place in group) for group in cut
    ]
    for batch, group in zip(batches, cut, strict=True):
        wanted = toy.make_batch([("classify", rows[order[place]]) for place in group], packed=packed)
        assert torch.equal(batch.tokens, wanted.tokens)
        assert torch.equal(batch.targets["classify"].rows_R, torch.arange(len(group)))
        labels = [rows[order[place]].target for place in group]
        assert batch.targets["classify"].values["labels_R"].tolist() == labels


def test_a_text_drawn_twice_for_one_task_is_one_row_with_two_targets(toy):
    rows = {"classify": [toy.row((1, 2), 0), toy.row((3,), 1), toy.row((1, 2), 2)]}
    step = tuple(Draw("classify", index) for index in range(3))
    (batch,) = Feed(toy.TASKS, rows, pad=0, budget=99, packed=True)(step)
    assert batch.tokens.tolist() == [1, 2, 3]
    target = batch.targets["classify"]
    assert (target.rows_R.tolist(), target.values["labels_R"].tolist()) == ([0, 0, 1], [0, 2, 1])


@pytest.mark.parametrize(
    ("lengths", "budget", "groups"),
    [
        ([], 5, []),
        ([2, 3], 5, [[0, 1]]),
        ([2, 3, 1], 5, [[0, 1], [2]]),
        ([9, 1], 5, [[0], [1]]),
        ([9], 5, [[0]]),
    ],
)
def test_packed_batches_are_filled_up_to_the_budget(lengths, budget, groups):
    assert filled(lengths, budget=budget) == groups
