"""What a task's answers look like, on a page: one panel a block, whatever task it is from."""

from __future__ import annotations

from weft.report import plots
from weft.report.detail_words import DetailWords
from weft.report.details import (
    Block,
    Example,
    Examples,
    Histogram,
    Matrix,
    Points,
    Reliability,
    Slice,
    Slices,
    Table,
    TaskDetail,
)
from weft.report.grids import Grid, Judged, detail_grid, slice_texts
from weft.report.markup import Html, join, tag
from weft.report.svg import bar_ends, interval_bar
from weft.report.tables import is_share, percent, plain, whole
from weft.report.widgets import grid_table, scroll
from weft.report.words import Words

_WIDE_MATRIX = 12
"""Classes of a confusion matrix from which on it needs the width of the page."""
_SHORT_ROWS = 14
"""Tables of more rows show these and open the others on demand."""


def details(report: Judged, words: Words) -> Html:
    """Return the panels of every task."""
    return join(_task(task, words.detail) for task in report.details)


def _task(task: TaskDetail, words: DetailWords) -> Html:
    panels = [
        _panel(block, words) for block in task.blocks if not (isinstance(block, Table) and not block.rows)
    ]
    heading = tag("h3", task.task, tag("small", f"{task.kind} · {task.split}"))
    return tag("div", heading, tag("div", *panels, attrs={"class": "panels"}), attrs={"class": "detail"})


def _panel(block: Block, words: DetailWords) -> Html:
    is_wide = isinstance(block, Examples) or (isinstance(block, Matrix) and len(block.labels) > _WIDE_MATRIX)
    return tag(
        "div",
        tag("h4", words.title(block.part)),
        tag("p", words.lead(block.part), attrs={"class": "lead"}),
        _body(block, words),
        attrs={"class": "panel wide" if is_wide else "panel"},
    )


def _body(block: Block, words: DetailWords) -> Html:
    match block:
        case Matrix():
            others = words.others.format(block.folded)
            return scroll(plots.confusion_map(block, others=others, title=words.confusion))
        case Table():
            return _table(block, words)
        case Reliability():
            return _reliability(block, words)
        case Points():
            said = words.drawn_of.format(whole(len(block.points)), whole(block.n))
            chart = plots.scatter(block, x_label=words.gold, y_label=words.answered, title=words.scatter)
            return join((chart, tag("p", said, attrs={"class": "note"})))
        case Histogram():
            return plots.histogram(block, x_label=words.off_by, y_label=words.count, title=words.residuals)
        case Slices():
            return _slices(block, words)
        case Examples():
            return tag("ol", *(_example(one, words) for one in block.examples), attrs={"class": "examples"})


def _reliability(found: Reliability, words: DetailWords) -> Html:
    chart = plots.reliability_bars(
        found, x_label=words.claimed, y_label=words.came_true, title=words.reliability
    )
    error = plain(found.error)
    said = words.ece.format(error)
    if found.temperature != 1:
        said = words.tempered.format(error, plain(found.temperature), plain(found.before))
    return join((chart, tag("p", said, attrs={"class": "note"})))


def _table(table: Table, words: DetailWords) -> Html:
    grid = detail_grid(table, words)
    shown, rest = grid.rows[:_SHORT_ROWS], grid.rows[_SHORT_ROWS:]
    parts: list[Html] = [grid_table(Grid(grid.columns, shown))]
    if rest:
        summary = tag("summary", words.left_out.format(len(rest)))
        parts.append(tag("details", summary, grid_table(Grid(grid.columns, rest))))
    if table.more:
        parts.append(tag("p", words.not_shown.format(whole(table.more)), attrs={"class": "note"}))
    return join(parts)


def _slices(found: Slices, words: DetailWords) -> Html:
    values = [value for one in found.slices for value in (one.value, *one.interval)]
    ends = bar_ends(values, found.best)
    hundredths = is_share(found.best, higher_is_better=found.higher_is_better)
    head = tag(
        "tr",
        tag("th", words.tokens),
        tag("th", found.metric, attrs={"class": "n"}),
        tag("th"),
        tag("th", words.count, attrs={"class": "n"}),
    )
    body = [_slice(one, ends, hundredths=hundredths) for one in found.slices]
    return scroll(tag("table", tag("thead", head), tag("tbody", *body)))


def _slice(one: Slice, ends: tuple[float, float], *, hundredths: bool) -> Html:
    low, high = one.interval
    bar = interval_bar(one.value, low=low, high=high, baseline=None, ends=ends, standing="plain")
    lengths, text, count = slice_texts(one, hundredths=hundredths)
    value, _, interval = text.partition(" ")
    return tag(
        "tr",
        tag("td", lengths),
        tag("td", tag("b", value), " ", tag("small", interval), attrs={"class": "n"}),
        tag("td", bar, attrs={"class": "w mid"}),
        tag("td", count, attrs={"class": "n s"}),
    )


def _example(one: Example, words: DetailWords) -> Html:
    sure = None
    if one.confidence is not None:
        sure = tag("span", words.confidence.format(percent(one.confidence)))
    facts: list[tuple[str, str]] = [(words.gold, one.gold), (words.answered, one.answer)]
    return tag(
        "li",
        tag("div", tag("span", one.where), sure, attrs={"class": "where"}),
        tag("p", one.text, attrs={"class": "text"}) if one.text else None,
        tag("dl", *(join((tag("dt", name), tag("dd", value))) for name, value in facts)),
    )
