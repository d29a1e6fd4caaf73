"""Default peak rates that depend on the model: on its width, and on what else moves.

A step of Adam moves every value alike, so a product with a matrix moves by as much more as the matrix is wide: the rate
of matrices falls as one over the width (arXiv:2203.03466, table 8), that of vectors stays. Methods name theirs for
BERT-base, where most of them were published; half of its width is the least that was measured (docs/experiments.md), and
nothing learns faster below it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

WIDTH = 384  # of the trunk that the rates of heads were measured on
NAMED_FOR = 768  # the width that methods' rates are for
_SMALL = f"widths up to {WIDTH}"


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


def of_matrices(rate: Rate, width: int) -> Rate:
    """Return the default ``rate`` of a method that moves matrices, in a trunk whose states have ``width`` values.

    Args:
        rate: for a width of ``NAMED_FOR``.
        width: 0 where it is not known; then the rate stays.

    Example:
        >>> [of_matrices(Rate(5e-4, "LoRA's"), width).value for width in (64, 384, 768, 4096)]
        [0.001, 0.001, 0.0005, 9.375e-05]
    """
    if width in (0, NAMED_FOR):
        return rate
    return scaled(rate, NAMED_FOR / max(width, WIDTH), f"a width of {width}" if width > WIDTH else _SMALL)


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
    whole = Rate(max(best.value, fastest or 0.0), best.advice)
    return whole if width <= WIDTH else scaled(whole, WIDTH / width, f"inputs of {width} values")


def scaled(rate: Rate, factor: float, where: str) -> Rate:
    """Return ``rate`` times ``factor``, and say so."""
    return Rate(rate.value * factor, f"{rate.advice}; {rate.value:.3g} times {factor:.2g} for {where}")
