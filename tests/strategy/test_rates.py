"""Default rates of heads follow from what moves beneath them and from how much they read."""

from __future__ import annotations

import pytest

from weft.strategy.rates import HEAD_ALONE, HEADS, WIDTH, of_heads


@pytest.mark.parametrize(
    ("below", "width", "rate"),
    [
        ([], WIDTH, 2e-2),
        ([], 2 * WIDTH, 1e-2),
        ([5e-4], WIDTH, 5e-3),
        ([5e-4], 8, 5e-3),
        ([5e-5, 5e-4], 4096, 5e-3 * 384 / 4096),
        ([5e-4, 3e-2], WIDTH, 3e-2),
    ],
)
def test_rate_of_heads(below, width, rate):
    assert of_heads(below, width).value == pytest.approx(rate, rel=1e-12)


def test_advice_belongs_to_the_rate():
    assert of_heads([5e-4], 8).advice == HEADS.advice
    assert of_heads([], 8).advice == HEAD_ALONE.advice
