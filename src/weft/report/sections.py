"""The sections of a run's page, each a pure function of the report."""

from __future__ import annotations

from collections.abc import Iterable

from weft.report import grids, tables
from weft.report.graph import Node, stage_graph
from weft.report.markup import Html, join, tag
from weft.report.records import (
    GIVEN,
    PARENTS,
    RunReport,
    Score,
    SplitReport,
    StageReport,
    TaskDataReport,
    TaskReport,
)
from weft.report.svg import NUM_COLOURS, Axes, Point, Series, bar_ends, interval_bar, line_chart
from weft.report.widgets import facts_list, grid_table, scroll
from weft.report.words import Words

MOST_POINTS = 160
"""Points of one line; longer curves are averaged in equal runs, or pages would grow with the run."""
MOST_LABELS = 16


def cards(report: grids.Judged, words: Words) -> Html:
    """Return one card a task: its primary score, interval, baseline and rows."""
    found = (
        _card(task, words, has_chosen=one.split != GIVEN and task.split != "test")
        for one in report.final
        for task in one.tasks
    )
    return tag("div", *found, attrs={"class": "cards"})


def _card(task: TaskReport, words: Words, *, has_chosen: bool) -> Html:
    """Return the card of a task; ``has_chosen`` if the rows that judge it have chosen its checkpoint too."""
    score = task.scores[0]
    stands = tables.standing(score)
    said = {"above": words.beats, "level": words.level, "below": words.below}[stands]
    value, _, ends = tables.score_interval(score).partition(" ")
    said_too = [words.dev_chose] if has_chosen else []
    said_too += [words.fitted.format(grids.fitted(task))] if task.fitted else []
    said_too += [f"{words.perplexity} {tables.plain(task.perplexity)}"] if task.perplexity is not None else []
    said_too += grids.signatures(task)
    notes = [tag("p", text, attrs={"class": "note"}) for text in said_too]
    return tag(
        "div",
        tag(
            "div",
            tag("span", tag("b", task.task), " ", task.kind),
            tag("span", said, attrs={"class": f"pill {stands}"}),
            attrs={"class": "head"},
        ),
        tag("div", value, tag("small", f"{score.metric} {ends}"), attrs={"class": "big"}),
        _bar(score),
        tag(
            "div",
            tag("span", f"{words.baseline} {_as_shown(score, score.baseline)}"),
            tag("span", f"{task.split} · {tables.whole(score.n)} {words.rows}"),
            attrs={"class": "foot"},
        ),
        *notes,
        attrs={"class": "card"},
    )


def _bar(score: Score) -> Html:
    values = (score.value, score.low, score.high, score.baseline)
    return interval_bar(
        score.value,
        low=score.low,
        high=score.high,
        baseline=score.baseline,
        ends=bar_ends(values, score.best),
        standing=tables.standing(score),
    )


def _as_shown(score: Score, value: float) -> str:
    share = tables.is_share(score.best, higher_is_better=score.higher_is_better)
    return tables.number(value, hundredths=share)


def stages(report: RunReport, words: Words) -> Html:
    """Return the stage graph, lying for wide pages and upright for narrow ones, and the stages' notes."""
    base = Node(name="base", parents=(), lines=(report.model, words.base_model))
    nodes = (base, *(_node(stage, words) for stage in report.stages))
    notes = [
        tag("li", f"{stage.name}: {note}")
        for stage in report.stages
        for note in (*stage.plan.notes, *stage.plan.ways, *stage.plan.defaults)
    ]
    return join(
        (
            scroll(stage_graph(nodes, title=words.stages)),
            stage_graph(nodes, title=words.stages, is_upright=True),
            tag("h3", words.notes) if notes else None,
            tag("ul", *notes) if notes else None,
        )
    )


def _node(stage: StageReport, words: Words) -> Node:
    share = stage.plan.num_trained / stage.plan.num_values if stage.plan.num_values else 0.0
    return Node(
        name=stage.name,
        parents=tuple(stage.parent.split(PARENTS)),
        lines=grids.stage_lines(stage, words),
        share=share,
    )


