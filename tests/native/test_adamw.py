"""One-pass AdamW against torch's own, and the norm of the gradients."""

from __future__ import annotations

import pytest
import torch

from weft.native import available, library
from weft.native.adamw import Step, adamw, sum_of_squares

needs_kernels = pytest.mark.skipif(not available(), reason="no compiled kernels: run `python hatch_build.py`")
SHAPES = [(7,), (33, 5), (129,), (300, 130), (1,)]


def state(seed=0, twins=True):
    generator = torch.Generator().manual_seed(seed)
    params = [torch.randn(shape, generator=generator) for shape in SHAPES]
    moments = [[torch.zeros(shape) for shape in SHAPES] for _ in range(2)]
    return params, *moments, [p.bfloat16() if twins and i % 2 else None for i, p in enumerate(params)]


def gradients(step, dtype):
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=generator).mul(3.0 / step).to(dtype) for shape in SHAPES]


def walk(num_steps, *, dtype=torch.float32, grad_scale=1.0, weight_decay=0.1):
    params, exp_avgs, exp_avg_sqs, twins = state()
    for number in range(1, num_steps + 1):
        step = Step(1e-2 / number, 0.9, 0.99, 1e-8, weight_decay, number)
        grads = gradients(number, dtype)
        before = [grad.clone() for grad in grads]
        adamw(
            params,
            grads,
            exp_avgs=exp_avgs,
            exp_avg_sqs=exp_avg_sqs,
            step=step,
            twins=twins,
            grad_scale=grad_scale,
        )
        assert all(torch.equal(a, b) for a, b in zip(grads, before, strict=True))
    return params, exp_avgs, exp_avg_sqs, twins


def torch_walk(num_steps, *, dtype, grad_scale, weight_decay):
    params = [torch.nn.Parameter(p.clone()) for p in state()[0]]
    optimizer = torch.optim.AdamW(params, betas=(0.9, 0.99), eps=1e-8, weight_decay=weight_decay, fused=True)
    for number in range(1, num_steps + 1):
        optimizer.param_groups[0]["lr"] = 1e-2 / number
        for param, grad in zip(params, gradients(number, dtype), strict=True):
            param.grad = grad.float() / grad_scale
        optimizer.step()
    states = [optimizer.state[p] for p in params]
    return [p.detach() for p in params], [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_kernels), False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("grad_scale", "weight_decay"), [(1.0, 0.1), (8.0, 0.0)])
def test_many_steps_are_torchs_fused_adamw(monkeypatch, native, dtype, grad_scale, weight_decay):
    if not native:
        monkeypatch.setattr("weft.native.adamw.library", lambda: None)
    ours = walk(12, dtype=dtype, grad_scale=grad_scale, weight_decay=weight_decay)
    theirs = torch_walk(12, dtype=dtype, grad_scale=grad_scale, weight_decay=weight_decay)
    for mine, torchs in zip(ours[:3], theirs, strict=True):
        for a, b in zip(mine, torchs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * float(b.abs().mean()))
    for param, twin in zip(ours[0], ours[3], strict=True):
        assert twin is None or torch.equal(twin, param.bfloat16())


def test_first_step_moves_by_the_learning_rate_against_the_sign():
    param, moment, square = torch.tensor([1.0, -2.0]), torch.zeros(2), torch.zeros(2)
    adamw(
        [param],
        [torch.tensor([5.0, -0.1])],
        exp_avgs=[moment],
        exp_avg_sqs=[square],
        step=Step(0.01, 0.9, 0.999, 1e-12, 0.5, 1),
    )
    torch.testing.assert_close(param, torch.tensor([1.0 * 0.995 - 0.01, -2.0 * 0.995 + 0.01]))
    torch.testing.assert_close(moment, torch.tensor([0.5, -0.01]))
    torch.testing.assert_close(square, torch.tensor([0.025, 1e-5]))


@needs_kernels
def test_bits_do_not_depend_on_the_number_of_threads(threads):
    runs = []
    for count in (1, 2, 3):
        threads(count)
        runs.append(walk(3))
    for run in runs[1:]:
        for mine, first in zip(run[:3], runs[0][:3], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, first, strict=True))


@needs_kernels
def test_tensors_the_kernel_cannot_read_are_updated_all_the_same():
    def run(transposed):
        param, moment, square = torch.ones(6, 4), torch.zeros(6, 4), torch.zeros(6, 4)
        grad = torch.arange(24.0).view(6, 4) - 7
        parts = [(x.t().contiguous().t() if transposed else x) for x in (param, grad, moment, square)]
        adamw(
            [parts[0]],
            [parts[1]],
            exp_avgs=[parts[2]],
            exp_avg_sqs=[parts[3]],
            step=Step(0.1, 0.9, 0.99, 1e-8, 0.1, 1),
        )
        return parts[0]

    torch.testing.assert_close(run(True), run(False))


@needs_kernels
def test_autograd_notices_that_a_parameter_changed_under_it():
    param = torch.nn.Parameter(torch.ones(3))
    loss = (param * param).sum()
    zeros = [torch.zeros(3)], [torch.zeros(3)]
    adamw(
        [param],
        [torch.ones(3)],
        exp_avgs=zeros[0],
        exp_avg_sqs=zeros[1],
        step=Step(0.1, 0.9, 0.99, 1e-8, 0.0, 1),
    )
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_kernels), False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sum_of_squares_is_that_of_doubles(monkeypatch, threads, native, dtype):
    if not native:
        monkeypatch.setattr("weft.native.adamw.library", lambda: None)
    generator = torch.Generator().manual_seed(0)
    strided, long = torch.randn(5, 3, generator=generator).t(), torch.randn(40_000, generator=generator)
    grads = [*gradients(1, dtype), strided.to(dtype), long.to(dtype)]
    exact = sum(float(grad.double().square().sum()) for grad in grads)
    sums = []
    for count in (1, 2, 3):
        threads(count)
        sums.append(sum_of_squares(grads))
    assert sums[0] == pytest.approx(exact, rel=1e-6)
    assert not native or sums == [sums[0]] * 3
    assert sum_of_squares([]) == 0.0


def test_sum_of_squares_of_what_is_not_finite_is_not_finite():
    assert sum_of_squares([torch.ones(5), torch.tensor([1.0, float("inf")])]) == float("inf")
    assert sum_of_squares([torch.tensor([float("nan")]), torch.ones(5)]) != sum_of_squares([torch.ones(5)])


def test_the_choice_is_the_librarys():
    assert available() == (library.library() is not None)
