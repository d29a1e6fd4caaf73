"""Thin products of the kernels against the formula in double precision: values, gradients, what is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import weft.native.low_rank as subject
from weft.native import available
from weft.native.library import load
from weft.native.low_rank import MOST_RANKS, Thin, add, gradients, new_narrow, thin

pytestmark = pytest.mark.skipif(not available(), reason="no compiled kernels: run `python hatch_build.py`")

SINGLE, HALF = torch.float32, torch.bfloat16
SCALE = 0.7
Shape = tuple[int, int, int, int]


def drawn(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Case:
    """Inputs of both passes, for (T, I, O, R)."""

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        T, I, O, R = shape  # noqa: E741
        self.x, self.g = drawn(T, I, seed=1, dtype=dtype), drawn(T, O, seed=2, dtype=dtype)
        self.A, self.B = drawn(R, I, seed=3, dtype=dtype), drawn(O, R, seed=4, dtype=dtype)
        self.y, self.dx = drawn(T, O, seed=5, dtype=dtype), drawn(T, I, seed=6, dtype=dtype)
        update = thin(self.A, self.B, SCALE)
        assert update is not None
        self.update = update

    def found(self) -> dict[str, Tensor]:
        y, dx, narrow = self.y.clone(), self.dx.clone(), new_narrow(self.update, self.x)
        add(self.update, self.x, y, narrow=narrow)
        dA, dB = gradients(self.update, self.g, inputs=self.x, narrow=narrow, d_inputs=dx)
        assert dA is not None
        assert dB is not None
        return {"y": y, "dx": dx, "dA": dA, "dB": dB}

    def expected(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each result, and the sum of the sizes of what it is the sum of."""
        tensors = self.x, self.g, self.A, self.B, self.y, self.dx
        return dict(zip(("y", "dx", "dA", "dB"), zip(formula(*tensors), formula(*map(abs, tensors)), strict=True), strict=True))  # fmt: skip


def formula(*tensors: Tensor) -> tuple[Tensor, ...]:
    x, g, A, B, y, dx = (tensor.double() for tensor in tensors)
    n, gB = SCALE * x @ A.t(), SCALE * g @ B
    return y + n @ B.t(), dx + gB @ A, gB.t() @ x, g.t() @ n


def check(case: Case) -> None:
    is_single = case.x.dtype is SINGLE
    for name, found in case.found().items():
        value, size = case.expected()[name]
        assert found.dtype is case.x.dtype, name
        # fp32: sums of a few thousand terms. bf16: the narrow side and the result are rounded, 2^-8 each.
        bound = 1e-6 * size if is_single else 1.01 * 2**-8 * (size + value.abs())
        assert bool(((found.double() - value).abs() <= bound + 1e-30).all()), name


sizes = st.one_of(st.integers(1, 70), st.sampled_from([16, 32, 64, 96, 128, 200]))


@settings(max_examples=120, deadline=None)
@given(
    shape=st.tuples(sizes, sizes, sizes, st.integers(1, MOST_RANKS)), dtype=st.sampled_from([SINGLE, HALF])
)
def test_values_and_gradients_are_those_of_the_formula(shape: Shape, dtype: torch.dtype) -> None:
    check(Case(shape, dtype))


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
@pytest.mark.parametrize("shape", [(704, 384, 384, 8), (1, 384, 1536, 8), (333, 1536, 384, 16), (5, 3, 2, 1)])
def test_sizes_of_real_layers(shape: Shape, dtype: torch.dtype) -> None:
    check(Case(shape, dtype))


