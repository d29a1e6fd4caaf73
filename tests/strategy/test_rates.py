"""Default rates follow from the width, those of heads also from what moves beneath them."""

from __future__ import annotations

import pytest

from weft.strategy.rates import HEAD_ALONE, HEADS, WIDTH, Rate, of_heads, of_matrices


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
    assert of_heads([], 8).advice == of_heads([], WIDTH).advice == HEAD_ALONE.advice
    wide = of_heads([5e-4], 4 * WIDTH)
    assert wide.value == pytest.approx(1.25e-3, rel=1e-12)
    assert wide.advice == f"{HEADS.advice}; 0.005 times 0.25 for inputs of 1536 values"


@pytest.mark.parametrize(
    ("width", "factor"), [(0, 1), (768, 1), (64, 2), (384, 2), (1024, 0.75), (4096, 0.1875)]
)
def test_rate_of_matrices(width, factor):
    found = of_matrices(Rate(5e-4, "theirs"), width)
    assert found.value == pytest.approx(5e-4 * factor, rel=1e-12)
    where = f"a width of {width}" if width > WIDTH else "widths up to 384"
    assert found.advice == ("theirs" if factor == 1 else f"theirs; 0.0005 times {factor:.2g} for {where}")
