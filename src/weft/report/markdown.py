"""A run's report as Markdown: the same tables as the page, for a terminal, a pull request or a wiki."""

from __future__ import annotations

from weft.report import grids
from weft.report.details import Slices, Table
from weft.report.grids import Grid, Kind
from weft.report.records import RunReport, StageReport
from weft.report.tables import duration, percent, short
from weft.report.words import EN, Words

_MARKUP = str.maketrans(
    {"<": "&lt;", ">": "&gt;", "&": "&amp;", **{sign: f"\\{sign}" for sign in "\\|`*_[]#"}}
)


def render_markdown(report: RunReport) -> str:
    """Return ``report`` as one English Markdown document that ends with a line break."""
    words = EN
    blocks = [
        f"# {escape(report.name)}",
        f"Weft {report.weft}, model {escape(report.model)}, seed {report.seed}, recipe {report.digest[:12]}, "
        f"{duration(report.seconds)}.",
        grids.verdict(report, words),
        f"## {words.scores}",
        table(grids.score_grid(report, words)),
        _chosen_by_dev(report),
        _fitted_to_dev(report, words),
        _signatures(report),
        *_details(report, words),
        f"## {words.leaving}",
        table(grids.leaving_grid(report, words)),
        f"## {words.stages}",
        *(block for stage in report.stages for block in _stage(stage, words)),
        f"## {words.mixture}",
        table(grids.mixture_grid(report, words)),
        f"## {words.data}",
        *(f"{escape(task.task)}\n\n{table(grids.split_grid(task, words))}" for task in report.data.tasks),
        "\n".join(f"- {escape(warning)}" for warning in report.data.warnings),
        f"## {words.cost}",
        table(grids.cost_grid(report, words)),
        f"## {words.environment}",
        "\n".join(f"- {escape(key)}: {escape(value)}" for key, value in report.environment.items()),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def table(grid: Grid) -> str:
    """Return ``grid`` as a Markdown table, numbers to the right; empty where it has no rows."""
    if not grid.rows:
        return ""
    rule = ["--:" if kind is Kind.NUMBER else "---" for _, kind in grid.columns]
    lines = [[escape(label) for label, _ in grid.columns], rule]
    lines += [[escape(text) for text in row] for row in grid.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Return ``text`` on one line such that nothing in it is read as Markdown or HTML."""
    return " ".join(text.translate(_MARKUP).split())


def _stage(stage: StageReport, words: Words) -> list[str]:
    plan = stage.plan
    kept = (
        ""
        if stage.entry_difference is None
        else f" Function kept within {stage.entry_difference:.0e} at entry."
    )
    return [
        f"### {escape(stage.name)}",
        f"From {escape(stage.parent)}: {escape(plan.strategy)}. Trained {short(plan.num_trained)} of "
        f"{short(plan.num_values)} values ({percent(plan.num_trained / plan.num_values)}), {stage.steps} steps, "
        f"{stage.epochs:.2f} epochs; best after step {stage.best_step}; ended by {stage.stopped}.{kept}",
        f"{stage.skipped} steps were not applied: loss or gradient were not finite." if stage.skipped else "",
        *(f"- {escape(note)}" for note in (*plan.notes, *plan.ways, *plan.defaults)),
        table(grids.parameter_grid(plan.table, words)),
    ]


def _chosen_by_dev(report: RunReport) -> str:
    names = [escape(task.task) for task in grids.final_tasks(report) if task.split != "test"]
    if not names:
        return ""
    return (
        f"The rows that judge {', '.join(names)} also chose the checkpoint, so these scores are optimistic."
    )


def _fitted_to_dev(report: RunReport, words: Words) -> str:
    lines = [
        f"- {escape(task.task)}: {escape(words.fitted.format(grids.fitted(task)))}"
        for task in grids.final_tasks(report)
        if task.fitted
    ]
    return "\n".join(lines)


def _signatures(report: RunReport) -> str:
    lines = [
        f"- {escape(task.task)}: {escape(line)}"
        for task in grids.final_tasks(report)
        for line in grids.signatures(task)
    ]
    return "\n".join(lines)


def _details(report: RunReport, words: Words) -> list[str]:
    """Return the tables of answers in detail, each under its task; what is drawn or read stands on the page alone."""
    blocks: list[str] = []
    for task in report.details:
        found = [
            (block.part, grids.detail_grid(block, words.detail))
            if isinstance(block, Table)
            else (block.part, grids.slice_grid(block, words.detail))
            for block in task.blocks
            if isinstance(block, Table | Slices)
        ]
        for part, grid in found:
            blocks += [f"{escape(task.task)}: {words.detail.title(part)}", table(grid)] if grid.rows else []
    return [f"## {words.details}", *blocks] if blocks else []
