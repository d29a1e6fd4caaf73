"""The temperature: found again where it is known, of a handful of rows near one, folded into the head's weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from weft.core.example import Answer
from weft.metric.calibration import label_calibration
from weft.task.temperature import (
    MOST,
    fit_choice,
    fit_order,
    fit_yes,
    softmax,
    table_of,
    tempered_choice,
    tempered_order,
    tempered_yes,
)


def drawn(temperature, *, num=4000, seed=0):
    """Return logits that are ``temperature`` times too large, and classes drawn from the true probabilities."""
    random = np.random.default_rng(seed)
    true = random.normal(0, 2, (num, 3))
    golds = np.array([random.choice(3, p=row) for row in softmax(true)])
    return true * temperature, golds


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found_again(temperature):
    logits, golds = drawn(temperature)
    assert fit_choice(softmax(logits), golds) == pytest.approx(temperature, rel=0.05)


def ordered(logits):
    """Return classes' probabilities of what is log odds of P(class > k), falling with k."""
    above = 1 / (1 + np.exp(-logits))
    return -np.diff(np.column_stack([np.ones(len(above)), above, np.zeros(len(above))]), axis=1)


def thresholds(num, seed=0):
    random = np.random.default_rng(seed)
    odds = random.normal(0, 1.2, (num, 1)) - np.array([[-1.5, 0.0, 1.5]])
    golds = np.array([random.choice(4, p=row) for row in ordered(odds)])
    return odds, golds


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_of_ordered_classes_is_found_again(temperature):
    odds, golds = thresholds(4000)
    given = ordered(odds * temperature)
    found = fit_order(given, golds)
    assert found == pytest.approx(temperature, rel=0.05)
    np.testing.assert_allclose(tempered_order(given, temperature), ordered(odds), atol=1e-6)


def test_ordered_classes_have_the_minimum_of_the_likelihood_and_its_prior():
    odds, golds = thresholds(60, seed=3)
    given = ordered(odds * 3.0)

    def posterior(u):
        return -np.log(tempered_order(given, np.exp(u))[np.arange(60), golds]).sum() + u**2 / 2

    wanted = np.exp(minimize_scalar(posterior, bounds=(-2, 2), method="bounded", options={"xatol": 1e-9}).x)
    assert fit_order(given, golds) == pytest.approx(wanted, rel=1e-3)


def test_the_class_in_the_middle_stays_and_no_probability_is_negative():
    random = np.random.default_rng(5)
    given = random.dirichlet([0.3] * 5, 500)
    for temperature in (0.1, 0.7, 1.0, 4.0, 10.0):
        found = tempered_order(given, temperature)
        assert found.min() >= 0
        np.testing.assert_allclose(found.sum(1), 1)
        assert ((np.cumsum(found, 1) < 0.5).sum(1) == (np.cumsum(given, 1) < 0.5).sum(1)).all()
    certain = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert not np.signbit(tempered_order(certain, 3.0)).any(), "no answer says -0.0"
    assert 0.1 <= fit_order(certain, np.array([1, 0, 2])) <= 1
    assert fit_order(certain, np.array([0, 1, 0])) == pytest.approx(MOST, rel=0.5)


def test_it_is_the_minimum_of_the_likelihood_and_its_prior():
    logits, golds = drawn(3.0, num=50)

    def posterior(u):
        logs = np.log(softmax(logits / np.exp(u)))
        return -logs[np.arange(50), golds].sum() + u**2 / 2

    wanted = np.exp(minimize_scalar(posterior, bounds=(-2, 2), method="bounded", options={"xatol": 1e-9}).x)
    assert fit_choice(softmax(logits), golds) == pytest.approx(wanted, rel=1e-3)


def test_a_few_rows_all_right_do_not_make_it_certain():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.95, 0.05]])
    assert 0.5 < fit_choice(probabilities, np.array([0, 1, 0])) < 1
    many = np.tile(probabilities, (2000, 1))
    assert fit_choice(many, np.tile([0, 1, 0], 2000)) < 0.2
    assert fit_choice(many, 1 - np.tile([0, 1, 0], 2000)) == pytest.approx(MOST, rel=1e-3)


