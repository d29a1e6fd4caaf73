"""Default rates of heads follow from what moves beneath them and from how much they read."""

from __future__ import annotations

import pytest

from weft.strategy.rates import HEAD_BESIDE_FULL, HEAD_ON_ADAPTERS, WIDTH, Below, of_heads

WEIGHT, ADAPTER, FAST = Below(True, 5e-5), Below(False, 5e-4), Below(False, 3e-2)


@pytest.mark.parametrize(
    ("below", "width", "rate"),
    [
        ([], WIDTH, 2e-2),
        ([], 2 * WIDTH, 1e-2),
        ([ADAPTER], WIDTH, 5e-3),
        ([ADAPTER], 8, 5e-3),
        ([ADAPTER], 4096, 5e-3 * 384 / 4096),
        ([ADAPTER, FAST], WIDTH, 3e-2),
        ([ADAPTER, WEIGHT], WIDTH, 5e-4),
        ([FAST, WEIGHT], 4096, 5e-4),
    ],
)
def test_rate_of_heads(below, width, rate):
    assert of_heads(below, width).value == pytest.approx(rate, rel=1e-12)


def test_wide_heads_are_no_faster_on_adapters_than_the_adapters_are():
    assert of_heads([ADAPTER], 4096).value < ADAPTER.rate


def test_advice_belongs_to_the_rate():
    assert of_heads([ADAPTER], 8).advice == HEAD_ON_ADAPTERS.advice
    assert of_heads([WEIGHT], 8) is HEAD_BESIDE_FULL