def curves(report: RunReport, words: Words) -> Html:
    """Return one panel a task: training loss, and the dev score with its interval, over the steps of all stages."""
    names = dict.fromkeys(name for stage in report.stages for name in stage.plan.tasks)
    return join(_curve(report, name, words) for name in names)


def _curve(report: RunReport, task: str, words: Words) -> Html:
    starts = _starts(report.stages)
    runs = [(at, stage) for at, stage in enumerate(report.stages) if _concerns(stage, task)]
    losses = [_loss_series(stage, task, at, starts[at]) for at, stage in runs]
    scores = [_score_series(stage, task, at, starts[at]) for at, stage in runs]
    primary = next((found.scores[0] for _, s in runs for _, found in grids.evaluations_of(s, task)), None)
    cuts = tuple((float(start), stage.name) for start, stage in zip(starts, report.stages, strict=True))
    cuts = cuts if len(cuts) > 1 else ()
    charts = [line_chart(losses, _loss_axes(task, cuts, words))]
    if primary is not None:
        charts.append(line_chart(scores, _score_axes(task, primary, cuts, words)))
    legend = [tag("li", stage.name, attrs={"class": f"c{at % NUM_COLOURS}"}) for at, stage in runs]
    return tag(
        "div",
        tag("h3", task),
        tag("ul", *legend, attrs={"class": "legend"}),
        tag("div", *charts, attrs={"class": "charts"}),
        attrs={"class": "panel"},
    )


def _concerns(stage: StageReport, task: str) -> bool:
    return any(task in step.losses for step in stage.curve) or bool(grids.evaluations_of(stage, task))


def _starts(found: Iterable[StageReport]) -> list[int]:
    """Return the step of the whole run at which each stage begins."""
    starts = [0]
    for stage in found:
        starts.append(starts[-1] + stage.steps)
    return starts[:-1]


def _loss_axes(task: str, cuts: tuple[tuple[float, str], ...], words: Words) -> Axes:
    title = f"{task}: {words.train_loss}"
    return Axes(title, words.step, words.train_loss, cuts=cuts, format_x="{:,.0f}".format)


def _score_axes(task: str, score: Score, cuts: tuple[tuple[float, str], ...], words: Words) -> Axes:
    share = tables.is_share(score.best, higher_is_better=score.higher_is_better)
    return Axes(
        f"{task}: {words.dev} {score.metric}",
        words.step,
        f"{words.dev} {score.metric}",
        level=score.baseline,
        level_label=words.baseline,
        cuts=cuts,
        format_y=(lambda value: f"{value * 100:.6g}") if share else "{:g}".format,
        format_x="{:,.0f}".format,
    )


def _loss_series(stage: StageReport, task: str, colour: int, start: int) -> Series:
    points = [Point(start + step.step, step.losses[task]) for step in stage.curve if task in step.losses]
    return Series(stage.name, thin(points, MOST_POINTS), colour)


def thin(points: list[Point], most: int) -> tuple[Point, ...]:
    """Return at most ``most`` points, each the mean of a run of neighbours."""
    size = -(-len(points) // most) or 1
    runs = [points[at : at + size] for at in range(0, len(points), size)]
    if size == 1:
        return tuple(points)
    return tuple(Point(sum(p.x for p in run) / len(run), sum(p.y for p in run) / len(run)) for run in runs)


def _score_series(stage: StageReport, task: str, colour: int, start: int) -> Series:
    points: list[Point] = []
    best: int | None = None
    for one, found in grids.evaluations_of(stage, task):
        score = found.scores[0]
        if one.step == stage.best_step:
            best = len(points)
        note = f"{stage.name}, {one.step}: {score.metric} {tables.score_interval(score)}"
        points.append(Point(start + one.step, score.value, score.low, score.high, note))
    return Series(stage.name, tuple(points), colour, has_markers=True, best=best)


def scores(report: grids.Judged, words: Words) -> Html:
    """Return the table of final scores with small interval bars."""
    labels = (
        words.task,
        words.split,
        words.metric,
        words.value,
        words.interval,
        "",
        words.baseline,
        words.rows,
    )
    numeric = {3, 4, 6, 7}
    head = [
        tag("th", label, attrs={"class": "n" if at in numeric else None}) for at, label in enumerate(labels)
    ]
    bars: list[Html | None] = []
    for task in grids.final_tasks(report):
        bars += [_bar(score) for score in task.scores]
        bars += [] if task.perplexity is None else [None]  # it has no interval
    plain = grids.score_grid(report, words).rows
    body = [_score_row(row, bar) for row, bar in zip(plain, bars, strict=True)]
    return scroll(tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body)))


