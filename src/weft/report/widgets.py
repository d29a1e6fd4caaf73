"""Pieces of pages that every section uses: tables that scroll, pairs of a name and what it is."""

from __future__ import annotations

from collections.abc import Iterable

from weft.report.grids import Grid, Kind
from weft.report.markup import Html, join, tag


def grid_table(grid: Grid) -> Html:
    """Return ``grid`` as a table that scrolls sideways where it is too wide."""
    head = tag("tr", *(tag("th", label, attrs={"class": _cell_class(kind)}) for label, kind in grid.columns))
    last = len(grid.rows) - 1
    body = [
        tag(
            "tr",
            *(_cell(text, kind, at in grid.dim) for text, (_, kind) in zip(row, grid.columns, strict=True)),
            attrs={"class": "sum" if grid.has_total and at == last else "dim" if at in grid.dim else None},
        )
        for at, row in enumerate(grid.rows)
    ]
    return scroll(tag("table", tag("thead", head), tag("tbody", *body)))


def scroll(inner: Html) -> Html:
    """Return ``inner`` in a box that scrolls sideways by itself, reachable by keyboard."""
    return tag("div", inner, attrs={"class": "scroll", "tabindex": 0})


def _cell_class(kind: Kind) -> str | None:
    return str(kind) if kind in (Kind.NUMBER, Kind.PATH, Kind.SOFT) else None


def _cell(content: str, kind: Kind, is_dim: bool) -> Html:  # noqa: FBT001 - a column's value, not a switch
    if kind is Kind.ROLE:
        return tag("td", tag("span", content, attrs={"class": f"pill {'frozen' if is_dim else 'trained'}"}))
    return tag("td", content, attrs={"class": _cell_class(kind)})


def facts_list(facts: Iterable[tuple[str, object]]) -> Html:
    """Return pairs of a name and what it is."""
    return tag("dl", *(join((tag("dt", name), tag("dd", value))) for name, value in facts))
