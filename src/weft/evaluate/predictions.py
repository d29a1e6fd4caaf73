"""Answers on disk: one JSON line a row, after one line that says which task they answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.core.example import Answer, Encoded
from weft.errors import DataError
from weft.task.base import Task

FORMAT = 1
_FIELDS = ("label", "probabilities", "value", "tags", "spans", "text")


@dataclass(frozen=True, slots=True)
class PredictedRow:
    """One row: where it stands, its gold answer (None without one) and the answer given."""

    where: str
    gold: Any
    answer: Answer


@dataclass(frozen=True, slots=True)
class PredictionFile:
    """The answers of one run to one split of one task.

    Attributes:
        task: its name.
        kind: its family.
        config: what ``Task.from_config`` needs to build the task, and with it the metrics, again.
        split: dev, test or held-out.
        rows: in the order in which they were answered.
    """

    task: str
    kind: str
    config: Mapping[str, Any]
    split: str
    rows: tuple[PredictedRow, ...]


def write_predictions(
    path: Path, task: Task, encoded: Iterable[Encoded], answers: Iterable[Answer], *, split: str
) -> None:
    """Write ``answers`` to ``path``; its folder is made. Lists, tuples and sets of a gold answer become lists."""
    head = {"format": FORMAT, "task": task.name, "kind": task.kind, "split": split, "config": task.config()}
    lines = [_line(head)]
    for row, answer in zip(encoded, answers, strict=True):
        lines.append(_line({"where": row.where, "gold": row.gold, "answer": answer.to_json()}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def read_predictions(path: Path) -> PredictionFile:
    """Return what ``write_predictions`` wrote. A gold list comes back as a tuple.

    Raises:
        DataError: no file, another format, or a line that is not what it should be.
    """
    if not path.is_file():
        raise DataError(f"{path}: must be a file of predictions, but there is none.")
    with path.open("rb") as lines:
        values = [_parse(path, number, line) for number, line in enumerate(lines, start=1)]
    head = values[0] if values else {}
    if head.get("format") != FORMAT or not {"task", "kind", "split", "config"} <= set(head):
        raise DataError(
            f"{path}:1: must say 'format': {FORMAT}, task, kind, split and config, but says {_line(head).strip()[:200]}. "
            f"Write it again with this version of Weft."
        )
    rows = tuple(_row(path, number, value) for number, value in enumerate(values[1:], start=2))
    return PredictionFile(head["task"], head["kind"], head["config"], head["split"], rows)


def answer_from_json(value: Mapping[str, Any]) -> Answer:
    """Return the answer whose ``to_json`` is ``value``."""
    known = {name: value[name] for name in _FIELDS if name in value}
    for name in ("tags", "spans"):
        if name in known:
            known[name] = tuple(known[name])
    return Answer(**known, extra={name: found for name, found in value.items() if name not in _FIELDS})


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain) + "\n"


def _plain(value: object) -> Any:
    """Return what JSON has no word for as what it has one for."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(
        f"{type(value).__name__}: a gold answer must be made of JSON values, but {value!r} is not."
    )


def _parse(path: Path, number: int, line: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:  # not JSON, or not UTF-8
        raise DataError(f"{path}:{number}: must be one JSON object a line, but {error}.") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}:{number}: must be one JSON object a line, but is {json.dumps(value)[:80]}.")
    return value


def _row(path: Path, number: int, value: Mapping[str, Any]) -> PredictedRow:
    if set(value) != {"where", "gold", "answer"} or not isinstance(value["answer"], dict):
        found: Sequence[str] = sorted(value)
        raise DataError(f"{path}:{number}: must have where, gold and answer, but has {', '.join(found)}.")
    gold = value["gold"]
    return PredictedRow(
        value["where"], tuple(gold) if isinstance(gold, list) else gold, answer_from_json(value["answer"])
    )
