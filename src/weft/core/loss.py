"""A loss is always a sum and the weight it is a sum over, never a mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Loss:
    """The summed loss of one task in one micro-batch.

    Attributes:
        total: scalar fp32 tensor, the SUM over the task's units (rows, tokens, ...).
        weight: how many units that sum covers; equals ``Target.weight`` for plain supervised losses.
        parts: named components of ``total`` (each a scalar sum), for the log.
    """

    total: Tensor
    weight: float
    parts: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
