"""A projection holds what logits are made of and makes them when asked."""

from __future__ import annotations

import torch
from torch import nn

from weft.core.outputs import Projection


def test_logits_are_those_of_the_output_embedding_with_its_gradient():
    torch.manual_seed(0)
    output = nn.Linear(3, 7)
    states_MD = torch.randn(5, 3, requires_grad=True)
    logits_MV = Projection(states_MD, output).logits_MV()
    torch.testing.assert_close(logits_MV, states_MD @ output.weight.T + output.bias)
    logits_MV[2, 4].backward()
    assert torch.equal(states_MD.grad[2], output.weight[4])
    assert states_MD.grad[[0, 1, 3, 4]].abs().max() == 0
