"""The graph of stages as inline SVG: boxes, and an edge from each parent to its child."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weft.report.markup import Html, decimal, tag
from weft.report.svg import clip, coordinates, label, line


@dataclass(frozen=True, slots=True)
class Node:
    """One box of the stage graph.

    Attributes:
        name: unique; drawn in bold.
        parents: names of the boxes that it starts from, none for the first.
        lines: what stands under the name.
        share: trained share of the parameters, drawn as a bar at the bottom; None for no bar.
    """

    name: str
    parents: tuple[str, ...]
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
        depth = max((depths[parent] + 1 for parent in node.parents), default=0)
        lane = min((lanes[parent] for parent in node.parents), default=0)
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
    edges = [
        _edge(corners, parent, node.name, is_upright=is_upright) for node in nodes for parent in node.parents
    ]
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


def _edge(corners: Mapping[str, tuple[float, float]], parent: str, child: str, *, is_upright: bool) -> Html:
    """Return the curve from the parent's box with an arrow head at the child's."""
    (left, top), (to_left, to_top) = corners[parent], corners[child]
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
        tag("polygon", attrs={"points": coordinates(head), "class": "head"}),
        attrs={"data-from": parent, "data-to": child},
    )


def _box(node: Node, left: float, top: float) -> Html:
    attrs = {"x": left, "y": top, "width": BOX_WIDTH, "height": BOX_HEIGHT, "rx": 10.0}
    lines = [
        label(left + 14, top + 46 + 17 * at, clip(line, BOX_WIDTH - 28, size=12), "small")
        for at, line in enumerate(node.lines)
    ]
    parts: list[Html | None] = [
        tag("title", "\n".join((node.name, *node.lines))),
        tag("rect", attrs={**attrs, "class": "box" if node.parents else "box root"}),
        label(left + 14, top + 26, clip(node.name, BOX_WIDTH - 28, size=15), "strong"),
        *lines,
    ]
    if node.share is not None:
        room, height = BOX_WIDTH - 28, top + BOX_HEIGHT - 10
        filled = max(2.0, room * min(node.share, 1.0))
        parts.append(line(left + 14, height, left + 14 + room, height, "share"))
        parts.append(line(left + 14, height, left + 14 + filled, height, "share filled"))
    return tag("g", *parts, attrs={"class": "node", "data-name": node.name})
