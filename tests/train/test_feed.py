"""Micro-batches of a step."""

from __future__ import annotations

import pytest
import torch

from weft.train.feed import Feed
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
