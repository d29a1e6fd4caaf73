"""Copies in the width of the arithmetic: never stale, never in the way, gradients home in fp32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from weft.core.twins import Twins

BF16 = torch.bfloat16


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.words.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, tokens):
        return self.out(self.words(tokens)).float() * self.scale


def names(module):
    return {name: id(parameter) for name, parameter in module.named_parameters(remove_duplicate=False)}


def test_copies_stand_in_within_the_block_and_masters_outside():
    model = Tied()
    before = names(model)
    twins = Twins(model, BF16)
    with twins.standing_in():
        assert {p.dtype for p in model.parameters()} == {BF16}
        assert model.out.weight is model.words.weight, "a tie stays a tie"
        with twins.standing_in():
            assert model.out.weight.dtype is BF16
        assert model.out.weight.dtype is BF16, "the inner block ends, the outer goes on"
    assert names(model) == before
    assert model.scale.dtype is torch.float32


def test_masters_return_after_an_error():
    model = Tied()
    before = names(model)
    twins = Twins(model, BF16)
    with pytest.raises(KeyError), twins.standing_in():
        raise KeyError
    assert names(model) == before
    with twins.standing_in():
        assert model.out.weight.dtype is BF16


def test_a_copy_follows_every_change_of_its_master_in_place():
    model = nn.Linear(3, 2)
    twins = Twins(model, BF16)
    with torch.no_grad():
        model.weight.fill_(0.5)
    with twins.standing_in():
        assert torch.equal(model.weight, torch.full((2, 3), 0.5, dtype=BF16))
    model.weight.grad = torch.ones(2, 3)
    torch.optim.AdamW([model.weight], lr=0.25, fused=True, weight_decay=0.0).step()
    with twins.standing_in():
        torch.testing.assert_close(model.weight, torch.full((2, 3), 0.25, dtype=BF16))


def test_gradients_are_those_of_the_rounded_weights_and_come_home_in_fp32():
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    x = torch.randn(4, 5, dtype=BF16)
    rounded = nn.Linear(5, 3).to(BF16)
    rounded.load_state_dict(model.state_dict())
    rounded(x).float().square().sum().backward()
    twins = Twins(model, BF16)
    with twins.standing_in():
        model(x).float().square().sum().backward()
        assert model.weight.grad is not None
        twins.collect()
        model(x).float().square().sum().backward()
        twins.collect()
    assert model.weight.grad.dtype is torch.float32
    assert torch.equal(model.weight.grad, 2 * rounded.weight.grad.float())
    assert twins.of(model.weight).copy.grad is None
    assert twins.of(nn.Parameter(torch.ones(1))) is None


def test_the_graph_outlives_the_block():
    model = nn.Linear(5, 3)
    twins = Twins(model, BF16)
    with twins.standing_in():
        loss = model(torch.ones(2, 5, dtype=BF16)).float().sum()
    loss.backward()
    twins.collect()
    assert torch.equal(model.bias.grad, torch.full((3,), 2.0))


def test_frozen_stays_frozen_and_thaws_with_its_master():
    model = nn.Linear(5, 3)
    model.weight.requires_grad_(False)
    twins = Twins(model, BF16)
    with twins.standing_in():
        assert [p.requires_grad for p in model.parameters()] == [False, True]
    model.weight.requires_grad_(True)
    with twins.standing_in():
        assert [p.requires_grad for p in model.parameters()] == [True, True]


def test_copies_made_while_answering_can_be_trained_later():
    model = nn.Linear(5, 3)
    with torch.inference_mode(), torch.inference_mode(mode=False):
        twins = Twins(model, BF16)
    with twins.standing_in():
        model(torch.ones(1, 5, dtype=BF16)).float().sum().backward()
    assert twins.of(model.weight).copy.grad is not None


def test_whole_numbers_have_no_copy():
    model = nn.Linear(2, 2)
    model.register_parameter("count", nn.Parameter(torch.tensor([1, 2]), requires_grad=False))
    twins = Twins(model, BF16)
    assert len(list(twins)) == 2
    with twins.standing_in():
        assert model.count.dtype is torch.int64
