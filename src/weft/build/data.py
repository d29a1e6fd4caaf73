"""Data files to encoded examples, and the report of what was read, used and dropped, task by task."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weft.core.example import Dropped, Encoded, Purpose, Row
from weft.data.sources import Table, read
from weft.data.survey import duplicates, hold_out, lengths, overlap
from weft.errors import DataError
from weft.recipe.spec import Recipe, TaskSpec
from weft.report.records import DataReport, SplitReport, TaskDataReport
from weft.task.base import Task, Tokenizer
from weft.task.registry import FAMILIES

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class TaskData:
    """One task, fitted, with its encoded splits.

    Attributes:
        task: the fitted task.
        train: examples to learn from.
        dev: examples to select on; held out of the training rows when the recipe names none.
        test: examples for the final score; may be empty.
        source: digest of the training source; tasks with equal sources are drawn in the same order.
    """

    task: Task
    train: tuple[Encoded, ...]
    dev: tuple[Encoded, ...]
    test: tuple[Encoded, ...]
    source: str

    @property
    def train_golds(self) -> list[Any]:
        """Right answers of the training examples."""
        return [example.gold for example in self.train]


@dataclass(frozen=True, slots=True)
class Data:
    """All tasks' data, with the report shown before training and the digest that a resumed run must meet again."""

    tasks: Mapping[str, TaskData]
    report: DataReport
    digest: str

    @property
    def fitted(self) -> dict[str, Task]:
        """Tasks by name."""
        return {name: data.task for name, data in self.tasks.items()}


def read_data(recipe: Recipe, tokenizer: Tokenizer, *, root: Path) -> Data:
    """Return every task's examples.

    Args:
        recipe: names the files.
        tokenizer: of the recipe's model.
        root: folder that relative paths start from (the recipe's own).

    Raises:
        DataError: a file cannot be read, or holds nothing a task can use.
    """
    cache: dict[str, Table] = {}
    tasks: dict[str, TaskData] = {}
    reports: list[TaskDataReport] = []
    texts: dict[str, frozenset[tuple[int, ...]]] = {}
    sources: list[str] = []
    for name, spec in recipe.tasks.items():
        given = {split: _read_split(refs, root=root, cache=cache) for split, refs in _references(spec).items()}
        task = FAMILIES[spec.kind].fit(name, spec, given["train"].rows)
        splits = given if "dev" in given else _with_held_out(task, given, tokenizer, seed=recipe.seed)
        data, report = _prepare(task, splits, tokenizer)
        tasks[name] = data
        reports.append(report)
        texts[name] = frozenset(example.tokens for example in data.train)
        sources.append(f"{name}:" + ":".join(split.digest for split in splits.values()))
    shared = [
        report.model_copy(update={"shared_with": _shared(report.task, texts)}) for report in reports
    ]
    digest = hashlib.sha256("\n".join(sources).encode()).hexdigest()
    return Data(tasks, DataReport(tasks=tuple(shared), warnings=_warnings(shared)), digest)


@dataclass(frozen=True, slots=True)
class _Split:
    sources: tuple[str, ...]
    rows: tuple[Row, ...]
    digest: str
    encoding: str


def _references(spec: TaskSpec) -> dict[str, tuple[str, ...]]:
    pairs = {"train": spec.train, "dev": spec.dev, "test": spec.test}
    return {split: references for split, references in pairs.items() if references}


def _with_held_out(
    task: Task, splits: Mapping[str, _Split], tokenizer: Tokenizer, *, seed: int
) -> dict[str, _Split]:
    """Return the splits with a tenth of the training rows set apart; equal texts stay on one side."""
    train = splits["train"]
    results = task.encode(train.rows, tokenizer, Purpose.ANSWER)
    texts = {
        row.where: _key(result) if isinstance(result, Encoded) else row.where
        for row, result in zip(train.rows, results, strict=True)
    }
    kept, held = hold_out(train.rows, share=HELD_OUT_SHARE, seed=seed, key=lambda row: texts[row.where])
    rest = {split: data for split, data in splits.items() if split != "train"}
    return {"train": replace(train, rows=kept), "held-out": replace(train, rows=held), **rest}


