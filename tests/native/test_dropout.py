"""Dropout: its statistics, its gradient and that a seed says everything."""

from __future__ import annotations

import pytest
import torch

from weft.errors import ModelError
from weft.native import available
from weft.native.dropout import dropout

needs_kernels = pytest.mark.skipif(not available(), reason="no compiled kernels: run `python hatch_build.py`")
hands = pytest.mark.parametrize("native", [pytest.param(True, marks=needs_kernels), False])
MILLION = 1_000_000


@pytest.fixture
def choose(monkeypatch):
    def use(native):
        if not native:
            monkeypatch.setattr("weft.native.dropout.use_native", lambda *_: None)

    return use


def kept(p, seed, count=MILLION):
    return (dropout(torch.ones(count), p, seed) != 0).double()


@hands
@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_the_share_kept_is_within_four_standard_errors(choose, native, p):
    choose(native)
    error = (p * (1 - p) / MILLION) ** 0.5
    for seed in (0, 1, 2**63 + 5):
        assert abs(float(kept(p, seed).mean()) - (1 - p)) < 4 * error


@needs_kernels
@pytest.mark.parametrize("lag", [1, 2, 3, 16, 64, 384, 1 << 14])
def test_neighbours_are_not_correlated(lag):
    centred = kept(0.3, 7) - 0.7
    correlation = (centred[:-lag] * centred[lag:]).mean() / 0.21
    assert abs(float(correlation)) < 4 / MILLION**0.5


@needs_kernels
@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 2), (5, 5 + 2**32), (3, 2**63)])
def test_seeds_are_independent(first, second):
    correlation = ((kept(0.3, first) - 0.7) * (kept(0.3, second) - 0.7)).mean() / 0.21
    assert abs(float(correlation)) < 4 / MILLION**0.5


@needs_kernels
def test_runs_of_kept_elements_are_as_long_as_chance_makes_them():
    keep = kept(0.5, 11).long()
    words = keep[: MILLION // 8 * 8].view(-1, 8) @ (2 ** torch.arange(8))
    counts = torch.bincount(words, minlength=256).double()
    expected = counts.sum() / 256
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5


@hands
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 15, 100, 40_001])
def test_gradient_passes_where_the_value_passed(choose, native, dtype, count):
    choose(native)
    x = torch.linspace(1, 2, count).to(dtype).requires_grad_()
    y = dropout(x, 0.25, 3)
    (grad,) = torch.autograd.grad(y, x, torch.full_like(y, 3.0))
    passed = y != 0
    assert y.dtype == dtype
    assert torch.equal(grad, torch.where(passed, 3.0 / 0.75, 0.0).to(dtype))
    torch.testing.assert_close(y, torch.where(passed, x / 0.75, 0.0).to(dtype), rtol=8e-3, atol=0)
    assert torch.equal(dropout(x, 0.25, 3), y)
    if count > 50:
        assert not torch.equal(dropout(x, 0.25, 4), y)


@needs_kernels
def test_bits_do_not_depend_on_the_number_of_threads(threads):
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    masks = []
    for count in (1, 2, 3):
        threads(count)
        masks.append(dropout(x, 0.1, 9))
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


@needs_kernels
def test_strides_change_nothing():
    x = torch.randn(60, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dropout(x.t(), 0.5, 1), dropout(x.t().contiguous(), 0.5, 1))


def test_nothing_is_dropped_at_zero_and_one_is_refused():
    x = torch.randn(5)
    assert dropout(x, 0.0, 1) is x
    with pytest.raises(ModelError, match="p must lie in"):
        dropout(x, 1.0, 1)
