"""Regression: units of the data out, standard units inside, and scores as people write them."""

from __future__ import annotations

import math

import pytest
import torch

from weft.core.example import Dropped, Purpose
from weft.errors import DataError
from weft.task.batching import make_batch


def _scored(*scores):
    return [{"text": f"film {number}", "score": score} for number, score in enumerate(scores)]


def test_mean_and_deviation_are_those_of_the_training_scores(kit):
    task = kit.fit("regression", _scored(10, "20", 30.0, None, "n/a"))
    assert task.mean == pytest.approx(20.0)
    assert task.std == pytest.approx(math.sqrt(200 / 3))
    assert task.config()["mean"] == task.mean


@pytest.mark.parametrize("scores", [[3, 3, 3], [None, ""], ["good", "bad"]])
def test_scores_that_do_not_differ_are_refused(kit, scores):
    with pytest.raises(DataError, match="at least two different numbers"):
        kit.fit("regression", _scored(*scores))


def test_unusable_rows_are_dropped_with_their_reason(kit):
    task = kit.fit("regression", _scored(1, 2))
    found = task.encode(kit.rows(_scored(1, "two", None, float("inf"), True)), kit.words, Purpose.LEARN)
    assert found[0].target == found[0].gold == 1.0
    reasons = [one.reason for one in found[1:] if isinstance(one, Dropped)]
    assert reasons == ["score is not a number", "no score", "score is not finite", "score is not a number"]


def test_a_new_head_answers_near_the_mean_in_the_units_of_the_data(kit):
    task = kit.fit("regression", _scored(1000, 1010, 1020))
    encoded = task.encode(kit.rows(_scored(1000, 1010, 1020)), kit.words, Purpose.ANSWER)
    for answer in kit.answers(kit.network(task), task, encoded):
        assert answer.value == pytest.approx(1010, abs=task.std)


def test_bf16_products_do_not_round_the_units(kit):
    task = kit.fit("regression", _scored(1000, 1000.5, 1001))  # one step of bf16 at 1000 is 4
    encoded = task.encode(kit.rows(_scored(1000, 1000.5, 1001)), kit.words, Purpose.ANSWER)
    network = kit.network(task)
    exact = kit.answers(network, task, encoded)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = kit.answers(network, task, encoded)
    for one, other in zip(exact, rough, strict=True):
        assert one.value == pytest.approx(other.value, abs=0.02 * task.std)


def test_the_loss_is_in_squared_deviations_whatever_the_unit(kit):
    losses = []
    for unit in (1.0, 1000.0):
        rows = _scored(*(unit * score for score in (1, 2, 4)))
        task = kit.fit("regression", rows)
        encoded = task.encode(kit.rows(rows), kit.words, Purpose.LEARN)
        network = kit.network(task)
        batch = make_batch([("t", one) for one in encoded], {"t": task}, pad=0)
        loss = task.loss(network(batch)["t"], batch.targets["t"])
        loss.total.backward()
        losses.append((loss.total.detach(), network.heads["t"].out.weight.grad))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    mean_only = kit.fit("regression", _scored(1, 2, 4))
    target = make_batch([("t", one) for one in encoded], {"t": task}, pad=0).targets["t"]
    at_mean = task.loss(torch.full((3, 1), task.mean), target)
    assert at_mean.total.item() / at_mean.weight == pytest.approx(1.0)
    assert mean_only.std == pytest.approx(task.std / 1000)


def test_without_a_bias_the_scale_reaches_the_mean(kit):
    task = kit.fit("regression", _scored(900, 1000, 1100))
    head = task.head(kit.trunk(has_bias=False).info, dropout=0.0, seed=0)
    assert head.out.bias is None
    assert (head.units.shift, head.units.scale) == (0.0, pytest.approx(math.hypot(task.mean, task.std)))
    assert list(head.stock_weights()) == ["weight"]
    with_bias = task.head(kit.trunk().info, dropout=0.0, seed=0)
    assert (with_bias.units.shift, with_bias.units.scale) == (task.mean, task.std)
    assert with_bias.stock_weights()["bias"].item() == pytest.approx(task.mean)


def test_the_baseline_is_the_mean(kit):
    task = kit.fit("regression", _scored(1, 2, 6))
    assert [answer.value for answer in task.baseline([1.0, 2.0, 6.0], 2)] == [3.0, 3.0]
    assert task.baseline([], 1)[0].value == task.mean


def test_scores_are_described_by_range(kit):
    task = kit.fit("regression", _scored(0, 5))
    assert task.describe([0.0, 0.5, 4.0, 5.0]) == {
        "0 to 1": 2,
        "1 to 2": 0,
        "2 to 3": 0,
        "3 to 4": 0,
        "4 to 5": 2,
    }
    assert task.describe([2.0, 2.0]) == {"2": 2}


def test_why_a_head_cannot_be_kept(kit):
    task = kit.fit("regression", _scored(1, 2))
    assert task.same_head({**task.config(), "pooling": "cls"}) == "pooling was cls and is now None"
    assert "mean and deviation changed" in task.same_head({**task.config(), "std": 9.0})
    assert task.same_head({**task.config(), "columns": {}}) is None
