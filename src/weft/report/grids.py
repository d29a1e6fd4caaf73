"""Tables of a run as plain text, derived once and drawn as Markdown, as HTML or on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from weft.report import tables
from weft.report.detail_words import DetailWords
from weft.report.details import Column, Slice, Slices, SpanError, Table, TaskDetail
from weft.report.records import (
    EvalReport,
    GroupRow,
    RunReport,
    Score,
    StageReport,
    TaskDataReport,
    TaskReport,
)
from weft.report.words import Words


class Kind(StrEnum):
    """What a column holds, which decides how a page sets it."""

    TEXT = "t"
    NUMBER = "n"
    PATH = "p"
    SOFT = "s"
    ROLE = "role"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of texts.

    Attributes:
        columns: label and kind of each column.
        rows: one text a column.
        dim: numbers of rows that matter less.
        has_total: whether the last row sums up the others.
    """

    columns: tuple[tuple[str, Kind], ...]
    rows: tuple[tuple[str, ...], ...]
    dim: frozenset[int] = field(default_factory=frozenset[int])
    has_total: bool = False


class Judged(Protocol):
    """A report with scores, and with what the answers behind them look like."""

    @property
    def final(self) -> tuple[EvalReport, ...]:
        """The evaluations."""
        ...

    @property
    def details(self) -> tuple[TaskDetail, ...]:
        """What the answers look like, by task."""
        ...


def final_tasks(report: Judged) -> tuple[TaskReport, ...]:
    """Return the final report of each task and split."""
    return tuple(task for one in report.final for task in one.tasks)


def fitted(task: TaskReport) -> str:
    """Return what was fitted to dev rows, in one line: ``threshold 0.42``."""
    return ", ".join(
        f"{name} {tables.plain(value) if isinstance(value, float) else value}"
        for name, value in task.fitted.items()
    )


def verdict(report: Judged, words: Words) -> str:
    """Return in one sentence how the final primary scores stand to their baselines."""
    primary = [task.scores[0] for task in final_tasks(report)]
    if not primary:
        return words.no_final
    above = sum(tables.standing(score) == "above" for score in primary)
    return words.all_beat if above == len(primary) else words.some_beat.format(above, len(primary))


def score_grid(report: Judged, words: Words) -> Grid:
    """Return all final scores."""
    rows = [row for task in final_tasks(report) for row in _score_rows(task, words)]
    labels = (words.task, words.split, words.metric, words.value, words.interval, words.baseline, words.rows)
    return _grid(labels, rows, {3: Kind.NUMBER, 4: Kind.NUMBER, 5: Kind.NUMBER, 6: Kind.NUMBER})


def _score_rows(task: TaskReport, words: Words) -> Iterator[tuple[str, ...]]:
    for score in task.scores:
        yield (
            task.task,
            task.split,
            score.metric,
            tables.score_value(score),
            f"[{_value(score, score.low)}, {_value(score, score.high)}]",
            _value(score, score.baseline),
            tables.whole(score.n),
        )
    if task.perplexity is not None:
        yield (task.task, task.split, words.perplexity, tables.plain(task.perplexity), "–", "–", "–")


def _value(score: Score, value: float) -> str:
    return tables.number(
        value, hundredths=tables.is_share(score.best, higher_is_better=score.higher_is_better)
    )


def leaving_grid(report: RunReport, words: Words) -> Grid:
    """Return the primary dev score of each task at the end of each stage that handed its head on."""
    stages = [stage for stage in report.stages if stage.leaving is not None]
    names = dict.fromkeys(task.task for stage in stages if stage.leaving for task in stage.leaving.tasks)
    rows = [(name, *(_at_end(stage, name) for stage in stages)) for name in names]
    labels = (words.task, *(stage.name for stage in stages))
    return _grid(labels, rows, dict.fromkeys(range(1, len(labels)), Kind.NUMBER))


def _at_end(stage: StageReport, task: str) -> str:
    found = [one for one in stage.leaving.tasks if one.task == task] if stage.leaving else []
    return f"{found[0].scores[0].metric} {tables.score_interval(found[0].scores[0])}" if found else "–"