def test_yes_and_no_have_one_temperature_too():
    random = np.random.default_rng(1)
    true = random.normal(0, 1.5, (3000, 4))
    golds = (random.random((3000, 4)) < 1 / (1 + np.exp(-true))).astype(float)
    found = fit_yes(1 / (1 + np.exp(-2 * true)), golds)
    assert found == pytest.approx(2.0, rel=0.06)


def test_probabilities_at_the_ends_stay_finite():
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    for found in (tempered_choice(sure, 3.0), tempered_yes(sure, 3.0)):
        assert np.isfinite(found).all()
    assert np.isfinite(fit_choice(sure, np.array([0, 0])))
    assert np.isfinite(fit_yes(sure, sure))


def test_rows_may_have_classes_of_their_own_number():
    random = np.random.default_rng(3)
    rows = [softmax(random.normal(0, 3, (1, num)))[0] for num in (2, 3, 4) * 200]
    answers = [Answer(label="A", probabilities=dict(zip("ABCD", row.tolist(), strict=False))) for row in rows]
    table = table_of(answers)
    assert table.shape == (600, 4)
    assert np.isnan(table).sum() == 600
    golds = np.array([random.choice(len(row), p=tempered_choice(row[None], 2.0)[0]) for row in rows])
    assert fit_choice(table, golds) == pytest.approx(2.0, rel=0.15)
    cooled = tempered_choice(table, 2.0)
    assert (cooled[np.isnan(table)] == 0).all()
    for row, own in zip(rows, cooled, strict=True):
        assert own[: len(row)] == pytest.approx(tempered_choice(row[None], 2.0)[0])


@pytest.mark.parametrize("name", ["pairs", "multi_label", "choice"])
def test_the_fitted_task_answers_what_it_said_it_would(kit, name):
    """Its head divides by the temperature; so do the weights that a stock model gets."""
    bench = kit.bench(name)
    network = kit.network(bench.task)
    with torch.no_grad():
        network.heads[name].out.weight.mul_(200)
    before = kit.answers(network, bench.task, bench.ask)
    golds = [one.gold for one in bench.ask]
    task, promised = bench.task.calibrated(golds, before)
    assert task.temperature != 1
    fitted = kit.network(task, trunk=network.trunk, seed=9)
    fitted.heads[name].load_state_dict(network.heads[name].state_dict())
    for answer, wanted, old in zip(kit.answers(fitted, task, bench.ask), promised, before, strict=True):
        assert answer.label == wanted.label == old.label
        assert answer.probabilities == pytest.approx(wanted.probabilities, abs=2e-4)
    folded, plain = fitted.heads[name].stock_weights(), network.heads[name].stock_weights()
    for key, value in plain.items():
        torch.testing.assert_close(folded[key] * task.temperature, value)
    again = type(task).from_config(name, json.loads(json.dumps(task.config())))
    assert again == task
    assert task.same_head(bench.task.config()) is None


def test_calibration_may_be_left_out(kit):
    rows = kit.samples["classification"].rows
    task = kit.fit("classification", rows, calibration="none")
    answers = [Answer(label="pos", probabilities={"neg": 0.1, "pos": 0.9})] * 2
    assert task.calibrated(["pos", "neg"], answers) == (task, answers)
    assert kit.fit("classification", rows).calibrated([], []) == (kit.fit("classification", rows), [])


def test_it_brings_the_calibration_error_down():
    logits, golds = drawn(4.0)
    fresh, fresh_golds = drawn(4.0, seed=5)
    temperature = fit_choice(softmax(logits), golds)

    def error(probabilities):
        answers = [
            Answer(label=str(row.argmax()), probabilities={str(at): p for at, p in enumerate(row.tolist())})
            for row in probabilities
        ]
        return label_calibration().value([str(gold) for gold in fresh_golds], answers)

    assert error(softmax(fresh)) > 0.15
    assert error(tempered_choice(softmax(fresh), temperature)) < 0.03
