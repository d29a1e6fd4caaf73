"""Updates on runs of tokens by the compiled kernels against the formula written out: values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategy.test_low_rank import KINDS, drawn, made, needs_kernels, plain
from torch import Tensor

from weft.core.layout import Layout
from weft.core.routing import NONE, Routing
from weft.native import low_rank as native
from weft.strategy.low_rank_runs import Run, routed_runs, with_runs

pytestmark = needs_kernels
I, O, T = 24, 40, 60  # noqa: E741 (widths by their letters)
SCALES = (2.0, 0.5, 1.0)
bounds = st.tuples(st.integers(0, T - 1), st.integers(1, T)).map(
    lambda pair: slice(pair[0], pair[0] + pair[1])
)


def factors(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return A and B of three updates of ranks 1, 8 and 3."""
    return [
        drawn(*shape, seed=10 * at + side, dtype=dtype).requires_grad_()
        for at, rank in enumerate((1, 8, 3))
        for side, shape in enumerate(((rank, I), (O, rank)))
    ]


def updates(own: list[Tensor]) -> list[native.Thin]:
    found = [native.thin(own[2 * at], own[2 * at + 1], scale) for at, scale in enumerate(SCALES)]
    return [update for update in found if update is not None]


def by_formula(module, inputs: Tensor, own: list[Tensor], runs: list[Run]) -> Tensor:
    rows_TI = inputs.flatten(0, -2)
    zeros = [0 * own[2 * at].sum() + 0 * own[2 * at + 1].sum() for at in range(3)]
    outputs = plain(module, rows_TI, own[0], own[1], 0.0) + torch.stack(zeros).sum()
    for run in runs:
        tokens = run.tokens or slice(None)
        A_RI, B_OR = own[2 * run.update], own[2 * run.update + 1]
        added = torch.zeros_like(outputs)
        added[tokens] = rows_TI[tokens] @ A_RI.t() @ B_OR.t() * SCALES[run.update]
        outputs = outputs + added
    return outputs.view(*inputs.shape[:-1], -1)


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(KINDS),
    runs=st.lists(st.builds(Run, st.integers(0, 2), st.none() | bounds), max_size=5),
    trained=st.sets(st.sampled_from(["inputs", "module", "factors", "last"])),
)
def test_values_and_gradients_are_those_of_the_formula(kind: str, runs: list[Run], trained: set[str]) -> None:
    runs = [Run(run.update, run.tokens and slice(run.tokens.start, min(run.tokens.stop, T))) for run in runs]
    module, own = made(kind, I, O).requires_grad_("module" in trained), factors()
    inputs = drawn(1, T, I, seed=1).requires_grad_("inputs" in trained)
    for at, factor in enumerate(own):
        factor.requires_grad_("factors" in trained or ("last" in trained and at == len(own) - 1))
    asked = [tensor for tensor in (inputs, *module.parameters(), *own) if tensor.requires_grad]
    outputs = with_runs(module, inputs, updates(own), runs)
    expected = by_formula(module, inputs, own, runs)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-4)
    assert outputs.requires_grad == bool(asked)
    if asked:
        seen = drawn(1, T, O, seed=4)
        for ours, theirs in zip(
            torch.autograd.grad(outputs, asked, seen), torch.autograd.grad(expected, asked, seen), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        assert torch.equal(with_runs(module, inputs, updates(own), runs), outputs)


def test_tokens_of_no_run_keep_the_bits_of_the_module_and_in_bf16_the_others_are_near() -> None:
    own = factors(torch.bfloat16)
    module = made("linear", I, O).bfloat16().requires_grad_(requires_grad=False)
    inputs = drawn(T, I, seed=1, dtype=torch.bfloat16)
    runs = [Run(1, slice(0, 20)), Run(2, slice(31, 60))]
    outputs = with_runs(module, inputs, updates(own), runs)
    assert torch.equal(outputs[20:31], module(inputs)[20:31])
    wide = made("linear", I, O)
    expected = by_formula(wide, inputs.float(), [factor.float() for factor in own], runs)
    assert (outputs.float() - expected).norm() < 0.02 * expected.norm()


def test_an_update_without_tokens_gets_zeros() -> None:
    own, module = factors(), made("linear", I, O)
    outputs = with_runs(module, drawn(T, I, seed=1), updates(own), [Run(0, slice(3, 9))])
    found = torch.autograd.grad(outputs.sum(), own)
    assert all(grad.abs().max() > 0 for grad in found[:2])
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in found[2:])


def test_a_factor_that_changes_before_the_backward_pass_is_noticed() -> None:
    own, module = factors(), made("linear", I, O)
    outputs = with_runs(module, drawn(T, I, seed=1).requires_grad_(), updates(own), [Run(0)])
    with torch.no_grad():
        own[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


def test_shared_ones_run_over_all_tokens_and_neighbouring_rows_are_one_run() -> None:
    groups = (("a",), ("b", "c"), ("c",))
    routing = Routing.of(groups, [0, 0, 1, NONE, 2, 0], Layout.packed([2, 3, 4, 1, 5, 2]))
    lanes = routing.lanes(("a", "b", "c"))
    assert lanes == (("a", "b"), ("c",))
    assert routed_runs(routing, (1, 17), num_shared=1, lanes=lanes) == (
        Run(0),
        Run(1, slice(0, 5)),
        Run(2, slice(5, 9)),
        Run(1, slice(15, 17)),
        Run(3, slice(5, 9)),
        Run(3, slice(10, 15)),
    )
