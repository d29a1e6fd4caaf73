"""Charts as inline SVG: pure functions from numbers to markup. Colours come from the page's CSS variables.

Coordinates are in px of the view box; y grows downwards.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
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
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-290):  # too close for numbers to tell ticks apart
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
        grid_lines(x, y, y_ticks, axes=axes, frame=frame),
        *_cuts(axes, x, frame),
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


def grid_lines(x: Scale, y: Scale, y_ticks: Sequence[float], *, axes: Axes, frame: Frame) -> Html:
    """Return the lines, ticks and names around a chart whose values ``x`` and ``y`` place."""
    x_ticks = [at for at in ticks(x.low, x.high) if x.low <= at <= x.high]
    bottom = frame.height - frame.bottom
    rows = [
        line(frame.left, y.at(at), frame.width - frame.right, y.at(at), "axis" if at == y.low else "grid")
        for at in y_ticks
    ]
    labels = [label(frame.left - 8, y.at(at) + 4, axes.format_y(at), "tick end") for at in y_ticks]
    marks = [line(x.at(at), bottom, x.at(at), bottom + 4, "axis") for at in x_ticks]
    below = [label(x.at(at), bottom + 17, axes.format_x(at), "tick mid") for at in x_ticks]
    names = [
        label(0.0, 11.0, axes.y_label, "name"),
        label(frame.width - frame.right, frame.height - 4, axes.x_label, "name end"),
    ]
    return join((*rows, *labels, *marks, *below, *names))


def _level(axes: Axes, y: Scale, frame: Frame) -> Html:
    assert axes.level is not None
    height = y.at(axes.level)
    # The label stands above the line unless that is outside of the frame.
    above = height - 5 if height - 14 > frame.top else height + 13
    return join(
        (
            line(frame.left, height, frame.width - frame.right, height, "level"),
            label(frame.width - frame.right, above, axes.level_label, "tick end"),
        )
    )


def _cuts(axes: Axes, x: Scale, frame: Frame) -> list[Html]:
    """Return the vertical lines, each label cut to the room before the next line."""
    ends = [*(x.at(at) for at, _ in axes.cuts[1:]), frame.width][: len(axes.cuts)]
    return [
        join(
            (
                line(x.at(at), frame.top - 8, x.at(at), frame.height - frame.bottom, "cut"),
                label(x.at(at) + 4, frame.top - 1, clip(name, end - x.at(at) - 6, size=11.5), "tick"),
            )
        )
        for (at, name), end in zip(axes.cuts, ends, strict=True)
    ]


def _series(series: Series, points: Sequence[Point], x: Scale, y: Scale) -> Html:
    places = [(x.at(point.x), y.at(point.y)) for point in points]
    parts: list[Html | None] = [_band(points, x, y)]
    if len(places) > 1:
        parts.append(tag("polyline", attrs={"points": coordinates(places), "class": "line"}))
    if series.has_markers or len(places) == 1:
        for point, (left, top) in zip(points, places, strict=True):
            is_best = series.best is not None and point is series.points[series.best]
            note = tag("title", point.note) if point.note else None
            radius = 4.5 if is_best else 2.75
            attrs = {"cx": left, "cy": top, "r": radius, "class": "dot best" if is_best else "dot"}
            parts.append(tag("circle", note, attrs=attrs))
    return tag(
        "g", *parts, attrs={"class": f"series c{series.colour % NUM_COLOURS}", "data-name": series.name}
    )


def _band(points: Sequence[Point], x: Scale, y: Scale) -> Html | None:
    """Return the intervals of ``points``: an area, or an upright line for a single point."""
    ends = [
        (x.at(p.x), y.at(p.low), y.at(p.high))
        for p in points
        if p.low is not None and p.high is not None and math.isfinite(p.low) and math.isfinite(p.high)
    ]
    if len(ends) > 1:
        outline = [(at, high) for at, _, high in ends] + [(at, low) for at, low, _ in reversed(ends)]
        return tag("polygon", attrs={"points": coordinates(outline), "class": "band"})
    return line(ends[0][0], ends[0][1], ends[0][0], ends[0][2], "whisker") if ends else None


def interval_bar(
    value: float,
    *,
    low: float,
    high: float,
    baseline: float | None,
    ends: tuple[float, float],
    standing: str,
) -> Html:
    """Return a small bar: the interval, its value as a dot, the baseline as a tick.

    Args:
        value: inside ``low..high``.
        low: lower end of the interval.
        high: upper end.
        baseline: drawn as a short upright line; None for none.
        ends: left and right end of the track; ``left`` may be the larger one.
        standing: above, level, below or plain; the colour.
    """
    width, height, pad = 180.0, 20.0, 6.0
    scale = Scale(ends[0], ends[1], pad, width - pad)

    def at(number: float) -> float:
        return min(max(scale.at(number), pad), width - pad) if math.isfinite(number) else pad

    left, right = sorted((at(low), at(high)))
    attrs = {"x": left, "y": height / 2 - 4, "width": max(right - left, 2.0), "height": 8.0, "rx": 4.0}
    return tag(
        "svg",
        line(pad, height / 2, width - pad, height / 2, "track"),
        None if baseline is None else line(at(baseline), 3.0, at(baseline), height - 3, "base"),
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


def clip(line: str, room: float, *, size: float) -> str:
    """Return ``line`` cut with an ellipsis to about ``room`` px at font size ``size``."""
    if text_width(line) * size <= room:
        return line
    while line and (text_width(line) + 1.0) * size > room:
        line = line[:-1]
    return line.rstrip() + "…"


def text_width(line: str) -> float:
    """Return the width of ``line`` in units of the font size: East Asian characters are square."""
    return sum(1.0 if unicodedata.east_asian_width(sign) in "WF" else 0.54 for sign in line)


def coordinates(points: Sequence[tuple[float, float]]) -> str:
    """Return ``x,y x,y`` for lines and polygons."""
    return " ".join(f"{decimal(x)},{decimal(y)}" for x, y in points)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    """Return a straight line; ``kind`` is its class in the style sheet."""
    return tag("line", attrs={"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": kind})


def label(x: float, y: float, content: str, kind: str) -> Html:
    """Return a line of text on the baseline ``y``; ``kind`` is its class in the style sheet."""
    return tag("text", content, attrs={"x": x, "y": y, "class": kind})
