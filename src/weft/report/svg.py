"""Charts as inline SVG: pure functions from numbers to markup. Colours come from the page's CSS variables.

Coordinates are in px of the view box; y grows downwards.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from weft.report.markup import Html, decimal, join, tag

NUM_COLOURS = 8


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map of ``low..high`` to ``start..stop``."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        """Return where ``value`` lies; an empty domain maps to the middle."""
        if self.high == self.low:
            return (self.start + self.stop) / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


@dataclass(frozen=True, slots=True)
class Point:
    """One measured value; ``low`` and ``high`` are its interval where it has one; ``note`` shows on hovering."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Attributes:
        name: for screen readers; legends are drawn by the page.
        points: in order of x; points that are not finite are left out and break nothing.
        colour: number of the page's series colour.
        has_markers: whether each point is drawn as a dot.
        best: index of the point that is ringed, or None.
    """

    name: str
    points: tuple[Point, ...]
    colour: int
    has_markers: bool = False
    best: int | None = None


@dataclass(frozen=True, slots=True)
class Axes:
    """What stands around a chart.

    Attributes:
        title: what a screen reader says.
        x_label: under the horizontal axis.
        y_label: over the vertical axis.
        level: a horizontal reference line, or None.
        level_label: its name.
        cuts: vertical lines with their labels, such as the first step of a stage.
        format_y: value -> tick label.
        format_x: value -> tick label.
    """

    title: str
    x_label: str
    y_label: str
    level: float | None = None
    level_label: str = ""
    cuts: tuple[tuple[float, str], ...] = ()
    format_y: Callable[[float], str] = "{:g}".format
    format_x: Callable[[float], str] = "{:g}".format


@dataclass(frozen=True, slots=True)
class Frame:
    """Size of a chart and its margins."""

    width: float = 460
    height: float = 232
    left: float = 44
    right: float = 14
    top: float = 30
    bottom: float = 38


def ticks(low: float, high: float, most: int = 6) -> tuple[float, ...]:
    """Return at most ``most`` round values (1, 2 or 5 times a power of ten) that cover ``low..high``.

    Example:
        >>> ticks(0.13, 0.88)
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"ticks: ends must be finite, but are {low} and {high}.")
    if high <= low:
        pad = abs(low) * 0.5 or 1.0
        low, high = low - pad, high + pad
    power = math.floor(math.log10((high - low) / most))
    for exponent in (power, power + 1):
        for factor in (1, 2, 5):
            # Whole numbers of steps, so that 0.6 is 0.6 and not 0.6000000000000001.
            first = math.floor(low / (factor * 10.0**exponent) + 1e-9)
            last = math.ceil(high / (factor * 10.0**exponent) - 1e-9)
            if last - first < most:
                return tuple(
                    round(at * factor * 10.0**exponent, max(0, -exponent)) for at in range(first, last + 1)
                )
    raise AssertionError("a step of 5 * 10 ** (power + 1) always is wide enough")


def line_chart(series: Sequence[Series], axes: Axes, frame: Frame | None = None) -> Html:
    """Return a line chart of ``series``; without a finite point an empty frame."""
    frame = frame or Frame()
    shown = [(one, [p for p in one.points if math.isfinite(p.x) and math.isfinite(p.y)]) for one in series]
    points = [point for _, found in shown for point in found]
    ys = [y for p in points for y in (p.y, p.low, p.high) if y is not None and math.isfinite(y)]
    if axes.level is not None and math.isfinite(axes.level):
        ys.append(axes.level)
    y_ticks = ticks(*_y_ends(ys)) if ys else (0.0, 1.0)
    right = max([p.x for p in points] + [at for at, _ in axes.cuts], default=1.0) or 1.0
    x = Scale(0.0, right, frame.left, frame.width - frame.right)
    y = Scale(y_ticks[0], y_ticks[-1], frame.height - frame.bottom, frame.top)
    drawn = [_series(one, found, x, y) for one, found in shown if found]
    return tag(
        "svg",
        _grid(x, y, y_ticks, axes=axes, frame=frame),
        *(_cut(x.at(at), label, frame) for at, label in axes.cuts),
        _level(axes, y, frame) if axes.level is not None and math.isfinite(axes.level) else None,
        *drawn,
        attrs={
            "class": "chart",
            "viewBox": f"0 0 {decimal(frame.width)} {decimal(frame.height)}",
            "role": "img",
            "aria-label": axes.title,
        },
    )


