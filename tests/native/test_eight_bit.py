"""Moments in a byte: bounds of the grid, rounding with the right mean, and AdamW on it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.native import eight_bit
from weft.native.eight_bit import BLOCK, CODES, SCALE, Rates, adamw, coded, decode, encode, wide

SIGNED, SQUARES = CODES["exp_avg"], CODES["exp_avg_sq"]
RATES = Rates(0.01, 0.9, 0.999, 1e-8, 0.1)
ONE, ZERO = torch.ones(()), torch.zeros(())


def numbers(count, *, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    size = torch.exp(spread * torch.randn(count, generator=generator))
    return size * torch.randn(count, generator=generator).sign()


@given(st.integers(1, 3 * BLOCK), st.integers(0, 99), st.floats(-30, 30))
@settings(deadline=None, max_examples=50)
def test_the_nearest_level_is_within_half_a_step_and_the_largest_value_exact(count, seed, power):
    values = numbers(count, seed=seed, spread=1.0) * 2.0**power
    back = decode(*encode(values, SIGNED), SIGNED)
    assert back.shape == values.shape
    for block, own in zip(values.split(BLOCK), back.split(BLOCK), strict=True):
        largest = block.abs().max()
        assert own[block.abs().argmax()].abs() == largest
        visible = block.abs() > largest * 2.0 ** (-126 / 8)
        error = ((own - block) / block)[visible].abs()
        assert error.numel() == 0 or float(error.max()) <= (2 ** (1 / 8) - 1) / 2 + 1e-5
        assert bool((own[~visible].abs() <= largest * 2.0 ** (-126 / 8)).all())
        assert bool((own * block >= 0).all())


def test_what_was_read_is_written_as_it_was():
    for code, values in ((SIGNED, numbers(1000)), (SQUARES, numbers(1000).square())):
        codes, scales = encode(values, code)
        again, same = encode(decode(codes, scales, code), code)
        assert torch.equal(again, codes)
        assert torch.equal(same, scales)


def test_zero_stays_zero_and_a_square_above_it_never_becomes_it():
    values = torch.tensor([0.0, 1.0, 1e-30, 0.0])
    assert decode(*encode(values, SIGNED), SIGNED).tolist() == [0.0, 1.0, 0.0, 0.0]
    squares = decode(*encode(values, SQUARES), SQUARES).tolist()
    assert squares[0] == squares[3] == 0.0
    assert squares[2] == pytest.approx(2.0 ** (-254 / 8))
    nothing = torch.zeros(300)
    assert torch.equal(decode(*encode(nothing, SQUARES), SQUARES), nothing)


@pytest.mark.parametrize("code", [SIGNED, SQUARES])
def test_rounding_by_chance_keeps_the_mean(code):
    value, count = 0.0371, 100_000
    values = torch.full((count,), value)
    values[::BLOCK] = 1.0
    chance = torch.rand(count, generator=torch.Generator().manual_seed(1))
    back = decode(*encode(values, code, chance_N=chance), code)[values < 1]
    levels = back.unique()
    assert len(levels) == 2
    assert float(levels[0]) < value < float(levels[1]) < float(levels[0]) * 1.1
    # A step is 9 % of the value: five standard errors of the mean of a hundred thousand.
    assert abs(float(back.double().mean()) / value - 1) < 5 * 0.045 / math.sqrt(count)


def fresh(count):
    return {"exp_avg": torch.zeros(count), "exp_avg_sq": torch.zeros(count), "step": torch.zeros(())}


def test_with_fp32_moments_it_is_torchs_adamw():
    weights = numbers(500, spread=0.1)
    theirs = torch.nn.Parameter(weights.clone())
    optimizer = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    ours, state = weights.clone(), fresh(500)
    for seed in range(5):
        grad = numbers(500, seed=seed)
        theirs.grad = grad / 2
        optimizer.step()
        adamw(ours, grad, state, RATES, grad_scale=torch.tensor(2.0), found_inf=ZERO)
    assert torch.allclose(ours, theirs.detach(), rtol=1e-5, atol=1e-7)
    assert state["step"] == 5


def test_a_skipped_step_changes_nothing():
    weights, state = numbers(5000), coded(fresh(5000))
    adamw(weights, numbers(5000, seed=1), state, RATES, grad_scale=ONE, found_inf=ZERO)
    before = {name: tensor.clone() for name, tensor in state.items()}
    kept = weights.clone()
    adamw(weights, torch.full((5000,), math.nan), state, RATES, grad_scale=ONE, found_inf=ONE)
    assert torch.equal(weights, kept)
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


def test_parts_of_a_large_tensor_are_the_whole(monkeypatch):
    results = []
    for chunk in (1 << 22, 4 * BLOCK):
        monkeypatch.setattr(eight_bit, "CHUNK", chunk)
        weights, state = numbers(5000), coded(fresh(5000))
        torch.manual_seed(3)
        adamw(weights, numbers(5000, seed=1, spread=1.0), state, RATES, grad_scale=ONE, found_inf=ZERO)
        results.append((weights, wide(state)))
    (first, one), (second, other) = results
    assert torch.equal(first, second)  # moments start at zero, so rounding has not touched the weights yet
    assert torch.allclose(one["exp_avg"], other["exp_avg"], rtol=0.1, atol=1e-3)  # drawn anew


def test_moments_in_bytes_solve_a_regression_as_fp32_ones_do():
    inputs = numbers(64 * 80, spread=0.2).view(64, 80)
    truth = numbers(80 * 60, seed=1, spread=0.2).view(80, 60)
    losses = []
    for make in (dict, coded):
        weights = torch.zeros(80 * 60)
        state = make(fresh(80 * 60))
        torch.manual_seed(0)
        for _ in range(600):
            gap = inputs @ (weights.view(80, 60) - truth)
            grad = (inputs.T @ gap).flatten() / 64
            adamw(weights, grad, state, Rates(0.02, 0.9, 0.999, 1e-8, 0.0), grad_scale=ONE, found_inf=ZERO)
        losses.append(float((inputs @ (weights.view(80, 60) - truth)).square().mean()))
    assert losses[0] < 1e-2
    assert losses[1] < 1e-2


def test_a_second_moment_falls_as_it_should():
    """Rounding to the nearest level would keep it where it is for ever."""
    state = coded(fresh(5120) | {"exp_avg_sq": torch.full((5120,), 1.0)})
    weights, still = torch.zeros(5120), torch.zeros(5120)
    torch.manual_seed(0)
    for _ in range(300):
        adamw(weights, still, state, RATES, grad_scale=ONE, found_inf=ZERO)
    assert float(wide(state)["exp_avg_sq"].mean()) == pytest.approx(0.999**300, rel=0.02)


def test_bytes_a_weight():
    state = coded(fresh(1 << 16))
    assert sum(t.nbytes for name, t in state.items() if name != "step") / (1 << 16) == 2 + 2 * 4 / BLOCK
    assert sorted(state) == ["exp_avg", "exp_avg" + SCALE, "exp_avg_sq", "exp_avg_sq" + SCALE, "step"]
