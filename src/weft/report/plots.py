"""Charts of a task's answers as inline SVG: confusion, reliability, scatter, histogram. Pure functions, as in ``svg``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from weft.report.details import Histogram, Matrix, Points, Reliability
from weft.report.markup import Html, tag
from weft.report.svg import Axes, Frame, Scale, clip, grid_lines, label, line, text_width, ticks
from weft.report.tables import percent, plain, whole

_MOST_NUMBERED = 12
"""Classes up to which cells have their counts written into them."""
_MOST_LEVEL = 6
"""Classes up to which the names of columns lie level."""
_DARK = 0.55
"""Share of a row from which on a cell is so dark that its count is written in the colour of the card."""
_SQUARE = Frame(width=380, height=300)


def confusion_map(matrix: Matrix, *, others: str, title: str) -> Html:
    """Return the matrix as cells, the darker the larger their share of the row; right answers have a colour of their own.

    Args:
        matrix: of counts.
        others: name of the folded classes.
        title: what a screen reader says.
    """
    names = (*matrix.labels, others) if matrix.folded else matrix.labels
    is_slanted = len(names) > _MOST_LEVEL
    width = min(78.0, 420 / len(names)) if not is_slanted else max(14.0, min(34.0, 620 / len(names)))
    height = min(width, 38.0)
    left = 8 + min(100.0, max(text_width(name) for name in names) * 11.5)
    cells = _Cells(left=left, top=78.0 if is_slanted else 26.0, width=width, height=height)
    parts: list[Html | None] = []
    for at, (name, counts) in enumerate(zip(names, matrix.counts, strict=True)):
        middle = cells.y(at + 0.5) + 4
        parts.append(label(cells.left - 6, middle, clip(name, cells.left - 8, size=11.5), "tick end"))
        parts += _row(names, at, counts, cells)
        parts.append(_column_name(name, cells.x(at + 0.5), cells, is_slanted=is_slanted))
    num = len(names)
    return _svg((cells.x(num) + (56 if is_slanted else 4), cells.y(num) + 2), parts, title=title, kind="map")


@dataclass(frozen=True, slots=True)
class _Cells:
    """Where the cells of a matrix lie."""

    left: float
    top: float
    width: float
    height: float

    def x(self, column: float) -> float:
        """Return the left end of a column."""
        return self.left + column * self.width

    def y(self, row: float) -> float:
        """Return the upper end of a row."""
        return self.top + row * self.height


def _row(names: Sequence[str], at: int, counts: Sequence[int], cells: _Cells) -> list[Html | None]:
    total = sum(counts) or 1
    parts: list[Html | None] = []
    for place, count in enumerate(counts):
        square = {
            "x": cells.x(place),
            "y": cells.y(at),
            "width": cells.width - 1.5,
            "height": cells.height - 1.5,
            "rx": 2.0,
        }
        if not count:
            parts.append(tag("rect", attrs={**square, "class": "none"}))
            continue
        note = f"{names[at]} → {names[place]}: {whole(count)} ({percent(count / total)})"
        look = {"class": "right" if place == at else "wrong", "fill-opacity": 0.06 + 0.94 * count / total}
        parts.append(tag("rect", tag("title", note), attrs={**square, **look}))
        if len(names) <= _MOST_NUMBERED:
            kind = "cell mid inverse" if count / total > _DARK else "cell mid"
            parts.append(label(cells.x(place + 0.5) - 0.75, cells.y(at + 0.5) + 4, whole(count), kind))
    return parts


def _column_name(name: str, x: float, cells: _Cells, *, is_slanted: bool) -> Html:
    if not is_slanted:
        return label(x, cells.top - 8, clip(name, cells.width - 2, size=11.5), "tick mid")
    y = cells.top - 5
    attrs = {"x": x, "y": y, "class": "tick", "transform": f"rotate(-50 {x:.1f} {y:.1f})"}
    return tag("text", clip(name, 92, size=11.5), attrs=attrs)


def reliability_bars(found: Reliability, *, x_label: str, y_label: str, title: str) -> Html:
    """Return a bar for each bin, as high as its probabilities came true, the fainter the fewer they are."""
    frame = _SQUARE
    x = Scale(0.0, 1.0, frame.left, frame.width - frame.right)
    y = Scale(0.0, 1.0, frame.height - frame.bottom, frame.top)
    most = max(one.count for one in found.bins)
    width = x.at(1 / found.num_bins) - x.at(0)
    bars: list[Html | None] = []
    for one in found.bins:
        number = min(int(one.claimed * found.num_bins), found.num_bins - 1)
        note = f"{percent(one.claimed)} → {percent(one.true)} ({whole(one.count)})"
        at = {
            "x": x.at(number / found.num_bins) + 1,
            "width": width - 2,
            "height": max(y.at(0) - y.at(one.true), 1),
        }
        shade = 0.25 + 0.75 * (one.count / most) ** 0.5
        bars.append(
            tag(
                "rect",
                tag("title", note),
                attrs={**at, "y": min(y.at(one.true), y.at(0) - 1), "class": "fill", "fill-opacity": shade},
            )
        )
    axes = Axes(title, x_label, y_label, format_x="{:g}".format, format_y="{:g}".format)
    parts = (
        grid_lines(x, y, ticks(0.0, 1.0), axes=axes, frame=frame),
        *bars,
        line(x.at(0), y.at(0), x.at(1), y.at(1), "level"),
    )
    return _svg((frame.width, frame.height), parts, title=title, kind="chart c0")


def scatter(found: Points, *, x_label: str, y_label: str, title: str) -> Html:
    """Return gold (across) against answered (upwards), with the diagonal."""
    frame = _SQUARE
    x_ticks = ticks(min(at for at, _ in found.points), max(at for at, _ in found.points))
    y_ticks = ticks(min(at for _, at in found.points), max(at for _, at in found.points))
    x = Scale(x_ticks[0], x_ticks[-1], frame.left, frame.width - frame.right)
    y = Scale(y_ticks[0], y_ticks[-1], frame.height - frame.bottom, frame.top)
    low, high = max(x.low, y.low), min(x.high, y.high)
    dots = [
        tag(
            "circle",
            tag("title", f"{plain(gold)} → {plain(answered)}"),
            attrs={"cx": x.at(gold), "cy": y.at(answered), "r": 2.6, "class": "dot faint"},
        )
        for gold, answered in found.points
    ]
    diagonal = line(x.at(low), y.at(low), x.at(high), y.at(high), "level") if low < high else None
    axes = Axes(title, x_label, y_label)
    parts = (grid_lines(x, y, y_ticks, axes=axes, frame=frame), diagonal, *dots)
    return _svg((frame.width, frame.height), parts, title=title, kind="chart c0")


def histogram(found: Histogram, *, x_label: str, y_label: str, title: str) -> Html:
    """Return a bar for each range."""
    frame = _SQUARE
    y_ticks = ticks(0.0, float(max(found.counts)))
    x = Scale(found.low, found.high, frame.left, frame.width - frame.right)
    y = Scale(y_ticks[0], y_ticks[-1], frame.height - frame.bottom, frame.top)
    step = (found.high - found.low) / len(found.counts)
    edges = [found.low + at * step for at in range(len(found.counts) + 1)]
    bars = [
        tag(
            "rect",
            tag("title", f"{plain(start)} – {plain(end)}: {whole(count)}"),
            attrs={
                "x": x.at(start) + 0.75,
                "y": y.at(count),
                "width": x.at(end) - x.at(start) - 1.5,
                "height": y.at(0) - y.at(count),
                "class": "fill",
            },
        )
        for (start, end), count in zip(pairwise(edges), found.counts, strict=True)
        if count
    ]
    axes = Axes(title, x_label, y_label)
    parts = (
        grid_lines(x, y, y_ticks, axes=axes, frame=frame),
        *bars,
        line(x.at(0), y.at(0), x.at(0), frame.top, "cut"),
    )
    return _svg((frame.width, frame.height), parts, title=title, kind="chart c0")


def _svg(size: tuple[float, float], parts: Sequence[Html | None], *, title: str, kind: str) -> Html:
    width, height = size
    attrs = {"class": kind, "viewBox": f"0 0 {width:.0f} {height:.0f}", "role": "img", "aria-label": title}
    if kind == "map":
        attrs |= {"width": f"{width:.0f}", "height": f"{height:.0f}"}
    return tag("svg", *parts, attrs=attrs)
