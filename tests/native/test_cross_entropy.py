"""Cross entropy whose gradient takes the place of the logits: torch's loss and gradient, and nobody misled."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.native import available
from weft.native.cross_entropy import IGNORED, cross_entropy

BF16 = torch.bfloat16
needs_kernels = pytest.mark.skipif(not available(), reason="no compiled kernels: run `python hatch_build.py`")


def reference(logits_RV, labels_R):
    wide_RV = logits_RV.double().requires_grad_()
    total = F.cross_entropy(wide_RV, labels_R, reduction="sum", ignore_index=IGNORED)
    return total.detach(), torch.autograd.grad(total, wide_RV)[0]


def found(logits_RV, labels_R, factor=1.0):
    leaf_RV = logits_RV.clone().requires_grad_()
    total = cross_entropy(leaf_RV * 1.0, labels_R)
    return total.detach(), torch.autograd.grad(factor * total, leaf_RV)[0]


@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 300),
    scale=st.sampled_from([0.1, 3.0, 40.0]),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_loss_and_gradient_are_those_of_torch(dtype, rows, width, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    logits_RV = (scale * torch.randn(rows, width, generator=generator)).to(dtype)
    labels_R = torch.randint(0, width, (rows,), generator=generator)
    labels_R[torch.rand(rows, generator=generator) < 0.2] = IGNORED
    total, grad_RV = found(logits_RV, labels_R)
    expected, expected_RV = reference(logits_RV, labels_R)
    assert total.dtype is torch.float32
    torch.testing.assert_close(total.double(), expected, rtol=2e-6, atol=2e-6)
    # The exponent of a logit of 100 has lost 100 * 2^-24 already, and that is the relative error of its exponential.
    rtol, atol = (1e-5, 2e-6 + 1e-7 * scale) if dtype is torch.float32 else (4e-3, 1e-5)
    torch.testing.assert_close(grad_RV.double(), expected_RV, rtol=rtol, atol=atol)
    with torch.no_grad():
        kept_RV = logits_RV.clone()
        torch.testing.assert_close(cross_entropy(kept_RV, labels_R), total, rtol=1e-6, atol=1e-6)
        assert torch.equal(kept_RV, logits_RV), "without a gradient the logits stay as they are"


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_kernels), False])
def test_a_factor_reaches_the_gradient(native, monkeypatch):
    if not native:
        monkeypatch.setattr("weft.native.cross_entropy.use_native", lambda *_: None)
    logits_RV, labels_R = torch.randn(3, 50), torch.tensor([0, 7, IGNORED])
    _, once_RV = found(logits_RV, labels_R)
    _, thrice_RV = found(logits_RV, labels_R, factor=3.0)
    torch.testing.assert_close(thrice_RV, 3 * once_RV)
    assert not once_RV[2].any()


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_kernels), False])
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_weights_multiply_losses_and_gradients_row_by_row(native, dtype, monkeypatch):
    if not native:
        monkeypatch.setattr("weft.native.cross_entropy.use_native", lambda *_: None)
    logits_RV = torch.randn(5, 70, generator=torch.Generator().manual_seed(3)).to(dtype)
    labels_R, weights_R = torch.tensor([1, 0, IGNORED, 69, 5]), torch.tensor([1.0, 0.5, 3.0, 0.0, 2.0])
    leaf_RV, wide_RV = logits_RV.clone().requires_grad_(), logits_RV.double().requires_grad_()
    total = cross_entropy(leaf_RV * 1.0, labels_R, weights_R)
    losses_R = F.cross_entropy(wide_RV, labels_R, reduction="none", ignore_index=IGNORED)
    expected = (losses_R * weights_R).sum()
    torch.testing.assert_close(total.double(), expected, rtol=2e-6, atol=2e-6)
    rtol, atol = (1e-5, 2e-6) if dtype is torch.float32 else (1e-2, 1e-5)
    grads = (
        torch.autograd.grad(2.0 * loss, leaf)[0] for loss, leaf in ((total, leaf_RV), (expected, wide_RV))
    )
    got_RV, wanted_RV = grads
    torch.testing.assert_close(got_RV.double(), wanted_RV, rtol=rtol, atol=atol)
    with torch.no_grad():
        torch.testing.assert_close(cross_entropy(logits_RV.clone(), labels_R, weights_R), total)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_what_is_not_finite_is_seen_in_the_loss(odd):
    logits_RV = torch.randn(2, 50)
    logits_RV[1, 30] = odd
    assert math.isnan(cross_entropy(logits_RV, torch.tensor([0, 1])))


def test_an_impossible_token_costs_nothing():
    logits_RV = torch.zeros(1, 33)
    logits_RV[0, 1:] = -math.inf
    total, grad_RV = found(logits_RV, torch.tensor([0]))
    assert total == 0.0
    assert not grad_RV.any()


@needs_kernels
def test_whoever_kept_the_logits_gets_an_error():
    states_RD = torch.randn(2, 40, requires_grad=True)
    logits_RV = states_RD.tanh()  # keeps what it returns for its own gradient
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        cross_entropy(logits_RV, torch.tensor([0, 1])).backward()


@needs_kernels
def test_threads_change_no_bit():
    logits_RV, labels_R = torch.randn(33, 1000).to(BF16), torch.randint(0, 1000, (33,))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(found(logits_RV, labels_R))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