def _y_ends(ys: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the vertical axis: zero belongs to it where it is near."""
    low, high = min(ys), max(ys)
    return (0.0 if 0 <= low < 0.4 * high else low), high


def _grid(x: Scale, y: Scale, y_ticks: Sequence[float], *, axes: Axes, frame: Frame) -> Html:
    x_ticks = [at for at in ticks(x.low, x.high) if at <= x.high]
    bottom = frame.height - frame.bottom
    rows = [
        _line(frame.left, y.at(at), frame.width - frame.right, y.at(at), "axis" if at == y.low else "grid")
        for at in y_ticks
    ]
    labels = [_label(frame.left - 8, y.at(at) + 4, axes.format_y(at), "tick end") for at in y_ticks]
    marks = [_line(x.at(at), bottom, x.at(at), bottom + 4, "axis") for at in x_ticks]
    below = [_label(x.at(at), bottom + 17, axes.format_x(at), "tick mid") for at in x_ticks]
    names = [
        _label(0.0, 11.0, axes.y_label, "name"),
        _label(frame.width - frame.right, frame.height - 4, axes.x_label, "name end"),
    ]
    return join((*rows, *labels, *marks, *below, *names))


def _level(axes: Axes, y: Scale, frame: Frame) -> Html:
    assert axes.level is not None
    height = y.at(axes.level)
    # The label stands above the line unless that is outside of the frame.
    above = height - 5 if height - 14 > frame.top else height + 13
    return join(
        (
            _line(frame.left, height, frame.width - frame.right, height, "level"),
            _label(frame.width - frame.right, above, axes.level_label, "tick end"),
        )
    )


def _cut(at: float, label: str, frame: Frame) -> Html:
    return join(
        (
            _line(at, frame.top - 8, at, frame.height - frame.bottom, "cut"),
            _label(at + 4, frame.top - 1, clip(label, 130, size=11), "tick"),
        )
    )


def _series(series: Series, points: Sequence[Point], x: Scale, y: Scale) -> Html:
    places = [(x.at(point.x), y.at(point.y)) for point in points]
    parts: list[Html | None] = [_band(points, x, y)]
    if len(places) > 1:
        parts.append(tag("polyline", attrs={"points": _path(places), "class": "line"}))
    if series.has_markers or len(places) == 1:
        for point, (left, top) in zip(points, places, strict=True):
            is_best = series.best is not None and point is series.points[series.best]
            note = tag("title", point.note) if point.note else None
            radius = 4.5 if is_best else 2.75
            attrs = {"cx": left, "cy": top, "r": radius, "class": "dot best" if is_best else "dot"}
            parts.append(tag("circle", note, attrs=attrs))
    return tag("g", *parts, attrs={"class": f"series c{series.colour % NUM_COLOURS}", "data-name": series.name})


def _band(points: Sequence[Point], x: Scale, y: Scale) -> Html | None:
    """Return the intervals of ``points``: an area, or an upright line for a single point."""
    ends = [
        (x.at(p.x), y.at(p.low), y.at(p.high))
        for p in points
        if p.low is not None and p.high is not None and math.isfinite(p.low) and math.isfinite(p.high)
    ]
    if len(ends) > 1:
        outline = [(at, high) for at, _, high in ends] + [(at, low) for at, low, _ in reversed(ends)]
        return tag("polygon", attrs={"points": _path(outline), "class": "band"})
    return _line(ends[0][0], ends[0][1], ends[0][0], ends[0][2], "whisker") if ends else None


def interval_bar(
    value: float, *, low: float, high: float, baseline: float, ends: tuple[float, float], standing: str
) -> Html:
    """Return a small bar: the interval, its value as a dot, the baseline as a tick.

    Args:
        value: inside ``low..high``.
        low: lower end of the interval.
        high: upper end.
        baseline: drawn as a short upright line.
        ends: left and right end of the track; ``left`` may be the larger one.
        standing: above, level or below; the colour.
    """
    width, height, pad = 180.0, 20.0, 6.0
    scale = Scale(ends[0], ends[1], pad, width - pad)

    def at(number: float) -> float:
        return min(max(scale.at(number), pad), width - pad) if math.isfinite(number) else pad

    left, right = sorted((at(low), at(high)))
    attrs = {"x": left, "y": height / 2 - 4, "width": max(right - left, 2.0), "height": 8.0, "rx": 4.0}
    return tag(
        "svg",
        _line(pad, height / 2, width - pad, height / 2, "track"),
        _line(at(baseline), 3.0, at(baseline), height - 3, "base"),
        tag("rect", attrs={**attrs, "class": "range"}),
        tag("circle", attrs={"cx": at(value), "cy": height / 2, "r": 3.5, "class": "value"}),
        attrs={"class": f"bar {standing}", "viewBox": f"0 0 {width:.0f} {height:.0f}", "aria-hidden": "true"},
    )


def bar_ends(values: Sequence[float], best: float) -> tuple[float, float]:
    """Return the ends of an interval bar's track: the best value is on the right, everything fits.

    Shares run from 0 (or the least value, if negative) to 1. Errors run from a little beyond the worst to the best.
    """
    finite = [value for value in values if math.isfinite(value)]
    if any(value > best for value in finite):
        return max(finite) * 1.08, best
    return min([0.0, *finite]), best


@dataclass(frozen=True, slots=True)
class Node:
    """One box of the stage graph.

    Attributes:
        name: unique; drawn in bold.
        parent: name of the box it starts from, None for the first.
        lines: what stands under the name.
        share: trained share of the parameters, drawn as a bar at the bottom; None for no bar.
    """

    name: str
    parent: str | None
    lines: tuple[str, ...]
    share: float | None = None


BOX_WIDTH, BOX_HEIGHT, BOX_GAP = 218.0, 104.0, 46.0


def places(nodes: Sequence[Node], *, is_upright: bool) -> dict[str, tuple[float, float]]:
    """Return the top left corner of each box: generations in one direction, siblings in the other.

    A node's first child stays in its lane, so that a chain is a straight line.
    """
    depths: dict[str, int] = {}
    lanes: dict[str, int] = {}
    taken: set[tuple[int, int]] = set()
    for node in nodes:
        depth = 0 if node.parent is None else depths[node.parent] + 1
        lane = 0 if node.parent is None else lanes[node.parent]
        while (depth, lane) in taken:
            lane += 1
        taken.add((depth, lane))
        depths[node.name], lanes[node.name] = depth, lane
    wide, high, between = BOX_WIDTH + BOX_GAP, BOX_HEIGHT + 34.0, BOX_WIDTH + 20.0
    if is_upright:
        return {name: (lanes[name] * between, depth * high) for name, depth in depths.items()}
    return {name: (depth * wide, lanes[name] * (BOX_HEIGHT + 20.0)) for name, depth in depths.items()}


def stage_graph(nodes: Sequence[Node], *, title: str, is_upright: bool = False) -> Html:
    """Return boxes joined by edges from parent to child, left to right or (``is_upright``) top down."""
    corners = places(nodes, is_upright=is_upright)
    width = max(left for left, _ in corners.values()) + BOX_WIDTH + 2
    height = max(top for _, top in corners.values()) + BOX_HEIGHT + 2
    edges = [_edge(corners, node, is_upright=is_upright) for node in nodes if node.parent is not None]
    boxes = [_box(node, *corners[node.name]) for node in nodes]
    return tag(
        "svg",
        *edges,
        *boxes,
        attrs={
            "class": "graph upright" if is_upright else "graph level",
            "viewBox": f"-1 -1 {decimal(width)} {decimal(height)}",
            "style": f"width:{decimal(width)}px",
            "role": "img",
            "aria-label": title,
        },
    )


def _edge(corners: Mapping[str, tuple[float, float]], node: Node, *, is_upright: bool) -> Html:
    """Return the curve from the parent's box with an arrow head at the child's."""
    assert node.parent is not None
    (left, top), (to_left, to_top) = corners[node.parent], corners[node.name]
    if is_upright:
        x1, y1, x2, y2 = left + BOX_WIDTH / 2, top + BOX_HEIGHT, to_left + BOX_WIDTH / 2, to_top - 5
        bend, head = (y1 + y2) / 2, [(x2 - 4, y2 - 3), (x2 + 4, y2 - 3), (x2, y2 + 4)]
        curve = (x1, bend, x2, bend)
    else:
        x1, y1, x2, y2 = left + BOX_WIDTH, top + BOX_HEIGHT / 2, to_left - 5, to_top + BOX_HEIGHT / 2
        bend, head = (x1 + x2) / 2, [(x2 - 3, y2 - 4), (x2 - 3, y2 + 4), (x2 + 4, y2)]
        curve = (bend, y1, bend, y2)
    c1x, c1y, c2x, c2y = map(decimal, curve)
    d = f"M{decimal(x1)} {decimal(y1)} C{c1x} {c1y} {c2x} {c2y} {decimal(x2)} {decimal(y2)}"
    return tag(
        "g",
        tag("path", attrs={"d": d, "class": "edge"}),
        tag("polygon", attrs={"points": _path(head), "class": "head"}),
        attrs={"data-from": node.parent, "data-to": node.name},
    )


def _box(node: Node, left: float, top: float) -> Html:
    attrs = {"x": left, "y": top, "width": BOX_WIDTH, "height": BOX_HEIGHT, "rx": 10.0}
    lines = [
        _label(left + 14, top + 46 + 17 * at, clip(line, BOX_WIDTH - 28, size=12), "small")
        for at, line in enumerate(node.lines)
    ]
    parts: list[Html | None] = [
        tag("title", "\n".join((node.name, *node.lines))),
        tag("rect", attrs={**attrs, "class": "box" if node.parent is not None else "box root"}),
        _label(left + 14, top + 26, clip(node.name, BOX_WIDTH - 28, size=15), "strong"),
        *lines,
    ]
    if node.share is not None:
        room, height = BOX_WIDTH - 28, top + BOX_HEIGHT - 10
        filled = max(2.0, room * min(node.share, 1.0))
        parts.append(_line(left + 14, height, left + 14 + room, height, "share"))
        parts.append(_line(left + 14, height, left + 14 + filled, height, "share filled"))
    return tag("g", *parts, attrs={"class": "node", "data-name": node.name})


def clip(line: str, room: float, *, size: float) -> str:
    """Return ``line`` cut with an ellipsis to about ``room`` px at font size ``size``."""
    if _width(line) * size <= room:
        return line
    while line and (_width(line) + 1.0) * size > room:
        line = line[:-1]
    return line.rstrip() + "…"


def _width(line: str) -> float:
    """Return the width of ``line`` in units of the font size: East Asian characters are square."""
    return sum(1.0 if unicodedata.east_asian_width(sign) in "WF" else 0.54 for sign in line)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{decimal(x)},{decimal(y)}" for x, y in points)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    return tag("line", attrs={"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": kind})


def _label(x: float, y: float, content: str, kind: str) -> Html:
    return tag("text", content, attrs={"x": x, "y": y, "class": kind})
