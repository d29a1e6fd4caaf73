"""A run's report as Markdown: the same facts as the page, for a terminal, a pull request or a wiki."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from weft.report.records import DataReport, RunReport, StageReport
from weft.report.tables import duration, memory, number, percent, rate, score_interval, short, standing, whole


def render_markdown(report: RunReport) -> str:
    """Return ``report`` as one Markdown document that ends with a line break."""
    blocks = [
        f"# {_text(report.name)}",
        f"Weft {report.weft}, model `{_code(report.model)}`, seed {report.seed}, recipe `{report.digest[:12]}`, "
        f"{duration(report.seconds)}.",
        "## Scores",
        _scores(report),
        _honesty(report),
        "## Stages",
        *(_stage(stage) for stage in report.stages),
        "## Data",
        _data(report.data),
        *(f"- {_text(warning)}" for warning in report.data.warnings),
        "## Environment",
        _table(("what", "value"), ((_text(key), _text(value)) for key, value in report.environment.items())),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _scores(report: RunReport) -> str:
    rows = [
        (
            _text(task.task),
            task.split,
            score.metric,
            score_interval(score),
            number(score.baseline, hundredths=score.best == 1.0 and score.higher_is_better),
            standing(score),
            whole(score.n),
        )
        for evaluation in report.final
        for task in evaluation.tasks
        for score in task.scores
    ]
    return _table(("task", "split", "metric", "value [95 %]", "baseline", "against it", "n"), rows)


def _honesty(report: RunReport) -> str:
    chosen = sorted(
        {task.task for evaluation in report.final for task in evaluation.tasks if task.split != "test"}
    )
    if not chosen:
        return ""
    return f"Without a test split ({', '.join(map(_text, chosen))}) the rows that are judged also chose the checkpoint."


def _stage(stage: StageReport) -> str:
    plan = stage.plan
    entry = (
        ""
        if stage.entry_difference is None
        else f", function kept within {stage.entry_difference:.0e} at entry"
    )
    lines = [
        f"### {_text(stage.name)}",
        f"From {_text(stage.parent)}: {_text(plan.strategy)}; {short(plan.num_trained)} of {short(plan.num_values)} values "
        f"trained ({percent(plan.num_trained / plan.num_values)}){entry}. {whole(stage.steps)} steps, "
        f"{stage.epochs:.2f} epochs, {duration(stage.seconds)} of training, {duration(stage.seconds_evaluating)} of "
        f"judging, peak memory {memory(stage.peak_memory_bytes)}; best after step {stage.best_step}, ended by "
        f"{stage.stopped}.",
        _table(
            ("task", "share wanted", "examples drawn"),
            (
                (_text(task), percent(share), whole(stage.examples.get(task, 0)))
                for task, share in plan.tasks.items()
            ),
        ),
        _table(
            ("parameters", "values", "role", "lr", "why"),
            (
                (f"`{_code(row.paths)}`", short(row.num_values), row.role, rate(row.lr), _text(row.why))
                for row in plan.table
            ),
        ),
    ]
    if stage.skipped:
        lines.append(f"{stage.skipped} steps were not applied: loss or gradient were not finite.")
    return "\n\n".join(lines)


def _data(report: DataReport) -> str:
    rows = [
        (
            _text(task.task),
            split.split,
            whole(split.read),
            whole(split.used),
            ", ".join(f"{count} {_text(reason)}" for reason, count in split.dropped.items()) or "–",
            f"{split.tokens_mean:.0f} (≤ {split.tokens_max})",
            percent(split.cut_share),
            whole(split.duplicates),
        )
        for task in report.tasks
        for split in task.splits
    ]
    return _table(("task", "split", "read", "used", "dropped", "tokens", "cut", "duplicates"), rows)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(text: str) -> str:
    """Return ``text`` such that neither Markdown nor HTML in it is read as markup, on one line."""
    for sign in ("\\", "|", "`", "*", "_", "[", "]", "#"):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())


def _code(text: str) -> str:
    """Return ``text`` for a code span within a table."""
    return " ".join(text.replace("`", "'").replace("|", "\\|").split())
