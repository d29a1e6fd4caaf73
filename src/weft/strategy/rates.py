"""Default peak rates that depend on what else moves: those of heads, and of a trunk whose vectors alone are trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

WIDTH = 384  # of the trunk that the rates of heads were measured on


@dataclass(frozen=True, slots=True)
class Rate:
    """A default peak learning rate.

    Attributes:
        value: the rate.
        advice: where it comes from, in words that end a sentence.
    """

    value: float
    advice: str


VECTORS = Rate(
    1e-3, "only biases and norms move, few values that each move all tokens alike (arXiv:2106.10199)"
)
HEAD_BESIDE_FULL = Rate(
    5e-4, "ten times full training's, as a new head starts from noise on features that are good already"
)
HEAD_ON_ADAPTERS = Rate(
    5e-3,
    "features hardly move, so the head has to; the best of four rates for five methods (docs/experiments.md)",
)
HEAD_ALONE = Rate(
    2e-2, "on frozen features its loss is nearly convex; the best of three rates (docs/experiments.md)"
)


@dataclass(frozen=True, slots=True)
class Below:
    """A parameter under the heads that moves.

    Attributes:
        is_weight: whether it is a matrix of the trunk itself, not an adapter's and no bias or norm.
        rate: its method's default.
    """

    is_weight: bool
    rate: float


def of_heads(below: Iterable[Below], width: int) -> Rate:
    """Return the default rate of heads that read states of ``width`` values.

    Beside adapters, a head learns no slower than they do. Rates were found at a width of 384; in a wider head one step of
    Adam moves the output by as much more as there are inputs, so the rate falls with the width (arXiv:2203.03466, table 8).

    Example:
        >>> of_heads([Below(is_weight=False, rate=5e-4)], 384).value, of_heads([], 768).value
        (0.005, 0.01)
    """
    found = list(below)
    if any(one.is_weight for one in found):
        return HEAD_BESIDE_FULL
    best = HEAD_ALONE if not found else HEAD_ON_ADAPTERS
    fastest = max((one.rate for one in found), default=0.0)
    return Rate(max(best.value, fastest) * min(1.0, WIDTH / width), best.advice)
