"""Data files to encoded examples, and the report of what was read, used and dropped, task by task."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from weft.build.tokens import remembering
from weft.core.example import Dropped, Encoded, Purpose, Row, by_row
from weft.data.joined import check_rows
from weft.data.sources import Table, read
from weft.data.survey import duplicates, hold_out, lengths, overlap
from weft.errors import DataError
from weft.recipe.spec import Recipe, TaskSpec
from weft.report.records import DataReport, SplitReport, TaskDataReport
from weft.task.base import Task, Tokenizer, Warns
from weft.task.batching import make_batch
from weft.task.registry import FAMILIES
from weft.train.order import text_key

HELD_OUT_SHARE = 0.1
TRAIN, DEV, TEST, HELD_OUT = "train", "dev", "test", "held-out"
_MUCH_CUT = 0.05  # share of a split's rows from which on a warning is given
_MUCH_DROPPED = 0.1
_MUCH_UNKNOWN = 0.05  # of its tokens; rare signs of a language that the vocabulary has are a hundredth


@dataclass(frozen=True, slots=True)
class TaskData:
    """One task, fitted, with its encoded splits.

    Attributes:
        task: the fitted task.
        train: examples to learn from.
        dev: examples to select on; held out of the training rows when the recipe names none.
        dev_split: what reports call them: ``dev`` or ``held-out``.
        test: examples for the final score; may be empty.
        taught: dev and test rows with their answers in them, by ``DEV`` and ``TEST``, of a task that has no loss where it
            answers (text is generated after a prompt); empty for others.
        source: digest of the training source; tasks with equal sources are drawn in the same order.
        dev_rows: those behind ``dev``, as read: reports show their texts.
        test_rows: those behind ``test``.
    """

    task: Task
    train: tuple[Encoded, ...]
    dev: tuple[Encoded, ...]
    dev_split: str
    test: tuple[Encoded, ...]
    source: str
    taught: Mapping[str, tuple[Encoded, ...]] = field(default_factory=dict[str, tuple[Encoded, ...]])
    dev_rows: tuple[Row, ...] = ()
    test_rows: tuple[Row, ...] = ()

    @property
    def train_golds(self) -> list[Any]:
        """Right answers of the training rows."""
        return _golds(self.train)


@dataclass(frozen=True, slots=True)
class Data:
    """All tasks' data, with the report shown before training and the digests that a resumed run must meet again.

    Attributes:
        tasks: by name.
        report: on all of them.
        digests: of what was read, by ``task/split``.
    """

    tasks: Mapping[str, TaskData]
    report: DataReport
    digests: Mapping[str, str]

    @property
    def digest(self) -> str:
        """One digest of all that was read."""
        return hashlib.sha256(json.dumps(sorted(self.digests.items())).encode()).hexdigest()

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
    tokenizer = remembering(tokenizer)
    roots = root, _data_root(recipe, root)
    tables: dict[str, Table] = {}
    tasks: dict[str, TaskData] = {}
    reports: list[TaskDataReport] = []
    digests: dict[str, str] = {}
    for name, spec in recipe.tasks.items():
        references = _references(spec).items()
        given = {split: _source(found, roots=roots, tables=tables) for split, found in references}
        task = FAMILIES[spec.kind].fit(name, spec, given[TRAIN].rows)
        sources = given if DEV in given else _with_held_out(task, given, tokenizer, seed=recipe.seed)
        used = {split: _use(task, split, source, tokenizer) for split, source in sources.items()}
        tasks[name] = _task_data(task, used)
        reports.append(_task_report(task, used, unknown=tokenizer.unknown))
        digests.update({f"{name}/{split}": source.digest for split, source in given.items()})
    texts = {name: [_key(example) for example in data.train] for name, data in tasks.items()}
    reports = [report.model_copy(update={"shared_with": _shared(report.task, texts)}) for report in reports]
    return Data(
        tasks=tasks,
        report=DataReport(
            tasks=tuple(reports),
            warnings=tuple(
                line for report in reports for line in _warnings(report, tasks[report.task], tokenizer)
            ),
        ),
        digests=digests,
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """The rows behind one split, as read."""

    references: tuple[str, ...]
    rows: tuple[Row, ...]
    digest: str
    encoding: str


@dataclass(frozen=True, slots=True)
class _Used:
    """One split as a task uses it: rows, the examples that they give, the key of each row's text without any answer."""

    source: _Source
    rows: tuple[Row, ...]
    examples: tuple[Encoded, ...]
    questions: tuple[str, ...]
    dropped: Mapping[str, int]
    taught: tuple[Encoded, ...] = ()


def _references(spec: TaskSpec) -> dict[str, tuple[str, ...]]:
    pairs = {TRAIN: spec.train, DEV: spec.dev, TEST: spec.test}
    return {split: references for split, references in pairs.items() if references}