@pytest.mark.parametrize("variant", ["avx512bf16", "avx512", "avx2", "generic"])
@pytest.mark.parametrize("dtype", [SINGLE, HALF])
def test_every_instruction_set_computes_the_formula(monkeypatch, variant: str, dtype: torch.dtype) -> None:
    known = subject.library()
    assert known is not None
    names = ("avx512bf16", "avx512", "avx2", "generic")
    library = load(Path(known.kernels._name).with_name(f"{variant}.so"))
    if library is None or names.index(variant) < names.index(known.variant):
        pytest.skip(f"{variant} is not for this machine")
    monkeypatch.setattr(subject, "library", lambda: library)
    for shape in ((70, 50, 37, 5), (33, 64, 96, 8), (2, 7, 1, 64), (65, 40, 130, 12)):
        check(Case(shape, dtype))


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
def test_bits_do_not_depend_on_the_number_of_threads(threads, dtype: torch.dtype) -> None:
    case = Case((301, 200, 333, 12), dtype)
    threads(1)
    alone = case.found()
    for count in (2, 3, 7):
        threads(count)
        for name, tensor in case.found().items():
            assert torch.equal(tensor, alone[name]), name


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
def test_bits_of_a_token_do_not_depend_on_the_tokens_beside_it(dtype: torch.dtype) -> None:
    case = Case((75, 90, 50, 7), dtype)
    together, some = case.y.clone(), case.y[40:53].clone()
    add(case.update, case.x, together)
    add(case.update, case.x[40:53], some)
    assert torch.equal(together[40:53], some)


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
def test_only_what_is_asked_for_is_computed_and_has_the_same_bits(dtype: torch.dtype) -> None:
    case = Case((45, 60, 34, 3), dtype)
    full = case.found()
    narrow, y = new_narrow(case.update, case.x), case.y.clone()
    add(case.update, case.x, y, narrow=narrow)
    plain = case.y.clone()
    add(case.update, case.x, plain)
    assert torch.equal(plain, full["y"])
    dA, dB = gradients(case.update, case.g, inputs=case.x, narrow=None, d_inputs=None)
    assert dB is None
    assert torch.equal(dA, full["dA"])
    dA, dB = gradients(case.update, case.g, inputs=None, narrow=narrow, d_inputs=None)
    assert dA is None
    assert torch.equal(dB, full["dB"])
    dx = case.dx.clone()
    assert gradients(case.update, case.g, inputs=None, narrow=None, d_inputs=dx) == (None, None)
    assert torch.equal(dx, full["dx"])


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
def test_nothing_beside_the_results_is_written(dtype: torch.dtype) -> None:
    case = Case((37, 35, 33, 3), dtype)
    for name, width in (("y", 33), ("dx", 35)):
        guarded = torch.full((39 * width,), 7.0, dtype=dtype)
        setattr(case, name, guarded[width:-width].view(37, width))
        if name == "y":
            add(case.update, case.x, case.y)
        else:
            gradients(case.update, case.g, inputs=None, narrow=None, d_inputs=case.dx)
        assert bool((guarded[:width] == 7).all())
        assert bool((guarded[-width:] == 7).all())
        assert not bool((guarded[width:-width] == 7).all())


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
def test_a_zero_update_adds_nothing_and_what_is_not_finite_stays_with_its_token(dtype: torch.dtype) -> None:
    case = Case((40, 40, 40, 5), dtype)
    zero = thin(case.A, torch.zeros_like(case.B), SCALE)
    assert zero is not None
    y = case.y.clone()
    add(zero, case.x, y)
    assert torch.equal(y, case.y)
    case.x[17, 3] = torch.nan
    add(case.update, case.x, y)
    assert y.isnan().all(1).nonzero().flatten().tolist() == [17]
    assert y.isnan().any(1).sum() == 1


def test_no_tokens_give_zero_gradients() -> None:
    found = Case((0, 10, 12, 3), SINGLE).found()
    assert found["dA"].abs().sum() == 0
    assert found["dB"].abs().sum() == 0


def test_what_the_kernels_cannot_read_is_not_theirs(monkeypatch) -> None:
    A, B = torch.zeros(2, 6), torch.zeros(5, 2)
    assert isinstance(thin(A, B, 1.0), Thin)
    assert thin(A.double(), B.double(), 1.0) is None
    assert thin(A.to("meta"), B.to("meta"), 1.0) is None
    assert thin(torch.zeros(6, 2).t(), B, 1.0) is None
    assert thin(A, torch.zeros(2, 5).t(), 1.0) is None
    assert thin(torch.zeros(MOST_RANKS + 1, 6), torch.zeros(5, MOST_RANKS + 1), 1.0) is None
    monkeypatch.setattr(subject, "library", lambda: None)
    assert thin(A, B, 1.0) is None
