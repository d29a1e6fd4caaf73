"""Leaf losses: sums in fp32, their weight, and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.objective.losses import binary_cross_entropy, cross_entropy, span_cross_entropy, squared_error


def test_cross_entropy_of_equal_logits_is_log_of_the_classes():
    loss = cross_entropy(torch.zeros(4, 5), torch.tensor([0, 1, 2, 4]))
    assert loss.weight == 4.0
    torch.testing.assert_close(loss.total, torch.tensor(4 * math.log(5)))


def test_binary_cross_entropy_averages_classes_inside_a_row():
    logits, labels = torch.tensor([[0.0, 2.0, -1.0], [1.0, 1.0, 1.0]]), torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    loss = binary_cross_entropy(logits, labels)
    probability = logits.sigmoid()
    by_hand = -(labels * probability.log() + (1 - labels) * (1 - probability).log())
    torch.testing.assert_close(loss.total, by_hand.sum() / 3)
    assert loss.weight == 2.0


def test_repeating_the_classes_does_not_change_a_rows_share():
    logits, labels = torch.randn(3, 4), torch.randint(0, 2, (3, 4)).float()
    once, twice = (
        binary_cross_entropy(logits, labels),
        binary_cross_entropy(logits.repeat(1, 2), labels.repeat(1, 2)),
    )
    torch.testing.assert_close(once.total, twice.total)
    assert once.weight == twice.weight


def test_squared_error_is_in_units_of_the_scale():
    loss = squared_error(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 5.0]), scale=2.0)
    assert (loss.total.item(), loss.weight) == (1.0, 2.0)


@pytest.mark.parametrize("leaf", [cross_entropy, binary_cross_entropy, squared_error])
def test_bf16_outputs_are_summed_in_fp32(leaf):
    torch.manual_seed(0)
    labels = {
        cross_entropy: torch.randint(0, 3, (4000,)),
        binary_cross_entropy: torch.randint(0, 2, (4000, 3)).float(),
        squared_error: torch.randn(4000, 3),
    }[leaf]
    outputs = torch.randn(4000, 3).bfloat16()
    total = leaf(outputs, labels).total
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, leaf(outputs.float(), labels).total, rtol=0, atol=0)


def test_no_tokens_give_a_zero_that_still_has_a_gradient():
    logits = torch.zeros(0, 7, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(0, dtype=torch.int64))
    loss.total.backward()
    assert (loss.total.item(), loss.weight, tuple(logits.grad.shape)) == (0.0, 0.0, (0, 7))


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(0, 2**31))
def test_sums_and_weights_add_up_over_any_cut_into_micro_batches(sizes, seed):
    torch.manual_seed(seed)
    logits, labels = torch.randn(sum(sizes), 3), torch.randint(0, 3, (sum(sizes),))
    parts = [cross_entropy(a, b) for a, b in zip(logits.split(sizes), labels.split(sizes), strict=True)]
    whole = cross_entropy(logits, labels)
    torch.testing.assert_close(sum(part.total for part in parts), whole.total)
    assert sum(part.weight for part in parts) == whole.weight
    torch.testing.assert_close(whole.total / whole.weight, F.cross_entropy(logits, labels))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_the_focal_loss_is_its_formula(gamma):
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    p_N = logits.softmax(-1)[torch.arange(6), labels]
    found = cross_entropy(logits, labels, gamma=gamma).total
    torch.testing.assert_close(found, -((1 - p_N) ** gamma * p_N.log()).sum())
    yes = (labels[:, None] == torch.arange(3)).float()
    p_RC = torch.where(yes > 0, logits.sigmoid(), 1 - logits.sigmoid())
    found = binary_cross_entropy(logits, yes, gamma=gamma).total
    torch.testing.assert_close(found, -((1 - p_RC) ** gamma * p_RC.log()).mean(1).sum())


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_focal_loss_of_a_sure_answer_has_a_finite_gradient(gamma):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    cross_entropy(logits, torch.tensor([0, 0]), gamma=gamma).total.backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[1, 0].item() == pytest.approx(-1.0)


def test_weights_and_smoothing_are_torchs():
    torch.manual_seed(0)
    logits, labels = torch.randn(9, 4), torch.randint(0, 4, (9,))
    by_class = torch.tensor([0.5, 1.0, 2.0, 4.0])
    total = cross_entropy(logits, labels, by_class[labels]).total
    torch.testing.assert_close(total, F.cross_entropy(logits, labels, weight=by_class, reduction="sum"))
    total = cross_entropy(logits, labels, smoothing=0.2).total
    torch.testing.assert_close(total, F.cross_entropy(logits, labels, label_smoothing=0.2, reduction="sum"))
    assert cross_entropy(logits, labels, by_class[labels], smoothing=0.2).weight == 9.0


LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@given(lengths=LENGTHS, seed=st.integers(0, 1000), size=st.sampled_from([1.0, 80.0]))
@settings(max_examples=60)
def test_span_cross_entropy_is_one_softmax_a_row(lengths, seed, size):
    """By hand, row by row; logits of 80 would be infinite without the shift."""
    generator = torch.Generator().manual_seed(seed)
    logits = (size * torch.randn(sum(lengths), 2, generator=generator)).requires_grad_()
    places = [int(torch.randint(0, length, (), generator=generator)) for length in lengths for _ in range(2)]
    labels, first, by_hand = [], 0, []
    for row, length in enumerate(lengths):
        own = places[2 * row : 2 * row + 2]
        part = logits[first : first + length].double()
        by_hand.append(
            sum(F.cross_entropy(part[None, :, side], torch.tensor([own[side]])) for side in (0, 1)) / 2
        )
        labels.append([first + place for place in own])
        first += length
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    loss = span_cross_entropy(logits, rows, torch.tensor(labels))
    assert loss.weight == len(lengths)
    assert loss.total.dtype == torch.float32
    expected = torch.stack(by_hand).sum()
    torch.testing.assert_close(loss.total.double(), expected, rtol=1e-5, atol=1e-5)
    (ours,) = torch.autograd.grad(loss.total, logits)
    (theirs,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_span_cross_entropy_of_few_bits_is_summed_in_fp32():
    logits = torch.zeros(512, 2, dtype=torch.bfloat16)
    loss = span_cross_entropy(logits, torch.zeros(512, dtype=torch.int64), torch.tensor([[3, 7]]))
    torch.testing.assert_close(loss.total, torch.tensor(math.log(512)))