def _data_root(recipe: Recipe, root: Path) -> Path | None:
    if recipe.data_root is None:
        return None
    folder = root / Path(recipe.data_root).expanduser()
    if not folder.is_dir():
        raise DataError(f"data_root: must be a folder that exists, but {folder} is none. Correct the path.")
    return folder


def _source(
    references: Sequence[str], *, roots: tuple[Path, Path | None], tables: dict[str, Table]
) -> _Source:
    for reference in references:
        if reference not in tables:
            tables[reference] = read(reference, root=roots[0], data_root=roots[1])
    own = [tables[reference] for reference in references]
    return _Source(
        references=tuple(references),
        rows=tuple(row for table in own for row in table.rows),
        digest=hashlib.sha256(" ".join(table.digest for table in own).encode()).hexdigest(),
        encoding=", ".join(sorted({table.encoding for table in own})),
    )


def _with_held_out(
    task: Task, sources: Mapping[str, _Source], tokenizer: Tokenizer, *, seed: int
) -> dict[str, _Source]:
    """Return the sources with a tenth of the usable training rows set apart; equal texts stay on one side."""
    train = sources[TRAIN]
    usable, asked, dropped = _encoded(task, train.rows, tokenizer, Purpose.ANSWER)
    if not usable:
        raise _nothing_usable(task, TRAIN, train, dropped)
    texts = {row.where: _key(example) for row, example in zip(usable, asked, strict=True)}
    try:
        _, held = hold_out(usable, share=HELD_OUT_SHARE, seed=seed, key=lambda row: texts[row.where])
    except DataError as error:
        raise DataError(f"tasks.{task.name}: {error}") from error
    places = {row.where for row in held}
    rest = tuple(row for row in train.rows if row.where not in places)
    others = {split: source for split, source in sources.items() if split != TRAIN}
    return {TRAIN: replace(train, rows=rest), HELD_OUT: replace(train, rows=held), **others}


def _use(task: Task, split: str, source: _Source, tokenizer: Tokenizer) -> _Used:
    purpose = Purpose.LEARN if split == TRAIN else Purpose.ANSWER
    check_rows(task.config()["columns"], source.rows, what=f"tasks.{task.name}")
    rows, examples, dropped = _encoded(task, source.rows, tokenizer, purpose)
    if not examples:
        raise _nothing_usable(task, split, source, dropped)
    asked = _asked(task, rows, examples, tokenizer) if purpose is Purpose.LEARN else examples
    with_answers = () if split == TRAIN else taught(task, rows, examples, tokenizer)
    return _Used(source, rows, examples, tuple(map(_key, asked)), dropped, with_answers)


def taught(
    task: Task, rows: Sequence[Row], asked: Sequence[Encoded], tokenizer: Tokenizer
) -> tuple[Encoded, ...]:
    """Return ``rows`` with their answers in them, where the task has no loss when it answers; none where it has.

    Args:
        task: the fitted task.
        rows: those behind ``asked``.
        asked: at least one, with its right answer.
        tokenizer: of the model.
    """
    batch = make_batch([(task.name, asked[0])], {task.name: task}, pad=0)
    if batch.targets[task.name].weight > 0:
        return ()
    found = task.encode(rows, tokenizer, Purpose.LEARN)
    return tuple(one for one in found if isinstance(one, Encoded))


def _encoded(
    task: Task, rows: Sequence[Row], tokenizer: Tokenizer, purpose: Purpose
) -> tuple[tuple[Row, ...], tuple[Encoded, ...], dict[str, int]]:
    """Return the rows that can be used, their examples, and the number of the others by reason."""
    used: list[Row] = []
    examples: list[Encoded] = []
    dropped: Counter[str] = Counter()
    for row, results in zip(rows, by_row(task.encode(rows, tokenizer, purpose)), strict=True):
        usable = [one for one in results if isinstance(one, Encoded) and one.gold is not None]
        if usable:
            used.append(row)
            examples += usable
        else:
            dropped[results[0].reason if isinstance(results[0], Dropped) else "no label"] += 1
    return tuple(used), tuple(examples), dict(dropped)


def _golds(examples: Sequence[Encoded]) -> list[Any]:
    """Return the right answer of each row behind ``examples``."""
    return [example.gold for example in examples if not example.part]


def _asked(
    task: Task, rows: Sequence[Row], learnt: Sequence[Encoded], tokenizer: Tokenizer
) -> Sequence[Encoded | Dropped]:
    """Return usable training rows as they would be asked: what is learnt may hold the answer too (generation)."""
    first = task.encode(rows[:1], tokenizer, Purpose.ANSWER)[0]
    if isinstance(first, Encoded) and first.tokens == learnt[0].tokens:
        return learnt  # a family sees its answers in all of its rows or in none
    return task.encode(rows, tokenizer, Purpose.ANSWER)


