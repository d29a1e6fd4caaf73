"""Cross entropy in pieces: the loss and all gradients of the plain one, without its logits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from weft.core.outputs import Projection
from weft.objective.vocabulary import CHUNK_VALUES, chunk_rows, token_cross_entropy

D, V = 8, 40


class Adapted(nn.Linear):
    """An output embedding with a low-rank update beside it."""

    def __init__(self) -> None:
        super().__init__(D, V, bias=False)
        self.down = nn.Parameter(torch.randn(2, D))
        self.up = nn.Parameter(torch.randn(V, 2))
        self.weight.requires_grad_(False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + input @ self.down.T @ self.up.T


def _frozen() -> nn.Linear:
    return nn.Linear(D, V, bias=False).requires_grad_(False)


OUTPUTS = {
    "trained": lambda: nn.Linear(D, V, bias=False),
    "biased": lambda: nn.Linear(D, V),
    "frozen": _frozen,
    "adapted": Adapted,
}


def _case(num_tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    states_MD = torch.randn(num_tokens, D, generator=generator)
    return states_MD, torch.randint(0, V, (num_tokens,), generator=generator)


def _plain(states_MD: torch.Tensor, output: nn.Module, labels_M: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output(states_MD).float(), labels_M, reduction="sum")


def _with_gradients(total, states_MD, output):
    trained = [parameter for parameter in output.parameters() if parameter.requires_grad]
    return torch.autograd.grad(3.0 * total, [states_MD, *trained])  # a task's weight over its denominator


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("num_tokens", [1, 16, 37])
def test_loss_and_gradients_are_those_of_plain_cross_entropy(name, num_tokens):
    torch.manual_seed(1)
    output = OUTPUTS[name]()
    states_MD, labels_M = _case(num_tokens)
    states_MD.requires_grad_()
    loss = token_cross_entropy(Projection(states_MD, output), labels_M, rows=16)
    expected = _plain(states_MD, output, labels_M)
    assert loss.weight == num_tokens
    torch.testing.assert_close(loss.total, expected, rtol=1e-6, atol=0)
    for ours, theirs in zip(
        _with_gradients(loss.total, states_MD, output),
        _with_gradients(expected, states_MD, output),
        strict=True,
    ):
        # Gradients are sums over a vocabulary of terms of both signs: what counts is the size of the terms.
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("rows", [4, 64])
def test_weights_multiply_each_tokens_loss(name, rows):
    torch.manual_seed(1)
    output = OUTPUTS[name]()
    states_MD, labels_M = _case(37)
    states_MD.requires_grad_()
    weights_M = torch.rand(37, generator=torch.Generator().manual_seed(2)) * 2
    loss = token_cross_entropy(Projection(states_MD, output), labels_M, weights_M=weights_M, rows=rows)
    losses_M = F.cross_entropy(output(states_MD).float(), labels_M, reduction="none")
    expected = losses_M @ weights_M
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(
        _with_gradients(loss.total, states_MD, output), _with_gradients(expected, states_MD, output)
    )
    assert loss.weight == 37.0
    ones = token_cross_entropy(Projection(states_MD, output), labels_M, weights_M=torch.ones(37)).total
    torch.testing.assert_close(ones, _plain(states_MD, output, labels_M))
    with torch.no_grad():
        judged = token_cross_entropy(Projection(states_MD, output), labels_M, weights_M=weights_M, rows=rows)
    torch.testing.assert_close(judged.total, loss.total)


def test_tied_embeddings_get_the_gradient_of_both_uses():
    embedding = nn.Embedding(V, D)
    output = nn.Linear(D, V, bias=False)
    output.weight = embedding.weight
    tokens_M, labels_M = torch.arange(20), torch.arange(20) + 1
    grads = []
    for loss in (
        lambda states_MD: token_cross_entropy(Projection(states_MD, output), labels_M, rows=8).total,
        lambda states_MD: _plain(states_MD, output, labels_M),
    ):
        (grad,) = torch.autograd.grad(loss(embedding(tokens_M).tanh()), [embedding.weight])
        grads.append(grad)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


def test_gradients_hold_against_finite_differences():
    torch.manual_seed(0)
    output = nn.Linear(3, 5).double()
    states_MD, labels_M = torch.randn(7, 3, dtype=torch.float64, requires_grad=True), torch.arange(7) % 5

    def loss(states_MD: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        module = nn.Linear(3, 5, device="meta")
        module._parameters.update(weight=weight, bias=bias)
        return token_cross_entropy(Projection(states_MD, module), labels_M, rows=3).total

    assert torch.autograd.gradcheck(loss, (states_MD, output.weight, output.bias))


def test_bf16_products_are_summed_in_fp32():
    torch.manual_seed(0)
    exact = nn.Linear(64, 500, bias=False)
    rough = nn.Linear(64, 500, bias=False).bfloat16()
    with torch.no_grad():
        rough.weight.copy_(exact.weight)
        exact.weight.copy_(rough.weight)
    states_MD = torch.randn(300, 64).bfloat16().requires_grad_()
    labels_M = torch.randint(0, 500, (300,))
    loss = token_cross_entropy(Projection(states_MD, rough), labels_M, rows=64).total
    assert loss.dtype == torch.float32
    wide_MD = states_MD.detach().float().requires_grad_()
    reference = _plain(wide_MD, exact, labels_M)
    torch.testing.assert_close(loss, reference, rtol=1e-4, atol=0)
    ours = _with_gradients(loss, states_MD, rough)
    theirs = _with_gradients(reference, wide_MD, exact)
    assert [grad.dtype for grad in ours] == [torch.bfloat16, torch.bfloat16]
    for mine, true in zip(ours, theirs, strict=True):
        assert (mine.float() - true).norm() < 0.005 * true.norm()


def test_a_frozen_trunk_leaves_only_the_output_embedding_a_gradient():
    output = nn.Linear(D, V, bias=False)
    states_MD, labels_M = _case(20)
    token_cross_entropy(Projection(states_MD, output), labels_M, rows=8).total.backward()
    (expected,) = torch.autograd.grad(_plain(states_MD, output, labels_M), [output.weight])
    torch.testing.assert_close(output.weight.grad, expected)
    assert states_MD.grad is None


def test_no_tokens_give_a_zero_that_still_has_gradients():
    output = nn.Linear(D, V)
    states_MD = torch.zeros(0, D, requires_grad=True)
    loss = token_cross_entropy(Projection(states_MD, output), torch.zeros(0, dtype=torch.int64))
    loss.total.backward()
    assert (loss.total.item(), loss.weight, tuple(states_MD.grad.shape)) == (0.0, 0.0, (0, D))
    assert output.weight.grad.abs().max() == 0.0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_judging_asks_for_no_gradient_and_gives_the_same_loss(mode):
    output = nn.Linear(D, V)
    states_MD, labels_M = _case(50)
    learnt = token_cross_entropy(Projection(states_MD, output), labels_M, rows=16).total
    with mode():
        judged = token_cross_entropy(Projection(states_MD, output), labels_M, rows=16).total
    assert not judged.requires_grad
    assert torch.equal(judged, learnt.detach())


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made, and the number of rows of each product."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0
        self.widths: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor):
                self.numel = max(self.numel, one.numel())
        if func is torch.ops.aten.mm.default:
            self.widths.add(args[0].shape[0])
        return made


@pytest.mark.parametrize("trains", [True, False])
def test_nothing_as_large_as_all_logits_is_ever_made(trains):
    output = nn.Linear(4, 1000, bias=False).requires_grad_(False)
    states_MD, labels_M = torch.randn(400, 4), torch.randint(0, 1000, (400,))
    states_MD.requires_grad_(trains)
    with Largest() as plain:
        _plain(states_MD, output, labels_M)
    with Largest() as ours:
        loss = token_cross_entropy(Projection(states_MD, output), labels_M, rows=32).total
        if trains:
            loss.backward()
    assert plain.numel == 400 * 1000
    assert ours.numel == 32 * 1000


def test_products_have_few_shapes_whatever_the_number_of_tokens():
    output = _frozen()
    with Largest() as seen:
        for num_tokens in range(1, 100):
            states_MD, labels_M = _case(num_tokens)
            token_cross_entropy(Projection(states_MD, output), labels_M, rows=32)
    assert seen.widths == {4, 8, 12, 16, 20, 24, 28, 32}


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 70), st.integers(1, 80), st.integers(0, 2**31))
def test_the_size_of_a_piece_does_not_matter(num_tokens, rows, seed):
    torch.manual_seed(seed)
    output = nn.Linear(D, V)
    states_MD, labels_M = _case(num_tokens, seed)
    states_MD.requires_grad_()
    small = token_cross_entropy(Projection(states_MD, output), labels_M, rows=rows).total
    whole = token_cross_entropy(Projection(states_MD, output), labels_M).total
    torch.testing.assert_close(small, whole, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(
        _with_gradients(small, states_MD, output), _with_gradients(whole, states_MD, output), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_equal_logits_cost_the_log_of_the_vocabulary():
    output = nn.Linear(D, V, bias=False)
    loss = token_cross_entropy(Projection(torch.zeros(6, D), output), torch.arange(6)).total
    assert loss.item() == pytest.approx(6 * math.log(V))


@pytest.mark.parametrize("vocabulary", [2, 512, 32_000, 50_257, 151_936, 10_000_000])
def test_pieces_stay_small_and_even(vocabulary):
    rows = chunk_rows(vocabulary)
    assert rows % 64 == 0
    assert rows == 64 or rows * vocabulary <= CHUNK_VALUES < (rows + 64) * vocabulary
