"""Micro-batches of a step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from weft.core.batch import Target
from weft.core.example import Encoded, Text
from weft.core.features import Features, Pooling
from weft.core.network import Network, TrunkInfo
from weft.objective.supervised import Supervised as BySum
from weft.task.batching import group_by_length
from weft.task.generation import Generation
from weft.task.question_answering import QuestionAnswering, Spans
from weft.task.supervision import Supervised
from weft.task.writing import Span
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


# ------------------------------------------------------------------------------- examples of several texts

QA = QuestionAnswering("qa", {})
TALKS = Generation("talks", {})
INFO = TrunkInfo(8, 20, Pooling.MEAN, False, True, True, max_positions=64, init_range=0.5)


class ByToken(nn.Module):
    """Each token's state is its embedding, through a layer; with an output embedding."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.project = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20)

    def forward(self, batch, *, perturb=None):
        return Features(self.mix(self.embed(batch.tokens)), batch.layout, project=self.project)


class Documents:
    """A task whose texts have one answer together."""

    def collate(self, encoded, rows, layout):
        return Target(torch.tensor(list(rows)), {}, float(len(encoded)), len(encoded))


def windows(number, count, length=6):
    """Return an example of ``count`` windows, all of them other than those of other numbers."""
    tokens = [tuple((number * 7 + at * 3 + place) % 19 + 1 for place in range(length)) for at in range(count)]
    spans = tuple((at % 3, at % 3 + 1) for at in range(count))
    first, *others = tokens
    more = tuple(Text(own, None) for own in others)
    return Encoded(first, None, Spans(spans, None), ("x",), f"q.jsonl:{number}", more=more)


def talk(number, count, length=6):
    """Return the same texts, of each of which the second half is learnt; earlier ones count less."""
    spans = tuple((Span(length // 2, length, 1 - 0.25 * (at == 0)),) for at in range(count))
    return replace(windows(number, count, length), target=Supervised(spans))


def summed(batches, task, network):
    """Return loss, weight and gradients of a step's batches together."""
    network.zero_grad()
    losses = [BySum({task.name: task.loss})(batch, network)[task.name] for batch in batches]
    total = torch.stack([loss.total for loss in losses]).sum()
    total.backward()
    grads = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    return total.detach(), sum(loss.weight for loss in losses), grads


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("task", "make"), [(QA, windows), (TALKS, talk)])
def test_an_example_larger_than_the_budget_is_divided_and_nothing_else_changes(task, make, packed):
    rows = {task.name: [make(number, count) for number, count in enumerate((1, 9, 2, 12, 3))]}
    step = tuple(Draw(task.name, row) for row in range(5))
    network = Network(ByToken(), {task.name: task.head(INFO, dropout=0.0, seed=1)})
    feeds = [Feed({task.name: task}, rows, pad=0, budget=budget, packed=packed) for budget in (10_000, 24)]
    (whole,), cut = (feed(step) for feed in feeds)
    assert max(batch.num_padded_tokens for batch in cut) <= 24
    assert sum(batch.num_tokens for batch in cut) >= whole.num_tokens
    assert sum(batch.targets[task.name].num_examples for batch in cut) == 5
    found, expected = (summed(batches, task, network) for batches in (cut, [whole]))
    assert found[1] == expected[1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_examples_that_do_not_divide_are_never_two_in_a_batch_beyond_the_budget(packed):
    """Windows of documents: 16 of 40 windows each make 16 passes, and each holds one document."""
    rows = {"classify": [replace(windows(number, 40, 8), target=number % 3) for number in range(16)]}
    tasks = {"classify": Documents()}
    batches = Feed(tasks, rows, pad=0, budget=100, packed=packed)(
        tuple(Draw("classify", row) for row in range(16))
    )
    assert [batch.targets["classify"].num_examples for batch in batches] == [1] * 16
    assert max(batch.num_padded_tokens for batch in batches) <= 40 * 8


def test_tasks_that_share_an_example_too_large_share_it_if_neither_divides_it():
    shared = windows(0, 9)
    rows = {"qa": [shared], "one": [replace(shared, target=0)], "two": [replace(shared, target=1)]}
    tasks = {"one": Documents(), "qa": QA, "two": Documents()}
    batches = Feed(tasks, rows, pad=0, budget=24, packed=True)(tuple(Draw(name, 0) for name in rows))
    assert [tuple(batch.targets) for batch in batches] == [("one", "two"), ("qa",), ("qa",), ("qa",)]
    assert [batch.num_tokens for batch in batches] == [54, 24, 24, 6]
