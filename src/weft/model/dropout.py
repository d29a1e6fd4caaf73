"""Dropout of a stock model by a generator that costs little on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weft.native.dropout import dropout


class CountedDropout(nn.Dropout):
    """nn.Dropout whose mask is a function of a seed drawn from torch's generator, so it is never stored."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input`` with a share ``p`` of its values set to zero while training, the others scaled up."""
        if not self.training or self.p == 0.0:
            return input
        if input.device.type != "cpu":
            return super().forward(input)
        seed = int(torch.empty((), dtype=torch.int64).random_())
        return dropout(input, self.p, seed)


def count_dropout(model: nn.Module) -> None:
    """Replace every nn.Dropout within ``model``."""
    for part in model.modules():
        for name, child in part.named_children():
            if type(child) is nn.Dropout:
                part.register_module(name, CountedDropout(child.p))
