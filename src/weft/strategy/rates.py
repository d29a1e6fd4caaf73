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
HEADS = Rate(
    5e-3,
    "far above the trunk's, for it starts from noise on features that are good already; better than 5e-4 or as good "
    "beside eight strategies (docs/experiments.md)",
)
HEAD_ALONE = Rate(
    2e-2, "on frozen features its loss is nearly convex; the best of three rates (docs/experiments.md)"
)


def of_heads(below: Iterable[float], width: int) -> Rate:
    """Return the default rate of heads that read states of ``width`` values, above a trunk that moves at rates ``below``.

    Rates were found at a width of 384, where no head learns more slowly than what lies below it; in a wider head one step of
    Adam moves the output by as much more as there are inputs, so the rate falls with the width (arXiv:2203.03466, table 8).

    Example:
        >>> of_heads([5e-4], 384).value, of_heads([3e-2], 384).value, of_heads([], 768).value
        (0.005, 0.03, 0.01)
    """
    fastest = max(below, default=None)
    best = HEAD_ALONE if fastest is None else HEADS
    return Rate(max(best.value, fastest or 0.0) * min(1.0, WIDTH / width), best.advice)