def mixture_grid(report: RunReport, words: Words) -> Grid:
    """Return for each stage and task the share wanted, the share drawn and the passes made over its rows."""
    used = {
        task.task: split.num_examples
        for task in report.data.tasks
        for split in task.splits
        if split.split == "train"
    }
    rows: list[tuple[str, ...]] = []
    for stage in report.stages:
        total = sum(stage.examples.values())
        for name in dict.fromkeys((*stage.plan.tasks, *stage.examples)):
            drawn = stage.examples.get(name, 0)
            rows.append(
                (
                    stage.name,
                    name,
                    tables.percent(stage.plan.tasks.get(name, 0.0)),
                    tables.percent(drawn / total) if total else "–",
                    tables.whole(drawn),
                    f"{drawn / used[name]:.2f}" if used.get(name) else "–",
                )
            )
    labels = (words.stage, words.task, words.rate_wanted, words.rate_drawn, words.drawn, words.passes)
    return _grid(labels, rows, dict.fromkeys(range(2, 6), Kind.NUMBER))


def parameter_grid(table: Iterable[GroupRow], words: Words) -> Grid:
    """Return the condensed parameter table of one stage; frozen rows are dim."""
    groups = tuple(table)
    rows = [
        (
            row.paths,
            _role(row, words),
            row.owner,
            row.why,
            tables.whole(row.num_tensors),
            tables.short(row.num_values),
            tables.rate(row.lr),
        )
        for row in groups
    ]
    labels = (words.paths, words.role, words.owner, words.why, words.tensors, words.values, words.lr)
    kinds = {0: Kind.PATH, 1: Kind.ROLE, 3: Kind.SOFT, 4: Kind.NUMBER, 5: Kind.NUMBER, 6: Kind.NUMBER}
    dim = frozenset(at for at, row in enumerate(groups) if row.role != "trained")
    return _grid(labels, rows, kinds, dim=dim)


def _role(row: GroupRow, words: Words) -> str:
    return {"trained": words.trained, "frozen": words.frozen}.get(row.role, row.role)


def split_grid(task: TaskDataReport, words: Words) -> Grid:
    """Return the splits of one task: rows read, used and dropped, examples where there are more, lengths, duplicates."""
    has_more = any(split.num_examples != split.used for split in task.splits)
    rows = [
        (
            split.split,
            tables.whole(split.read),
            tables.whole(split.used),
            *([tables.whole(split.num_examples)] if has_more else []),
            counts(split.dropped) or "–",
            f"{split.tokens_mean:.1f} · {split.tokens_p95} · {split.tokens_max}",
            tables.percent(split.cut_share),
            tables.whole(split.duplicates),
            f"{', '.join(split.sources)} ({split.encoding})",
        )
        for split in task.splits
    ]
    labels = (
        words.split,
        words.read,
        words.used,
        *([words.examples] if has_more else []),
        words.dropped,
        words.length,
        words.cut,
        words.duplicates,
        words.sources,
    )
    dropped = labels.index(words.dropped)
    numbers = [at for at in range(1, len(labels) - 1) if at != dropped]
    return _grid(labels, rows, {**dict.fromkeys(numbers, Kind.NUMBER), len(labels) - 1: Kind.SOFT})


def counts(found: Mapping[str, int]) -> str:
    """Return ``no label 3, empty text 1``, largest first."""
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {tables.whole(number)}" for name, number in ordered)


def cost_grid(report: RunReport, words: Words) -> Grid:
    """Return what each stage cost, and what all cost together."""
    rows = [_cost(stage.name, [stage]) for stage in report.stages]
    if len(report.stages) > 1:
        rows.append(_cost(words.total, report.stages))
    labels = (
        words.stage,
        words.training,
        words.evaluating,
        words.answering,
        words.steps.format("").strip(),
        words.examples,
        words.tokens,
        words.tokens_per_s,
        words.padding,
        words.peak_memory,
        words.skipped,
    )
    kinds = dict.fromkeys(range(1, 11), Kind.NUMBER)
    return _grid(labels, rows, kinds, has_total=len(report.stages) > 1)


