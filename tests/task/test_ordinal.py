"""Ordinal regression: CORN's loss is the likelihood of its answers, and these do not contradict themselves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from weft.core.example import Answer, Dropped, Purpose
from weft.core.features import Pooling
from weft.errors import DataError
from weft.objective.supervised import Supervised
from weft.report.details import Part
from weft.task.batching import make_batch
from weft.task.ordinal import _above


def _rated(*stars, **more):
    return [{"text": f"film {number}", "stars": star, **more} for number, star in enumerate(stars)]


def _learn(kit, task, rows, purpose=Purpose.LEARN):
    return task.encode(kit.rows(rows), kit.words, purpose)


def test_numbers_are_ordered_by_themselves(kit):
    task = kit.fit("ordinal", _rated(10, "9", 2.0, 10, None))
    assert task.labels == ("2", "9", "10")
    assert [one.target for one in _learn(kit, task, _rated(2, 9, 10))] == [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)]
    assert [one.gold for one in _learn(kit, task, _rated("2", 9.0))] == ["2", "9"]


def test_names_need_an_order(kit):
    rows = _rated("good", "poor", "fair")
    with pytest.raises(DataError, match="must be numbers to be ordered"):
        kit.fit("ordinal", rows)
    task = kit.fit("ordinal", rows, labels=["poor", "fair", "good"])
    assert [one.target for one in _learn(kit, task, rows)] == [(1.0, 1.0), (0.0, 0.0), (1.0, 0.0)]
    zh = kit.fit(
        "ordinal", [{"评论": "很好", "评级": "好"}, {"评论": "坏", "评级": "差"}], labels=["差", "好"]
    )
    assert (zh.labels, zh.texts.columns["label"], zh.texts.columns["text"]) == (("差", "好"), "评级", "评论")


@pytest.mark.parametrize("labels", [["7", "8"], ["1"]])
def test_labels_of_the_recipe_must_be_of_the_column(kit, labels):
    words = rf"tasks\.t\.labels: must name at least two labels.*names {', '.join(labels)}\. The column holds 1, 2\."
    with pytest.raises(DataError, match=words):
        kit.fit("ordinal", _rated(1, 2), labels=labels)


@pytest.mark.parametrize(("stars", "labels"), [([3, 3], []), ([None, ""], []), ([None, ""], ["7", "8"])])
def test_labels_that_do_not_differ_are_refused(kit, stars, labels):
    with pytest.raises(DataError, match="at least two different labels"):
        kit.fit("ordinal", _rated(*stars), labels=labels)


def test_rows_that_cannot_be_used_say_why(kit):
    task = kit.fit("ordinal", _rated(1, 2, 3))
    found = _learn(kit, task, [*_rated(7, None), {"text": " ", "stars": 1}])
    assert [one.reason for one in found if isinstance(one, Dropped)] == [
        "label not in the list",
        "no label",
        "empty text",
    ]


def test_the_loss_is_corns_and_the_log_likelihood_of_the_answers(kit):
    rows = _rated(1, 2, 4, 3)
    task = kit.fit("ordinal", rows)
    encoded = _learn(kit, task, rows)
    network = kit.network(task).eval()
    network.heads[task.name].out.weight.data.mul_(100.0)
    batch = make_batch([(task.name, one) for one in encoded], {task.name: task}, pad=0)
    logits = network(batch)[task.name]
    loss = Supervised({task.name: task.loss})(batch, network)[task.name]
    total = torch.zeros(())
    for k in range(3):  # each output has the rows that have come as far (the paper's conditional subsets)
        subset = [row for row, rank in enumerate((0, 1, 3, 2)) if rank >= k]
        further = torch.tensor([float((0, 1, 3, 2)[row] > k) for row in subset])
        own = logits[subset, k]
        total = (
            total
            - (
                functional.logsigmoid(own) * further + (functional.logsigmoid(own) - own) * (1 - further)
            ).sum()
        )
    torch.testing.assert_close(loss.total, total)
    assert loss.weight == 4.0
    answers = kit.answers(network, task, encoded)
    shares = [answer.probabilities[one.gold] for answer, one in zip(answers, encoded, strict=True)]
    assert loss.total.item() == pytest.approx(-sum(map(math.log, shares)), rel=1e-5)
    assert max(shares) - min(shares) > 0.01


def test_probabilities_never_contradict_one_another(kit):
    task = kit.fit("ordinal", _rated(1, 2, 3, 4, 5))
    logits = 5 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    for above in _above(logits).tolist():
        assert above == sorted(above, reverse=True)
        answer = task._answer(above)
        assert min(answer.probabilities.values()) >= 0
        assert sum(answer.probabilities.values()) == pytest.approx(1)
        assert 1 <= answer.value <= 5
        below = sum(share for label, share in answer.probabilities.items() if label < answer.label)
        assert below <= 0.5 <= below + answer.probabilities[answer.label]


def test_answers_are_the_middle_label_and_the_mean_of_the_labels(kit):
    task = kit.fit("ordinal", _rated(1, 2, 4, 8))
    above = [0.9, 0.55, 0.2]
    answer = task._answer(above)
    assert answer.probabilities == pytest.approx({"1": 0.1, "2": 0.35, "4": 0.35, "8": 0.2})
    assert answer.label == "4"
    assert answer.value == pytest.approx(0.1 + 0.7 + 1.4 + 1.6)
    named = kit.fit("ordinal", _rated("a", "b"), labels=["a", "b"])
    assert named._answer([0.25]) == Answer("a", {"a": 0.75, "b": 0.25}, 1.25)


def test_the_baseline_is_the_middle_of_the_training_labels(kit):
    task = kit.fit("ordinal", _rated(1, 2, 3))
    (answer,) = task.baseline(["1", "3", "3", "2", "3"], 1)
    assert answer.label == "3"
    assert task.baseline(["1", "1", "2", "3", "2"], 1)[0].label == "2"
    assert task.describe(["1", "3", "3"]) == {"1": 1, "2": 0, "3": 2}


def test_a_long_document_has_one_score(kit):
    rows = [*_rated(1, 2, 3), {"text": "good bad film " * 60, "stars": 2}]
    task = kit.fit("ordinal", rows, pooling="mean", windows={"pooling": "max", "stride": 0})
    (encoded,) = _learn(kit, task, rows[3:])
    assert len(encoded.texts) == 3
    network = kit.network(task)
    batch = make_batch([(task.name, encoded)], {task.name: task}, pad=0)
    whole = network(batch)[task.name]
    head = network.heads[task.name]
    vectors = network.features(batch).pooled_BD(Pooling.MEAN)[batch.targets[task.name].rows_R]
    torch.testing.assert_close(whole, head.out(vectors).amax(0, keepdim=True))


def test_a_head_for_other_labels_is_not_kept(kit):
    one, other = kit.fit("ordinal", _rated(1, 2, 3)), kit.fit("ordinal", _rated(1, 2))
    assert "with 3" in str(one.same_head(other.config()))
    assert "pooling" in str(one.same_head(kit.fit("ordinal", _rated(1, 2, 3), pooling="mean").config()))
    assert one.stock().labels == ("> 1", "> 2 given > 1")


def test_a_temperature_moves_probabilities_and_no_label(kit):
    bench = kit.bench("ordinal")
    before = kit.answers(kit.network(bench.task), bench.task, bench.ask)
    golds = [one.gold for one in bench.ask]
    task, after = bench.task.calibrated(golds, before)
    assert task.temperature != 1
    assert [one.label for one in after] == [one.label for one in before]
    assert [one.probabilities for one in after] != [one.probabilities for one in before]
    for one in after:
        mean = sum(float(label) * share for label, share in one.probabilities.items())
        assert one.value == pytest.approx(mean)
    plain = replace(bench.task, calibrates=False)
    assert plain.calibrated(golds, before) == (plain, before)
    assert bench.task.calibrated([], []) == (bench.task, [])
    (found,) = [block for block in task.shown(golds, after) if block.part is Part.RELIABILITY]
    (raw,) = [block for block in bench.task.shown(golds, before) if block.part is Part.RELIABILITY]
    assert found.temperature == task.temperature
    assert found.before == pytest.approx(raw.error, abs=1e-4)
