"""A run, or an evaluation, as one HTML page that is whole by itself: no script, no request, nothing from the data taken as markup."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from weft.report import grids, panels, sections, tables
from weft.report.grids import Grid, Judged
from weft.report.markup import Html, tag
from weft.report.records import GIVEN, BundleReport, RunReport
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
    num_tasks = len({name for stage in report.stages for name in stage.plan.tasks} or report.data.tasks)
    facts = (
        report.model,
        words.seed.format(report.seed),
        words.num_tasks.format(num_tasks),
        words.num_stages.format(len(report.stages)),
        tables.duration(report.seconds),
        words.finished if report.finished else words.unfinished,
    )
    return _page(report, words, title=words.report, facts=facts, sections=_sections(report, words))


def render_evaluation(report: BundleReport, *, lang: str = "en") -> str:
    """Return the page of an evaluation by itself: the sections of a run's page that are about answers.

    Args:
        report: of a bundle on data with answers.
        lang: ``en`` or ``zh``.

    Raises:
        ValueError: no such language.
    """
    words = words_of(lang)
    facts = (report.model, words.num_tasks.format(len({task.task for task in report.tasks})))
    return _page(report, words, title=words.evaluation, facts=facts, sections=_about_answers(report, words))


def _page(
    report: RunReport | BundleReport,
    words: Words,
    *,
    title: str,
    facts: Sequence[str],
    sections: Sequence[_Section],
) -> str:
    """Return a whole page; sections without a body are left out."""
    found = [one for one in sections if one.body is not None]
    links = [tag("a", one.title, attrs={"href": f"#{one.key}"}) for one in found]
    bodies = [
        tag(
            "section",
            tag("h2", one.title),
            tag("p", one.lead, attrs={"class": "lead"}) if one.lead else None,
            one.body,
            attrs={"id": one.key},
        )
        for one in found
    ]
    body = tag(
        "body",
        _top(report, words, title=title, facts=facts, links=links),
        tag("main", *bodies),
        tag("footer", words.footer.format(report.weft)),
    )
    page = tag("html", _head(f"{report.name} · {title}"), body, attrs={"lang": words.lang})
    return f"<!doctype html>\n{page}\n"


class _Section(NamedTuple):
    """A part of a page; its body is None where there is nothing to show yet."""

    key: str
    title: str
    lead: str
    body: Html | None


def _about_answers(report: Judged, words: Words) -> list[_Section]:
    """Return the scores, and what the answers behind them look like."""
    scores = _panel(sections.scores(report, words)) if report.final else None
    shown = panels.details(report, words) if report.details else None
    is_given = any(one.split == GIVEN for one in report.final)
    lead = words.given_lead if is_given else words.scores_lead
    return [
        _Section("scores", words.scores, lead, scores),
        _Section("details", words.details, words.details_lead, shown),
    ]


def _sections(report: RunReport, words: Words) -> list[_Section]:
    """Return all that there is to say of a run."""
    has_stages = bool(report.stages)

    def if_any(has: bool, make: Callable[[RunReport, Words], Html]) -> Html | None:  # noqa: FBT001
        return make(report, words) if has else None

    def if_table(has: bool, make: Callable[[RunReport, Words], Grid]) -> Html | None:  # noqa: FBT001
        return _panel(grid_table(make(report, words))) if has else None

    has_left = any(stage.leaving for stage in report.stages)
    parameters, data = if_any(has_stages, sections.parameters), if_any(bool(report.data.tasks), sections.data)
    return [
        _Section("stages", words.stages, words.stages_lead, if_any(has_stages, sections.stages)),
        _Section("curves", words.curves, words.curves_lead, if_any(has_stages, sections.curves)),
        *_about_answers(report, words),
        _Section("leaving", words.leaving, words.leaving_lead, if_table(has_left, grids.leaving_grid)),
        _Section("mixture", words.mixture, words.mixture_lead, if_table(has_stages, grids.mixture_grid)),
        _Section("parameters", words.parameters, words.parameters_lead, parameters),
        _Section("data", words.data, words.data_lead, data),
        _Section("cost", words.cost, words.cost_lead, if_any(has_stages, sections.cost)),
        _Section("environment", words.environment, "", sections.environment(report, words)),
    ]


def _panel(content: Html) -> Html:
    return tag("div", content, attrs={"class": "panel"})


def _head(title: str) -> Html:
    return tag(
        "head",
        tag("meta", attrs={"charset": "utf-8"}),
        tag("meta", attrs={"http-equiv": "Content-Security-Policy", "content": POLICY}),
        tag("meta", attrs={"name": "viewport", "content": "width=device-width,initial-scale=1"}),
        tag("title", title),
        tag("style", Html(CSS)),
    )


def _top(
    report: RunReport | BundleReport,
    words: Words,
    *,
    title: str,
    facts: Sequence[str],
    links: Sequence[Html],
) -> Html:
    return tag(
        "header",
        tag("div", _mark(), f"Weft · {title}", attrs={"class": "eyebrow"}),
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