def _nothing_usable(task: Task, split: str, source: _Source, dropped: Mapping[str, int]) -> DataError:
    return DataError(
        f"tasks.{task.name}: {split} needs at least one usable row, but none of {len(source.rows)} is "
        f"({_words(dropped)}). Check the columns: {_columns(task)}."
    )


def _columns(task: Task) -> dict[str, str]:
    """Return the columns that ``task`` reads, by role."""
    return {role: column for role, column in task.config()["columns"].items() if column}


def _task_data(task: Task, used: Mapping[str, _Used]) -> TaskData:
    dev_split = DEV if DEV in used else HELD_OUT
    return TaskData(
        task=task,
        train=used[TRAIN].examples,
        dev=used[dev_split].examples,
        dev_split=dev_split,
        test=used[TEST].examples if TEST in used else (),
        source=used[TRAIN].source.digest,
        taught={
            name: used[split].taught
            for name, split in ((DEV, dev_split), (TEST, TEST))
            if split in used and used[split].taught
        },
        dev_rows=used[dev_split].rows,
        test_rows=used[TEST].rows if TEST in used else (),
    )


def _task_report(task: Task, used: Mapping[str, _Used], *, unknown: int | None) -> TaskDataReport:
    return TaskDataReport(
        task=task.name,
        kind=task.kind,
        columns=_columns(task),
        splits=tuple(_split_report(task, split, one, unknown) for split, one in used.items()),
        overlap={f"{a}/{b}": overlap(used[a].questions, used[b].questions) for a, b in combinations(used, 2)},
    )


def _split_report(task: Task, split: str, used: _Used, unknown: int | None) -> SplitReport:
    mean, p95, longest = lengths([example.num_tokens for example in used.examples])
    return SplitReport(
        split=split,
        sources=used.source.references,
        read=len(used.source.rows),
        used=len(used.rows),
        examples=len(used.examples),
        dropped=dict(used.dropped),
        labels=task.describe(_golds(used.examples)),
        tokens_mean=mean,
        tokens_p95=p95,
        tokens_max=longest,
        cut_share=sum(example.num_cut > 0 for example in used.examples) / len(used.examples),
        unknown_share=0.0 if unknown is None else _share(unknown, used.examples),
        duplicates=duplicates(used.questions),
        encoding=used.source.encoding,
    )


def _share(token: int, examples: Sequence[Encoded]) -> float:
    """Return the share of ``token`` among all tokens that the trunk reads."""
    tokens = [text.tokens for example in examples for text in example.texts]
    return sum(ids.count(token) for ids in tokens) / sum(map(len, tokens))


def _key(example: Encoded | Dropped) -> str:
    """Return a short name of the text of an example: equal for what the trunk cannot tell apart."""
    return example.where if isinstance(example, Dropped) else f"{text_key(example):x}"


def _shared(name: str, texts: Mapping[str, Sequence[str]]) -> dict[str, int]:
    counts = {other: overlap(texts[name], keys) for other, keys in texts.items() if other != name}
    return {other: count for other, count in counts.items() if count}


def _warnings(report: TaskDataReport, data: TaskData, tokenizer: Tokenizer) -> Iterator[str]:
    if isinstance(data.task, Warns):
        yield from data.task.warnings(data.train_golds)
    for pair, count in report.overlap.items():
        if count:
            yield f"{report.task}: {count} texts of {pair} are equal; scores on them are not honest."
    unread = [split for split in report.splits if split.unknown_share > _MUCH_UNKNOWN]
    if unread:
        shares = ", ".join(f"{split.unknown_share:.0%} in {split.split}" for split in unread)
        yield (
            f"{report.task}: many tokens are unknown to the model's vocabulary ({shares}), so it cannot tell them apart. "
            f"Choose a model for the language of these texts."
        )
    for split in report.splits:
        if split.cut_share > _MUCH_CUT:
            yield (
                f"{report.task}: {split.cut_share:.0%} of {split.split} rows are longer than "
                f"{_room(data.task, split.split, tokenizer)} and were cut."
            )
        if split.read - split.used > _MUCH_DROPPED * split.read:
            yield (
                f"{report.task}: {split.read - split.used} of {split.read} {split.split} rows are not used "
                f"({_words(split.dropped)})."
            )


def _room(task: Task, split: str, tokenizer: Tokenizer) -> str:
    """Return what bounds the text of a row; what one stack is asked leaves room for its answer."""
    config = task.config()
    if config.get("windows") is not None:
        return "windows.most windows of model.max_tokens"
    is_asked = split != TRAIN and "max_new_tokens" in config and tokenizer.reply_start is None
    return f"model.max_tokens{' less max_new_tokens' if is_asked else ''}"


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "it is empty"
