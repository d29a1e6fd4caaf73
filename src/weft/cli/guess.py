"""What data files are probably for: which belong together, and which task their columns and values speak of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from weft.core.example import Row
from weft.data import columns as known
from weft.data.columns import Role, resolve
from weft.data.folder import PACKED
from weft.data.table import column_names
from weft.errors import DataError

_SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("dev", "devel", "development", "valid", "validation", "val", "eval"), "dev"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
_SLICE = re.compile(r"(\[[^\]]*\]|#\d+)$")
_PART = re.compile(r"[._\-:\s]+")
_MAX_LABELS = 200
_LONG_ANSWER = 40  # letters; labels are shorter, answers longer


@dataclass(frozen=True, slots=True)
class Guess:
    """A task that rows probably are for: its kind, the keys that differ from the defaults, and what was seen."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    counts: Mapping[str, int] = field(default_factory=dict[str, int])


def group(files: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """Return ``{task: {split: [file, ...]}}`` by the words of the file names; a file that names no split is training data.

    Example:
        >>> group(["ner.train.conll", "ner_dev.conll", "reviews.csv"])
        {'ner': {'train': ['ner.train.conll'], 'dev': ['ner_dev.conll']}, 'reviews': {'train': ['reviews.csv']}}
    """
    groups: dict[str, dict[str, list[str]]] = {}
    for file in files:
        name, split = _name_and_split(file)
        groups.setdefault(name, {}).setdefault(split, []).append(file)
    return groups


def _name_and_split(file: str) -> tuple[str, str]:
    path = PurePath(_SLICE.sub("", file))
    stem = path.name.removesuffix(path.suffix) if path.suffix in PACKED else path.name
    words = [word for word in _PART.split(PurePath(stem).stem) if word]
    split = next((word for word in reversed(words) if word.lower() in _SPLITS), None)
    rest = [word for word in words if word is not split]
    plain = re.sub(r"[^A-Za-z0-9_]+", "", "_".join(rest)) or re.sub(r"[^A-Za-z0-9_]+", "", path.parent.name)
    return (plain.lstrip("_") or "task")[:64], _SPLITS[split.lower()] if split else "train"


def guess(rows: Sequence[Row], *, what: str) -> Guess:
    """Return the task that ``rows`` are probably for.

    Args:
        rows: of the training data; never empty.
        what: the file, for messages.

    Raises:
        DataError: no known column says what to learn.
    """
    if _columns(rows, {"messages": known.MESSAGES})["messages"]:
        return Guess("generation")
    found = _tagging(rows) or _instructions(rows) or _judged_text(rows) or _answers(rows)
    if found is None:
        names = ", ".join(column_names(rows))
        raise DataError(
            f"{what}: must have columns that say what to learn, such as text and label, text1, text2 and score, tokens "
            f"and tags, or instruction and output, but has {names}. Rename them, or write the task by hand with columns:."
        )
    return found


def _tagging(rows: Sequence[Row]) -> Guess | None:
    columns = _columns(rows, {"tokens": known.TOKENS, "tags": known.TAGS})
    if columns["tokens"] is None or columns["tags"] is None:
        return None
    tags: Counter[str] = Counter()
    for row in rows:
        value = row.values.get(columns["tags"])
        tags.update(str(tag) for tag in (value if isinstance(value, list | tuple) else str(value).split()))
    return Guess("tagging", counts=_top(tags))


def _instructions(rows: Sequence[Row]) -> Guess | None:
    columns = _columns(
        rows, {"instruction": ("instruction", "prompt", "指令", "提示"), "output": known.OUTPUT}
    )
    return Guess("generation") if columns["instruction"] and columns["output"] else None


def _judged_text(rows: Sequence[Row]) -> Guess | None:
    """Return a classification or a regression, by the values beside the text: labels, lists of labels or measures."""
    labels = _columns(rows, {"text": known.TEXT, "label": known.LABEL, "pair": known.PAIR})
    scores = _columns(rows, {"text": known.TEXT, "score": known.SCORE, "pair": known.PAIR})
    if labels["text"] is None:
        return None
    if scores["score"] and _are_measures(_values(rows, scores["score"])):
        return Guess("regression")
    values = _values(rows, labels["label"]) if labels["label"] else []
    if not values or _are_texts(values):
        return None
    lists = [value for value in values if isinstance(value, list | tuple)]
    is_piped = any(isinstance(value, str) and "|" in value for value in values)
    if lists or is_piped:
        each = [
            str(one)
            for value in values
            for one in (value if isinstance(value, list | tuple) else str(value).split("|"))
        ]
        return Guess("classification", {"multi_label": True}, _top(Counter(each)))
    return Guess("classification", counts=_top(Counter(str(value) for value in values)))


def _answers(rows: Sequence[Row]) -> Guess | None:
    columns = _columns(rows, {"output": known.OUTPUT, "instruction": known.INSTRUCTION})
    return Guess("generation") if columns["instruction"] and columns["output"] else None


def _are_measures(values: Sequence[Any]) -> bool:
    """Return whether all values are numbers and not all of them whole: those could be classes."""
    try:
        numbers = [float(value) for value in values if not isinstance(value, bool)]
    except (TypeError, ValueError):
        return False
    return len(numbers) == len(values) and any(
        number != int(number) for number in numbers if abs(number) < 1e300
    )


def _are_texts(values: Sequence[Any]) -> bool:
    """Return whether values are too many and too long to be labels."""
    texts = [value for value in values if isinstance(value, str)]
    is_varied = len(set(texts)) > min(_MAX_LABELS, len(texts) / 2)
    return is_varied and sum(map(len, texts)) / len(texts) > _LONG_ANSWER


def _values(rows: Sequence[Row], column: str) -> list[Any]:
    cells = (row.values.get(column) for row in rows)
    return [cell for cell in cells if cell is not None and cell != ""]


def _columns(rows: Sequence[Row], aliases: Mapping[str, tuple[str, ...]]) -> dict[str, str | None]:
    roles = [Role(name, names, required=False) for name, names in aliases.items()]
    return resolve(rows, roles, {}, what="rows")


def _top(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