def _cost(name: str, stages: Iterable[StageReport]) -> tuple[str, ...]:
    found = tuple(stages)
    seconds, tokens = sum(s.seconds for s in found), sum(s.tokens for s in found)
    padded = sum(s.padded_tokens for s in found)
    return (
        name,
        tables.duration(seconds),
        tables.duration(sum(s.seconds_evaluating for s in found)),
        tables.duration(sum(task.seconds for s in found for one in s.evaluations for task in one.tasks)),
        tables.whole(sum(s.steps for s in found)),
        tables.whole(sum(sum(s.examples.values()) for s in found)),
        tables.short(tokens),
        tables.whole(round(tokens / seconds)) if seconds > 0 else "–",
        tables.percent(1 - tokens / padded) if padded else "–",
        tables.memory(max(s.peak_memory_bytes for s in found)),
        tables.whole(sum(s.skipped for s in found)),
    )


def signatures(task: TaskReport) -> tuple[str, ...]:
    """Return how the library behind a score took it, for those scores that can be taken in several ways."""
    return tuple(f"{score.metric}: {score.signature}" for score in task.scores if score.signature)


_TEXTS = (Column.CLASS, Column.GOLD, Column.ANSWERED, Column.ERROR)
_SCORES = (Column.PRECISION, Column.RECALL, Column.F1)


def detail_grid(table: Table, words: DetailWords) -> Grid:
    """Return a table of a task's answers, with the rows that it has."""
    columns = tuple(
        (words.title(column), Kind.TEXT if column in _TEXTS else Kind.NUMBER) for column in table.columns
    )
    rows = (
        tuple(_detail(value, column, words) for value, column in zip(row, table.columns, strict=True))
        for row in table.rows
    )
    return Grid(columns, tuple(rows))


def _detail(value: str | float, column: Column, words: DetailWords) -> str:
    if column is Column.ERROR:
        return words.title(SpanError(value))
    if isinstance(value, str):
        return value
    if column is Column.SHARE:
        return tables.percent(value)
    return tables.number(value, hundredths=True) if column in _SCORES else tables.whole(int(value))


def slice_texts(one: Slice, *, hundredths: bool) -> tuple[str, str, str]:
    """Return the lengths of some rows, their score with its interval, and their number."""
    lengths = dict.fromkeys((tables.whole(one.low), tables.whole(one.high)))
    low, high = one.interval
    return (
        "–".join(lengths),
        tables.interval(one.value, low, high, hundredths=hundredths),
        tables.whole(one.n),
    )


def slice_grid(found: Slices, words: DetailWords) -> Grid:
    """Return the scores of rows of like length."""
    hundredths = tables.is_share(found.best, higher_is_better=found.higher_is_better)
    rows = [slice_texts(one, hundredths=hundredths) for one in found.slices]
    return _grid((words.tokens, found.metric, words.count), rows, {1: Kind.NUMBER, 2: Kind.NUMBER})


def stage_lines(stage: StageReport, words: Words) -> tuple[str, str, str]:
    """Return three short lines about a stage: its strategy, what is trained, what it takes over."""
    trained = tables.percent(stage.plan.num_trained / stage.plan.num_values if stage.plan.num_values else 0.0)
    length = words.steps.format(tables.whole(stage.steps))
    carried = " · ".join(f"{part} {what}" for part, what in stage.plan.carry.items())
    return (
        f"{stage.plan.strategy} · {length}",
        f"{words.trained} {trained}",
        f"{words.carry} {carried or '–'}",
    )


def evaluations_of(stage: StageReport, task: str) -> tuple[tuple[EvalReport, TaskReport], ...]:
    """Return the evaluations of ``task`` during ``stage``, in order."""
    return tuple((one, found) for one in stage.evaluations for found in one.tasks if found.task == task)


def _grid(
    labels: Iterable[str],
    rows: Iterable[tuple[str, ...]],
    kinds: Mapping[int, Kind],
    *,
    dim: frozenset[int] = frozenset(),
    has_total: bool = False,
) -> Grid:
    columns = tuple((label, kinds.get(at, Kind.TEXT)) for at, label in enumerate(labels))
    return Grid(columns, tuple(rows), dim, has_total)
