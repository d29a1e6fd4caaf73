"""Compiled attention against torch in fp64, and the plain fallback against both.

Shapes: T tokens of all rows, H query heads, K key/value heads, D head width, L tokens of one row.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.errors import ModelError
from weft.native import available
from weft.native.attention import attention
from weft.native.plain import Drop, Pattern, plain

needs_kernels = pytest.mark.skipif(not available(), reason="no compiled kernels: run `python hatch_build.py`")


def starts_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def tensors(lengths, heads, kv_heads, width, *, dtype=torch.float32, seed=0, transposed=True):
    """Leaves as stock models hand them on: views of (1, heads, T, D), so head and token strides are swapped."""
    generator = torch.Generator().manual_seed(seed)
    leaves = []
    for count in (heads, kv_heads, kv_heads):
        shape = (count, sum(lengths), width) if transposed else (sum(lengths), count, width)
        leaf = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
        leaves.append(leaf)
    return leaves, [leaf.transpose(0, 1) if transposed else leaf for leaf in leaves]


def reference(q_THD, k_TKD, v_TKD, lengths, window, scale):
    """Row by row, head by head, in the dtype of the inputs."""
    left, right = window
    rows = []
    parts = (x.split(list(lengths)) for x in (q_THD, k_TKD, v_TKD))
    for q_LHD, k_LKD, v_LKD in zip(*parts, strict=True):
        repeat = q_LHD.shape[1] // k_LKD.shape[1]
        k_LHD, v_LHD = (x.repeat_interleave(repeat, dim=1) for x in (k_LKD, v_LKD))
        scores_HLL = torch.einsum("ihd,jhd->hij", q_LHD, k_LHD) * scale
        i, j = torch.meshgrid(*(torch.arange(q_LHD.shape[0]),) * 2, indexing="ij")
        hidden = ((j < i - left) & (left >= 0)) | ((j > i + right) & (right >= 0))
        weights_HLL = scores_HLL.masked_fill(hidden, float("-inf")).softmax(-1)
        rows.append(torch.einsum("hij,jhd->ihd", weights_HLL, v_LHD))
    return torch.cat(rows)


def results(function, leaves, views, grad_THD):
    out = function(*views)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad_THD.to(out.dtype))]


lengths_of_rows = st.lists(st.integers(0, 70), min_size=1, max_size=5).filter(lambda rows: sum(rows) > 0)
windows = st.sampled_from([(-1, -1), (-1, 0), (0, -1), (3, 0), (5, 7), (40, 0), (0, 0)])


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(
    lengths=lengths_of_rows,
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    width=st.sampled_from([1, 7, 16, 31, 32, 64, 96, 130]),
    window=windows,
    transposed=st.booleans(),
)
def test_output_and_all_gradients_are_those_of_torch_in_fp64(
    lengths, kv_heads, group, width, window, transposed
):
    leaves, views = tensors(lengths, kv_heads * group, kv_heads, width, transposed=transposed)
    grad = torch.randn(views[0].shape, generator=torch.Generator().manual_seed(1))
    scale = width**-0.5
    ours = results(
        lambda *x: attention(*x, starts_of(lengths), max(lengths), scale=scale, window=window),
        leaves,
        views,
        grad,
    )
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    wide_views = [leaf.transpose(0, 1) if transposed else leaf for leaf in wide]
    exact = results(lambda *x: reference(*x, lengths, window, scale), wide, wide_views, grad)
    for mine, true in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(lengths=lengths_of_rows, kv_heads=st.integers(1, 2), group=st.integers(1, 2), window=windows)
def test_plain_torch_is_exact_too(lengths, kv_heads, group, window):
    leaves, views = tensors(lengths, kv_heads * group, kv_heads, 8)
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    wide_views = [leaf.transpose(0, 1) for leaf in wide]
    grad = torch.randn(views[0].shape, generator=torch.Generator().manual_seed(1))
    pattern = Pattern(starts_of(lengths), max(lengths), 0.3, window)
    mine = results(lambda *x: plain(*x, pattern), wide, wide_views, grad)
    exact = results(lambda *x: reference(*x, lengths, window, 0.3), wide, wide_views, grad)
    torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-12)


@needs_kernels
@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (20, 20)])
def test_bf16_stays_within_its_rounding(window):
    lengths = (5, 60, 115, 33)
    leaves, views = tensors(lengths, 4, 2, 64, dtype=torch.bfloat16)
    grad = torch.randn(views[0].shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    ours = results(
        lambda *x: attention(*x, starts_of(lengths), max(lengths), scale=0.125, window=window),
        leaves,
        views,
        grad,
    )
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    exact = results(
        lambda *x: reference(*x, lengths, window, 0.125),
        wide,
        [x.transpose(0, 1) for x in wide],
        grad.double(),
    )
    pattern = Pattern(starts_of(lengths), max(lengths), 0.125, window)
    eager = results(lambda *x: plain(*x, pattern), leaves, views, grad)
    for mine, theirs, true in zip(ours, eager, exact, strict=True):
        assert mine.dtype == torch.bfloat16
        # Half a unit in the last of 8 bits for the result, as much for the weights: 2^-8 of the typical size.
        error = float((mine.double() - true).square().mean().sqrt())
        assert error < 2**-8 * float(true.square().mean().sqrt())
        assert error < 1.05 * float((theirs.double() - true).square().mean().sqrt())


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_the_same_weights_in_both_hands_and_in_the_backward_pass(dtype):
    lengths = (7, 40, 90)
    leaves, views = tensors(lengths, 4, 2, 16, dtype=dtype)
    grad = torch.randn(views[0].shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    pattern = Pattern(starts_of(lengths), 90, 0.25, (-1, 0), Drop(0.3, 2**40 + 17))
    ours = results(
        lambda *x: attention(*x, pattern.starts, 90, scale=0.25, window=(-1, 0), drop=pattern.drop),
        leaves,
        views,
        grad,
    )
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    theirs = results(lambda *x: plain(*x, pattern), wide, [x.transpose(0, 1) for x in wide], grad.double())
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for mine, true in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=tolerance, atol=tolerance)


def test_dropout_keeps_the_expected_share_and_depends_on_the_seed():
    lengths = (200,) * 4
    _, views = tensors(lengths, 2, 2, 4)
    ones = torch.ones_like(views[2])
    first, again, other = (
        attention(*views[:2], ones, starts_of(lengths), 200, scale=0.0, drop=Drop(0.25, seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # Each output is the mean of 200 kept (4/3) or dropped (0) weights; the widths repeat them.
    share = first.detach()[..., 0].double()
    assert abs(float(share.mean()) - 1.0) < 4 * (0.25 / 0.75 / (200 * share.numel())) ** 0.5
    assert float(share.std()) == pytest.approx((0.25 / 0.75 / 200) ** 0.5, rel=0.1)


@needs_kernels
def test_bits_do_not_depend_on_the_number_of_threads(threads):
    lengths = tuple(range(1, 90, 7))
    leaves, views = tensors(lengths, 4, 2, 48)
    grad = torch.randn(views[0].shape, generator=torch.Generator().manual_seed(1))
    runs = []
    for count in (1, 2, 5):
        threads(count)
        runs.append(
            results(
                lambda *x: attention(
                    *x, starts_of(lengths), 90, scale=0.1, window=(30, 5), drop=Drop(0.1, 3)
                ),
                leaves,
                views,
                grad,
            )
        )
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


@pytest.mark.parametrize("function", ["attention", "plain"])
def test_rows_neither_see_nor_change_each_other(function):
    lengths = (9, 33, 16)
    leaves, views = tensors(lengths, 2, 1, 8)
    starts = starts_of(lengths)

    def call(q, k, v):
        if function == "plain":
            return plain(q, k, v, Pattern(starts, 33, 0.3, (-1, -1)))
        return attention(q, k, v, starts, 33, scale=0.3)

    grad = torch.randn(views[0].shape, generator=torch.Generator().manual_seed(1))
    clean = results(call, leaves, views, grad)
    with torch.no_grad():
        for leaf in leaves:
            leaf[:, 9:42] = float("nan")
    dirty = results(call, leaves, [leaf.transpose(0, 1) for leaf in leaves], grad)
    assert torch.equal(dirty[0][:9], clean[0][:9])
    assert torch.equal(dirty[0][42:], clean[0][42:])
    assert dirty[0][9:42].isnan().all()
    for mine, before in zip(dirty[1:], clean[1:], strict=True):
        assert torch.equal(mine[:, :9], before[:, :9])
        assert torch.equal(mine[:, 42:], before[:, 42:])


@needs_kernels
def test_a_row_alone_gives_the_bits_it_gives_among_others():
    lengths = (9, 33, 16)
    _, views = tensors(lengths, 2, 1, 8)
    together = attention(*views, starts_of(lengths), 33, scale=0.3)
    alone = attention(*(x[9:42] for x in views), starts_of((33,)), 33, scale=0.3)
    assert torch.equal(together[9:42], alone)


def test_long_rows_with_a_window_need_no_square():
    length = 5000
    _, views = tensors((length,), 1, 1, 8)
    out = attention(*views, starts_of((length,)), length, scale=0.3, window=(2, 0))
    tail = reference(*(x[-50:] for x in views), (50,), (2, 0), 0.3)
    torch.testing.assert_close(out[-40:], tail[-40:], rtol=1e-5, atol=1e-5)


def test_half_precision_and_doubles_take_the_plain_way():
    lengths = (4, 6)
    for dtype in (torch.float16, torch.float64):
        _, views = tensors(lengths, 2, 2, 8, dtype=dtype)
        out = attention(*views, starts_of(lengths), 6, scale=0.3)
        assert out.dtype == dtype
        exact = reference(*(x.double() for x in views), lengths, (-1, -1), 0.3)
        torch.testing.assert_close(out.double(), exact, rtol=1e-2, atol=1e-2)


def test_heads_and_starts_that_do_not_fit_are_refused():
    _, views = tensors((4, 6), 3, 2, 8)
    with pytest.raises(ModelError, match="multiple of key heads"):
        attention(*views, starts_of((4, 6)), 6, scale=0.3)
    _, views = tensors((4, 6), 2, 2, 8)
    for starts in ([0, 4], [0, 12, 10], [1, 10], [0, -1, 10]):
        with pytest.raises(ModelError, match="starts must rise from 0 to the 10 tokens"):
            attention(*views, torch.tensor(starts, dtype=torch.int32), 6, scale=0.3)
    with pytest.raises(ModelError, match="dropout must lie in"):
        attention(*views, starts_of((4, 6)), 6, scale=0.3, drop=Drop(1.0))