def _read_split(references: Sequence[str], *, root: Path, cache: dict[str, Table]) -> _Split:
    for reference in references:
        if reference not in cache:
            cache[reference] = read(reference, root=root)
    tables = [cache[reference] for reference in references]
    return _Split(
        sources=tuple(references),
        rows=tuple(row for table in tables for row in table.rows),
        digest=hashlib.sha256(" ".join(table.digest for table in tables).encode()).hexdigest(),
        encoding=", ".join(sorted({table.encoding for table in tables})),
    )


def _prepare(task: Task, splits: Mapping[str, _Split], tokenizer: Tokenizer) -> tuple[TaskData, TaskDataReport]:
    used: dict[str, tuple[Encoded, ...]] = {}
    reports: list[SplitReport] = []
    for split, data in splits.items():
        purpose = Purpose.LEARN if split == "train" else Purpose.ANSWER
        results = task.encode(data.rows, tokenizer, purpose)
        used[split] = tuple(result for result in results if isinstance(result, Encoded) and result.gold is not None)
        dropped = Counter(result.reason for result in results if isinstance(result, Dropped))
        unlabelled = sum(isinstance(result, Encoded) and result.gold is None for result in results)
        if unlabelled:
            dropped["no label"] += unlabelled
        if not used[split]:
            raise DataError(
                f"tasks.{task.name}: {split} needs at least one usable row, but none of {len(data.rows)} is "
                f"({_words(dropped)}). Check the columns: {task.config().get('columns')}."
            )
        reports.append(_split_report(split, data, used[split], dropped, task))
    texts = {split: [_key(example) for example in examples] for split, examples in used.items()}
    names = list(texts)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    columns = {role: column for role, column in dict(task.config().get("columns", {})).items() if column}
    report = TaskDataReport(
        task=task.name,
        kind=task.kind,
        columns=columns,
        splits=tuple(reports),
        overlap={f"{a}/{b}": overlap(texts[a], texts[b]) for a, b in pairs},
    )
    dev = used["dev"] if "dev" in used else used["held-out"]
    return TaskData(task, used["train"], dev, used.get("test", ()), splits["train"].digest), report


def _key(example: Encoded) -> str:
    return " ".join(map(str, example.tokens))


def _split_report(
    split: str, data: _Split, used: Sequence[Encoded], dropped: Mapping[str, int], task: Task
) -> SplitReport:
    mean, p95, longest = lengths([len(example.tokens) for example in used])
    return SplitReport(
        split=split,
        sources=data.sources,
        read=len(data.rows),
        used=len(used),
        dropped=dict(dropped),
        labels=task.describe([example.gold for example in used]),
        tokens_mean=mean,
        tokens_p95=p95,
        tokens_max=longest,
        cut_share=sum(example.num_cut > 0 for example in used) / len(used),
        duplicates=duplicates([_key(example) for example in used]),
        encoding=data.encoding,
    )


def _shared(name: str, texts: Mapping[str, frozenset[tuple[int, ...]]]) -> dict[str, int]:
    counts = {other: len(texts[name] & keys) for other, keys in texts.items() if other != name}
    return {other: count for other, count in counts.items() if count}


def _warnings(reports: Sequence[TaskDataReport]) -> tuple[str, ...]:
    found: list[str] = []
    for report in reports:
        for pair, count in report.overlap.items():
            if count:
                found.append(f"{report.task}: {count} texts of {pair} are equal; scores on them are not honest.")
        for split in report.splits:
            if split.cut_share > 0.05:
                found.append(
                    f"{report.task}: {split.cut_share:.0%} of {split.split} rows are longer than model.max_tokens "
                    f"and were cut."
                )
            if split.read and split.used < 0.9 * split.read:
                found.append(f"{report.task}: {split.read - split.used} of {split.read} {split.split} rows dropped.")
    return tuple(found)


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "it is empty"