def _score_row(row: tuple[str, ...], bar: Html | None) -> Html:
    task, split, metric, value, ends, baseline, n = row
    return tag(
        "tr",
        tag("td", task),
        tag("td", split, attrs={"class": "s"}),
        tag("td", metric),
        tag("td", tag("b", value), attrs={"class": "n"}),
        tag("td", ends, attrs={"class": "n"}),
        tag("td", bar, attrs={"class": "w mid"}),
        tag("td", baseline, attrs={"class": "n s"}),
        tag("td", n, attrs={"class": "n s"}),
    )


def parameters(report: RunReport, words: Words) -> Html:
    """Return the condensed parameter table of each stage."""
    parts: list[Html] = []
    for stage in report.stages:
        plan = stage.plan
        share = tables.percent(plan.num_trained / plan.num_values if plan.num_values else 0.0)
        said = words.trained_of.format(tables.short(plan.num_trained), tables.short(plan.num_values), share)
        parts.append(tag("h3", stage.name, tag("small", said)))
        parts.append(
            tag("div", grid_table(grids.parameter_grid(plan.table, words)), attrs={"class": "panel"})
        )
    return join(parts)


def data(report: RunReport, words: Words) -> Html:
    """Return what was read of each task, warnings first."""
    warned = [tag("li", warning) for warning in report.data.warnings]
    box = (
        tag("div", tag("b", words.warnings), tag("ul", *warned), attrs={"class": "warn"}) if warned else None
    )
    return join((box, *(_task_data(task, words) for task in report.data.tasks)))


def _task_data(task: TaskDataReport, words: Words) -> Html:
    train = next((split for split in task.splits if split.split == "train"), None)
    facts: list[tuple[str, object]] = [
        (words.columns, ", ".join(f"{role} ← {column}" for role, column in task.columns.items()) or "–"),
        (words.overlap, grids.counts(task.overlap) or words.none),
    ]
    if task.shared_with:
        facts.append((words.shared, grids.counts(task.shared_with)))
    if train is not None and train.labels:
        facts.append((words.labels, _labels(train, words)))
    return tag(
        "div",
        tag("h3", task.task, tag("small", task.kind)),
        grid_table(grids.split_grid(task, words)),
        facts_list(facts),
        attrs={"class": "panel"},
    )


def _labels(split: SplitReport, words: Words) -> Html:
    ordered = sorted(split.labels.items(), key=lambda item: -item[1])
    chips = [tag("li", label, tag("i", tables.whole(count))) for label, count in ordered[:MOST_LABELS]]
    if len(ordered) > MOST_LABELS:
        chips.append(tag("li", words.more_labels.format(len(ordered) - MOST_LABELS)))
    return tag("ul", *chips, attrs={"class": "chips"})


def cost(report: RunReport, words: Words) -> Html:
    """Return the table of costs, and how each stage ended and began."""
    facts: list[tuple[str, object]] = []
    for stage in report.stages:
        entry = "–" if stage.entry_difference is None else tables.plain(stage.entry_difference)
        facts.append(
            (
                stage.name,
                f"{words.stopped} {stage.stopped} · {words.best} {words.step} {stage.best_step} · "
                f"{words.entry} {entry}",
            )
        )
    return tag("div", grid_table(grids.cost_grid(report, words)), facts_list(facts), attrs={"class": "panel"})


def environment(report: RunReport, words: Words) -> Html:
    """Return the environment and the recipe's digest."""
    facts: list[tuple[str, object]] = [(words.digest, report.digest), *report.environment.items()]
    return tag("div", facts_list(facts), attrs={"class": "panel"})
