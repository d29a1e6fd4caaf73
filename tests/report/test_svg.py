"""Charts put points where the numbers say, whatever the numbers are."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.report import svg
from weft.report.graph import Node, places, stage_graph
from weft.report.svg import Axes, Point, Scale, Series

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


def test_a_scale_maps_ends_to_ends_and_an_empty_domain_to_the_middle():
    scale = Scale(0, 10, 100, 300)
    assert [scale.at(value) for value in (0, 5, 10)] == [100, 200, 300]
    assert Scale(3, 3, 0, 10).at(3) == 5


@given(FINITE, FINITE)
def test_ticks_are_few_evenly_apart_and_cover_both_ends(a, b):
    low, high = sorted((a, b))
    found = svg.ticks(low, high)
    assert 2 <= len(found) <= 6
    gaps = [y - x for x, y in pairwise(found)]
    assert max(gaps) == pytest.approx(min(gaps), rel=1e-6, abs=1e-12)
    slack = (found[1] - found[0]) * 1e-6
    assert found[0] <= low + slack
    assert found[-1] >= high - slack


def test_ends_too_close_to_tell_apart_are_one_value():
    assert svg.ticks(0.0, 5e-324) == svg.ticks(0.0, 0.0)
    assert svg.ticks(7.0, 7.0 + 1e-15) == svg.ticks(7.0, 7.0)


def test_ticks_are_round():
    assert svg.ticks(0.13, 0.88) == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    with pytest.raises(ValueError, match="finite"):
        svg.ticks(0.0, math.inf)


def chart(points, **changes):
    axes = Axes(title="loss", x_label="step", y_label="loss", **changes)
    return str(svg.line_chart([Series("a", tuple(points), 0, has_markers=True)], axes))


def numbers(text, name):
    return [float(value) for value in re.findall(rf'{name}="([-\d.]+)"', text)]


def test_higher_values_lie_higher_and_later_ones_further_right():
    text = chart([Point(0, 1.0), Point(10, 2.0), Point(20, 4.0)])
    circles = re.findall(r"<circle[^>]*>", text)
    xs = [numbers(circle, "cx")[0] for circle in circles]
    ys = [numbers(circle, "cy")[0] for circle in circles]
    assert len(circles) == 3
    assert xs == sorted(xs)
    assert ys == sorted(ys, reverse=True)
    assert (xs[1] - xs[0]) == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert (ys[0] - ys[1]) * 2 == pytest.approx(ys[1] - ys[2], abs=0.3)


@pytest.mark.parametrize(
    "points",
    [
        [Point(0, 1.0)],
        [Point(0, 1.0), Point(1, 1.0)],
        [Point(0, math.nan), Point(1, 2.0), Point(2, math.inf)],
        [Point(0, 0.0), Point(1, 1e-12)],
    ],
)
def test_odd_series_break_nothing(points):
    text = chart(points)
    assert ET.fromstring(text).tag.endswith("svg")
    assert "nan" not in text.lower().replace("nance", "")
    assert "inf" not in re.sub(r"<title>.*?</title>", "", text).lower()


def test_a_bar_shows_interval_baseline_and_value_in_order():
    low, high = svg.bar_ends((0.2, 0.6, 0.7, 0.8), 1.0)
    assert low <= 0.2
    assert high >= 0.8


def test_a_chain_runs_to_the_right_and_branches_lie_beside_one_another():
    nodes = [
        Node("base", (), ("weights",)),
        Node("a", ("base",), ("lora",), 0.1),
        Node("b", ("a",), ("full",), 1.0),
        Node("c", ("a",), ("head",), 0.0),
    ]
    at = places(nodes, is_upright=False)
    assert at["base"][0] < at["a"][0] < at["b"][0] == at["c"][0]
    assert at["b"][1] != at["c"][1]
    text = str(stage_graph(nodes, title="stages"))
    assert ET.fromstring(text).tag.endswith("svg")
    for name in ("base", "a", "b", "c"):
        assert f">{name}<" in text
