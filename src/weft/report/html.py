"""A run as one HTML page that is whole by itself: no script, no request, nothing from the data taken as markup."""

from __future__ import annotations

from collections.abc import Callable

from weft.report import grids, panels, sections, tables
from weft.report.markup import Html, join, tag
from weft.report.records import RunReport
from weft.report.style import CSS
from weft.report.widgets import grid_table
from weft.report.words import Words, words_of

# Whatever slipped into the page, the browser may neither run nor load it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render_html(report: RunReport, *, lang: str = "en") -> str:
    """Return the page of ``report``; the same report gives the same page, byte for byte.

    Args:
        report: of a run, finished or not.
        lang: ``en`` or ``zh``.

    Raises:
        ValueError: no such language.
    """
    words = words_of(lang)
    found = [one for one in _sections(report, words) if one[3] is not None]
    links = [tag("a", title, attrs={"href": f"#{key}"}) for key, title, _, _ in found]
    bodies = [
        tag(
            "section",
            tag("h2", title),
            tag("p", lead, attrs={"class": "lead"}) if lead else None,
            body,
            attrs={"id": key},
        )
        for key, title, lead, body in found
    ]
    page = tag(
        "html",
        _head(report, words),
        tag("body", _top(report, words, links), tag("main", *bodies), _footer(report, words)),
        attrs={"lang": words.lang},
    )
    return f"<!doctype html>\n{page}\n"


def _sections(report: RunReport, words: Words) -> list[tuple[str, str, str, Html | None]]:
    """Return key, title, lead and body of each section; None where there is nothing to show yet."""

    def panel(content: Html) -> Html:
        return tag("div", content, attrs={"class": "panel"})

    def if_any(has: object, make: Callable[[RunReport, Words], Html]) -> Html | None:
        return make(report, words) if has else None

    return [
        ("stages", words.stages, words.stages_lead, if_any(report.stages, sections.stages)),
        ("curves", words.curves, words.curves_lead, if_any(report.stages, sections.curves)),
        (
            "scores",
            words.scores,
            words.scores_lead,
            if_any(report.final, lambda r, w: panel(sections.scores(r, w))),
        ),
        ("details", words.details, words.details_lead, if_any(report.details, panels.details)),
        (
            "leaving",
            words.leaving,
            words.leaving_lead,
            if_any(
                any(stage.leaving for stage in report.stages),
                lambda r, w: panel(grid_table(grids.leaving_grid(r, w))),
            ),
        ),
        (
            "mixture",
            words.mixture,
            words.mixture_lead,
            if_any(report.stages, lambda r, w: panel(grid_table(grids.mixture_grid(r, w)))),
        ),
        ("parameters", words.parameters, words.parameters_lead, if_any(report.stages, sections.parameters)),
        ("data", words.data, words.data_lead, if_any(report.data.tasks, sections.data)),
        ("cost", words.cost, words.cost_lead, if_any(report.stages, sections.cost)),
        ("environment", words.environment, "", sections.environment(report, words)),
    ]


def _head(report: RunReport, words: Words) -> Html:
    return tag(
        "head",
        tag("meta", attrs={"charset": "utf-8"}),
        tag("meta", attrs={"http-equiv": "Content-Security-Policy", "content": POLICY}),
        tag("meta", attrs={"name": "viewport", "content": "width=device-width,initial-scale=1"}),
        tag("title", f"{report.name} · {words.report}"),
        tag("style", Html(CSS)),
    )


def _top(report: RunReport, words: Words, links: list[Html]) -> Html:
    num_tasks = len({name for stage in report.stages for name in stage.plan.tasks} or report.data.tasks)
    facts = (
        report.model,
        words.seed.format(report.seed),
        words.num_tasks.format(num_tasks),
        words.num_stages.format(len(report.stages)),
        tables.duration(report.seconds),
        words.finished if report.finished else words.unfinished,
    )
    return tag(
        "header",
        tag("div", _mark(), f"Weft · {words.report}", attrs={"class": "eyebrow"}),
        tag("h1", report.name),
        tag("p", *(tag("span", fact) for fact in facts), attrs={"class": "facts"}),
        tag("p", grids.verdict(report, words), attrs={"class": "verdict"}),
        sections.cards(report, words),
        tag("nav", *links),
        attrs={"class": "top"},
    )


def _mark() -> Html:
    """Return the sign of the project: a thread woven over and under four others."""
    warp = [tag("line", attrs={"x1": x, "y1": 3, "x2": x, "y2": 23}) for x in (4, 10, 16, 22)]
    weft = tag("path", attrs={"d": "M1 13c2-5 4-5 6 0s4 5 6 0 4-5 6 0 4 5 6 0"})
    return tag("svg", *warp, weft, attrs={"class": "mark", "viewBox": "0 0 26 26", "aria-hidden": "true"})


def _footer(report: RunReport, words: Words) -> Html:
    return join((tag("footer", words.footer.format(report.weft)),))
