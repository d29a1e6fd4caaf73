"""Losses over classes: weights as scikit-learn and torch have them, the focal loss by hand, options that are refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from sklearn.utils.class_weight import compute_class_weight

from weft.core.example import Purpose
from weft.objective.supervised import Supervised
from weft.recipe.spec import TaskSpec
from weft.task.batching import make_batch
from weft.task.criterion import Criterion, CriterionSpec, class_weights, imbalance, yes_weights

LABELS = ["a"] * 12 + ["b"] * 3 + ["c"]
ROWS = [{"text": f"film {number}", "label": label} for number, label in enumerate(LABELS)]


def spec_of(**keys):
    return CriterionSpec.model_validate({"kind": "x", "train": ["y.csv"], **keys})


def test_weights_are_scikit_learns_balanced_ones():
    wanted = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=np.array(LABELS))
    assert class_weights([12, 3, 1], spec_of(balance="weights")) == pytest.approx(wanted.tolist())
    assert class_weights([12, 3, 1], spec_of()) == ()
    assert class_weights([4, 0, 4], spec_of(balance="weights")) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
def test_effective_numbers_are_a_geometric_series_and_sum_to_the_classes(beta):
    counts = [12, 3, 1]
    found = class_weights(counts, spec_of(balance="effective", beta=beta))
    effective = [sum(beta**power for power in range(count)) for count in counts]
    assert sum(found) == pytest.approx(3)
    assert [one / found[0] for one in found] == pytest.approx([effective[0] / one for one in effective])


def test_effective_runs_from_no_weighting_to_inverse_frequency():
    counts = [12, 3, 1]
    assert class_weights(counts, spec_of(balance="effective", beta=0)) == pytest.approx((1, 1, 1))
    near = class_weights(counts, spec_of(balance="effective", beta=1 - 1e-7))
    inverse = class_weights(counts, spec_of(balance="weights"))
    assert [one / near[0] for one in near] == pytest.approx([one / inverse[0] for one in inverse], rel=1e-4)


def test_a_yes_weighs_as_many_as_there_are_noes():
    assert yes_weights([2, 5, 0, 10], 10, spec_of(balance="weights")) == (4.0, 1.0, 1.0, 1.0)
    (found,) = yes_weights([2], 10, spec_of(balance="effective", beta=0.5))
    assert found == pytest.approx((1 - 0.5**8) / (1 - 0.5**2))
    assert yes_weights([2], 10, spec_of()) == ()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"beta": 0.9}, "beta: needs balance: effective, but balance is none"),
        ({"gamma": 1.0}, "gamma: needs loss: focal, but loss is cross_entropy"),
        ({"loss": "focal", "smoothing": 0.1}, "smoothing: needs loss: cross_entropy, but loss is focal"),
        ({"balance": "sampling"}, "'none', 'weights' or 'effective'"),
    ],
)
def test_options_that_would_change_nothing_are_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        spec_of(**keys)
    assert issubclass(CriterionSpec, TaskSpec)


def test_sampling_needs_one_label_a_row(kit):
    with pytest.raises(ValidationError, match="sampling needs one label a row"):
        kit.fit("classification", ROWS, multi_label=True, balance="sampling")


def test_the_step_minimises_torchs_weighted_mean(kit):
    task = kit.fit("classification", ROWS, balance="weights")
    encoded = task.encode(kit.rows(ROWS), kit.words, Purpose.LEARN)
    target = task.collate(encoded, range(len(encoded)), None)
    logits = torch.randn(len(encoded), 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = task.loss(logits, target)
    labels = torch.tensor([one.target for one in encoded])
    wanted = F.cross_entropy(logits, labels, weight=torch.tensor(task.criterion.weights))
    torch.testing.assert_close(loss.total / loss.weight, wanted, rtol=1e-6, atol=1e-6)
    assert (
        loss.weight == target.weight == pytest.approx(16.0)
    )  # balanced weights keep the sum over training rows
    got, by_torch = (torch.autograd.grad(one, logits)[0] for one in (loss.total / loss.weight, wanted))
    torch.testing.assert_close(got, by_torch, rtol=1e-6, atol=1e-7)


def test_a_yes_counts_as_torchs_pos_weight(kit):
    task = kit.fit("classification", kit.samples["multi_label"].rows, multi_label=True, balance="weights")
    assert task.criterion.weights == (1.0, 1.0)  # three rows of six have each
    few = kit.fit(
        "classification",
        [{"text": "x", "label": labels} for labels in (["a"], ["b"], ["b"], [])],
        multi_label=True,
        balance="weights",
    )
    assert few.criterion.weights == (3.0, 1.0)
    encoded = few.encode(
        kit.rows([{"text": "x", "label": ["a", "b"]}, {"text": "y", "label": []}]), kit.words, Purpose.LEARN
    )
    target = few.collate(encoded, [0, 1], None)
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]])
    wanted = F.binary_cross_entropy_with_logits(
        logits, target.values["labels"], pos_weight=torch.tensor([3.0, 1.0])
    )
    loss = few.loss(logits, target)
    torch.testing.assert_close(loss.total / loss.weight, wanted)
    assert loss.weight == 2.0


def test_words_of_rare_tags_count_more(kit):
    rows = [{"tokens": ["john", "works", "in", "paris"], "tags": ["B-X", "O", "O", "O"]}] * 2
    task = kit.fit("tagging", rows, balance="weights", loss="focal", gamma=1.0)
    weights = dict(zip(task.labels, task.criterion.weights, strict=True))
    assert (weights["O"], weights["B-X"], weights["I-X"]) == pytest.approx((8 / 12, 2.0, 1.0))
    network = kit.network(task)
    encoded = task.encode(kit.rows(rows), kit.words, Purpose.LEARN)
    found = []
    for packed in (False, True):
        batch = make_batch([("t", one) for one in encoded], {"t": task}, pad=0, packed=packed)
        found.append(Supervised({"t": task.loss})(batch, network)["t"])
        assert batch.targets["t"].weight == pytest.approx(8.0)
    torch.testing.assert_close(found[0].total, found[1].total, rtol=1e-5, atol=1e-6)
    logits = network(batch)["t"]
    probabilities = logits.softmax(-1).gather(1, batch.targets["t"].values["labels"][:, None])[:, 0]
    own = torch.tensor([weights[task.labels[at]] for at in batch.targets["t"].values["labels"]])
    wanted = -(own * (1 - probabilities) * probabilities.log()).sum()
    torch.testing.assert_close(found[1].total, wanted)


def test_rows_to_answer_have_no_weights(kit):
    task = kit.fit("classification", ROWS, balance="effective")
    asked = task.encode(kit.rows([{"text": "x"}]), kit.words, Purpose.ANSWER)
    target = task.collate(asked, [0], None)
    assert (target.weight, dict(target.values)) == (0.0, {})


@pytest.mark.parametrize(
    "keys",
    [
        {"balance": "weights", "smoothing": 0.1},
        {"balance": "effective", "beta": 0.9, "loss": "focal", "gamma": 1.5},
        {"balance": "sampling"},
    ],
)
def test_the_criterion_is_in_the_config_and_not_in_the_head(kit, keys):
    plain, task = kit.fit("classification", ROWS), kit.fit("classification", ROWS, **keys)
    config = json.loads(json.dumps(task.config()))
    assert type(task).from_config("t", config) == task != plain
    assert task.same_head(plain.config()) is None
    old = {key: value for key, value in plain.config().items() if key not in ("criterion", "draws_evenly")}
    assert type(plain).from_config("t", old) == plain  # of a bundle from before


def test_each_label_is_a_stratum_only_where_rows_are_sampled(kit):
    for balance, strata in (("none", {0}), ("weights", {0}), ("sampling", {0, 1, 2})):
        task = kit.fit("classification", ROWS, balance=balance)
        encoded = task.encode(kit.rows(ROWS), kit.words, Purpose.LEARN)
        assert {one.stratum for one in encoded} == strata


def test_imbalance_is_said_once_and_only_where_nothing_is_done(kit):
    golds = [row["label"] for row in ROWS]
    (line,) = kit.fit("classification", ROWS).warnings(golds)
    assert line.startswith("t: a has 12 training rows and c 1:")
    for balance in ("weights", "effective", "sampling"):
        assert kit.fit("classification", ROWS, balance=balance).warnings(golds) == ()
    assert imbalance("t", {"a": 19, "b": 2}) == ()
    assert imbalance("t", {"a": 19, "b": 0}) == ()


def test_smoothing_and_focal_change_the_loss_as_their_papers_say():
    logits, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    target = _target(labels)
    p = logits.softmax(-1)[0]
    focal = Criterion(gamma=2.0).loss(logits, target).total
    assert focal.item() == pytest.approx(-((1 - p[0]) ** 2 * p[0].log()).item(), rel=1e-6)
    smooth = Criterion(smoothing=0.3).loss(logits, target).total
    soft = torch.tensor([0.7 + 0.1, 0.1, 0.1])
    assert smooth.item() == pytest.approx(-(soft * p.log()).sum().item(), rel=1e-6)
    yes = torch.tensor([[1.0, 0.0, 0.0]])
    found = Criterion(smoothing=0.2).loss(logits, _target(yes)).total
    wanted = F.binary_cross_entropy_with_logits(logits, torch.tensor([[0.9, 0.1, 0.1]]))
    torch.testing.assert_close(found, wanted)
    assert math.isclose(Criterion().loss(logits, target).total.item(), -p[0].log().item(), rel_tol=1e-6)


def _target(labels):
    from weft.core.batch import Target

    return Target(torch.arange(len(labels)), {"labels": labels}, float(len(labels)), len(labels))
