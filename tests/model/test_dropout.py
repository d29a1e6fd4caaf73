"""Dropout of stock models: the share, the scale, the seed, and only where it should act."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from weft.model.dropout import CountedDropout, count_dropout


def test_the_share_and_the_mean_are_kept():
    torch.manual_seed(0)
    x = torch.ones(400, 500)
    found = CountedDropout(0.1)(x)
    share = (found == 0).float().mean().item()
    assert share == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / x.numel()) ** 0.5)
    torch.testing.assert_close(found.unique(), torch.tensor([0.0, 1 / 0.9]))


def test_the_mask_follows_torchs_seed_and_is_that_of_the_backward_pass():
    drop, masks = CountedDropout(0.5), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        x = torch.ones(64, 64, requires_grad=True)
        y = drop(x)
        y.sum().backward()
        assert torch.equal(x.grad, y.detach())
        masks.append(y.detach())
        assert not torch.equal(drop(x).detach(), y.detach()), "each call draws anew"
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("drop", [CountedDropout(0.0).train(), CountedDropout(0.5).eval()])
def test_it_is_the_identity_without_training_or_share(drop):
    x = torch.randn(3, 3)
    assert drop(x) is x


def test_every_dropout_of_a_model_is_replaced_and_nothing_else():
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.3)), nn.Dropout1d(0.1))
    count_dropout(model)
    assert [type(part) for part in model] == [CountedDropout, nn.Linear, nn.Sequential, nn.Dropout1d]
    assert model[0].p == 0.2
    assert model[2][0].p == 0.3
