"""Putting rows to tasks: every task that can answer a row does, from one trunk pass a text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from weft.core.example import Answer, Dropped, Encoded, Purpose, Row
from weft.core.network import Network
from weft.data.joined import holder, is_filled, named
from weft.data.table import column_names
from weft.errors import DataError, nearest
from weft.evaluate.predict import Watch, answer_all
from weft.task.base import Task, Tokenizer

Asked = dict[str, Answer | Dropped]
"""What became of one row, by task."""


def ask(
    network: Network,
    tasks: Mapping[str, Task],
    tokenizer: Tokenizer,
    rows: Mapping[str, Sequence[Row | None]],
    *,
    budget: int,
    dtype: torch.dtype,
    watch: Watch | None = None,
) -> list[Asked]:
    """Return what each task answers to each row: the same, up to rounding, as when the row is asked alone.

    Args:
        network: trunk and heads.
        tasks: fitted tasks by name.
        tokenizer: of the network's trunk.
        rows: for each task that is asked, the same number of rows under that task's column names, None for a row
            that it is not asked.
        budget: most tokens of one pass, padding included.
        dtype: of matrix products.
        watch: told of progress.
    """
    put = {name: [row for row in given if row is not None] for name, given in rows.items()}
    encoded = {name: tasks[name].encode(given, tokenizer, Purpose.ANSWER) for name, given in put.items()}
    usable = {name: [one for one in results if isinstance(one, Encoded)] for name, results in encoded.items()}
    asked = {name: examples for name, examples in usable.items() if examples}
    found = answer_all(
        network, tasks, asked, pad=tokenizer.pad, budget=budget, dtype=dtype, losses=False, watch=watch
    )
    num_rows = max((len(given) for given in rows.values()), default=0)
    asked_rows: list[Asked] = [{} for _ in range(num_rows)]
    for name, given in rows.items():
        answers, results = iter(found.answers.get(name, ())), iter(encoded[name])
        for into, row in zip(asked_rows, given, strict=True):
            if row is not None:
                result = next(results)
                into[name] = result if isinstance(result, Dropped) else next(answers)
    return asked_rows


@dataclass(frozen=True, slots=True)
class Questions:
    """Rows to be put to tasks.

    Attributes:
        rows: for each task that can answer, one row a question, under the task's own column names, without labels;
            None where a question is not for it.
        left_out: why each other task cannot.
    """

    rows: Mapping[str, Sequence[Row | None]]
    left_out: Mapping[str, str]


def from_texts(tasks: Mapping[str, Task], texts: Sequence[str], pair: str | None) -> Questions:
    """Return plain texts (each with ``pair``, if given) as questions to every task that takes such a text or pair."""
    asked: dict[str, list[Row | None]] = {}
    left_out: dict[str, str] = {}
    for name, task in tasks.items():
        try:
            asked[name] = [task.ask(text, pair) for text in texts]
        except DataError as error:
            left_out[name] = str(error)
    return Questions(asked, left_out)


def from_rows(
    tasks: Mapping[str, Task], rows: Sequence[Row], renamed: Mapping[str, str], *, what: str
) -> Questions:
    """Return the rows of a file as questions; labels that it holds are left out.

    Args:
        tasks: fitted tasks by name.
        rows: of the file, with columns named as in training, or as ``renamed`` says.
        renamed: the file's column by role (``{"text": "review"}``).
        what: the file, for messages.

    Raises:
        DataError: ``renamed`` names a role that no task has, or a column that the file does not have.
    """
    present = column_names(rows)
    roles = {role for task in tasks.values() for role in _roles(task).values()}
    for role, column in renamed.items():
        if role not in roles:
            raise DataError(
                f"{what}: {role} must be a role of a task's input, but is not. {nearest(role, roles)}"
            )
        if column not in present:
            raise DataError(
                f"{what}: the column for {role} must exist, but {column} does not. {nearest(column, present)}"
            )
    asked: dict[str, list[Row | None]] = {}
    left_out: dict[str, str] = {}
    for name, task in tasks.items():
        source = _source(task, present, renamed)
        missing = _missing(_needed(task), source, present)
        if missing:
            left_out[name] = (
                f"{name}: needs column {missing[0]}, but {what} has {', '.join(present)}. "
                f"Say which with --column {_role_of(missing[0], task, source)}=<column>."
            )
            continue
        pairs = [pair for own in source.values() for pair in own.items()]
        asked[name] = [
            Row({own: row.values[theirs] for own, theirs in pairs if theirs in row.values}, row.where)
            for row in rows
        ]
    return Questions(asked, left_out)


def only_named(
    questions: Questions, rows: Sequence[Row], column: str, *, tasks: Collection[str], what: str
) -> Questions:
    """Return ``questions`` with each row put only to the task that it names in ``column``.

    Raises:
        DataError: no such column, a row names no task, or one that could not answer.
    """
    present = column_names(rows)
    if column not in present:
        raise DataError(
            f"{what}: the column that names the task must exist, but {column} does not. {nearest(column, present)}"
        )
    named = [str(row.values.get(column, "")) for row in rows]
    for name, row in zip(named, rows, strict=True):
        if name in questions.left_out:
            raise DataError(f"{row.where}: {questions.left_out[name]}")
        if name not in questions.rows:
            raise DataError(f"{row.where}: {column} must be a task, but is {name!r}. {nearest(name, tasks)}")
    asked = {
        task: [row if name == task else None for row, name in zip(given, named, strict=True)]
        for task, given in questions.rows.items()
        if task in named
    }
    return Questions(asked, {})


def _source(task: Task, present: Collection[str], renamed: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return for each column of a question to ``task`` what it is read from: the file's column by the task's own.

    A text of several columns is read from those, or whole from the one that ``renamed`` gives for it.
    """
    source: dict[str, dict[str, str]] = {}
    for column, role in _roles(task).items():
        if role in renamed or not is_filled(column, present):
            source[column] = {column: renamed.get(role, column)}
        else:
            parts = [holder(name, present) or name for name in named(column)]
            source[column] = {part: part for part in parts}
    return source


def _missing(
    needed: Collection[str], source: Mapping[str, Mapping[str, str]], present: Collection[str]
) -> list[str]:
    """Return the columns that the file lacks: of what is ``needed``, and of texts that it has a part of."""
    return [
        one
        for column, parts in source.items()
        for one in parts.values()
        if one not in present and (column in needed or not set(present).isdisjoint(parts.values()))
    ]


def _role_of(missing: str, task: Task, source: Mapping[str, Mapping[str, str]]) -> str:
    """Return the role of the text that would be read from the column ``missing``."""
    return next(role for column, role in _roles(task).items() if missing in source[column].values())


def _roles(task: Task) -> dict[str, str]:
    """Return the role of each column that a question to ``task`` is made of."""
    columns: Mapping[str, str | None] = task.config()["columns"]
    return {column: role for role, column in columns.items() if column is not None and column in task.inputs}


def _needed(task: Task) -> tuple[str, ...]:
    """Return the columns that no question to ``task`` can do without: those of the plainest one."""
    try:
        return tuple(task.ask("?").values)
    except DataError:
        return tuple(task.ask("?", "?").values)
