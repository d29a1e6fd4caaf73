"""What data files are probably for: which belong together, and which task their columns and values speak of."""

from __future__ import annotations

import math
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
from weft.task.indicators import indicators, labels_of
from weft.task.labels import SEPARATOR
from weft.task.registry import FAMILIES
from weft.task.spans import are_spans, find_columns, unit_of
from weft.task.spans import read as read_spans

_SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("dev", "devel", "development", "valid", "validation", "val", "eval"), "dev"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
_SLICE = re.compile(r"(\[[^\]]*\]|#\d+)$")
_PART = re.compile(r"[._\-:@\s]+")
_NAMED_SPLIT = re.compile(r"(?P<rest>.+):(?P<split>[A-Za-z]+)[\w.-]*")
_MAX_LABELS = 200
_LONG_ANSWER = 40  # letters; labels are shorter, answers longer
_MAX_GRADES = 11  # whole numbers that are still grades, such as 0 to 10
_MOST_ROWS = 0.9
_QUESTIONS = ("question", "query", "问题", "查询", "问句")
_PASSAGES = (
    *(
        "passage",
        "paragraph",
        "sentence",
        "document",
        "doc",
        "context",
        "content",
        "title",
        "answer",
        "response",
        "text",
    ),
    *("段落", "文章", "文档", "上下文", "内容", "标题", "回答", "答案", "回复", "文本"),
)
_BESIDE = frozenset(
    "id idx url source meta metadata timestamp date title author book part lang language 标题 作者 来源".split()
)
_PREFERENCES = frozenset({"chosen", "rejected"})
_YES_OR_NO = frozenset("true false yes no 是 否 对 错 是的 不是".split())


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
    file = _SLICE.sub("", file)
    named = _NAMED_SPLIT.fullmatch(file)
    if named and (split := _SPLITS.get(named["split"].lower())):  # validation_matched of MNLI is dev too
        path = PurePath(named["rest"])
        return _plain_name(_PART.split(path.name), path), split
    path = PurePath(file)
    stem = path.name.removesuffix(path.suffix) if path.suffix in PACKED else path.name
    words = [word for word in _PART.split(PurePath(stem).stem) if word]
    word = next((word for word in reversed(words) if word.lower() in _SPLITS), None)
    name = _plain_name([one for one in words if one is not word], path)
    return name, _SPLITS[word.lower()] if word else "train"


def _plain_name(words: Iterable[str], path: PurePath) -> str:
    """Return a task's name from the words of a file's name, or of its folder's."""
    name = re.sub(r"[^A-Za-z0-9_]+", "", "_".join(words)) or re.sub(r"[^A-Za-z0-9_]+", "", path.parent.name)
    return (name.lstrip("_") or "task")[:64]


def guess(rows: Sequence[Row], *, what: str) -> Guess:
    """Return the task that ``rows`` are probably for.

    Args:
        rows: of the training data; never empty.
        what: the file, for messages.

    Raises:
        DataError: no known column says what to learn.
    """
    columns = column_names(rows)
    looks = (_conversations, _tagging, _choices, _passages, _instructions, _judged_text, _answers, _texts)
    if _PREFERENCES.issubset(columns):
        raise DataError(
            f"{what}: must have an answer to learn in each row, but has chosen and rejected ones, and no task learns "
            f"from both. {_chosen_alone(rows)}"
        )
    for look in looks:
        found = look(rows)
        if found is not None:
            return found
    names = ", ".join(columns)
    raise DataError(
        f"{what}: must have columns that say what to learn, such as text and label, text1, text2 and score, tokens "
        f"and tags, or instruction and output, but has {names}. Rename them, or write the task by hand with columns:."
    )


def _chosen_alone(rows: Sequence[Row]) -> str:
    """Return how a recipe learns the chosen answers of preferences."""
    columns = _columns(rows, {"messages": known.MESSAGES, "instruction": known.INSTRUCTION})
    asked = columns["messages"] or columns["instruction"]
    exchange = {"instruction": asked, "output": "chosen"} if asked else {"text": "chosen"}
    ways = ({"messages": "chosen"}, exchange)  # the whole conversation, or its end
    for way in ways:
        if _fits(Guess("generation", {"columns": way}), rows):
            words = ", ".join(f"{role}: {column}" for role, column in way.items())
            return f"Learn the chosen ones by a task of your own: kind: generation, columns: {{{words}}}."
    return "Write the chosen ones as instruction and output, and leave the rejected ones out."


def _conversations(rows: Sequence[Row]) -> Guess | None:
    column = _columns(rows, {"messages": known.MESSAGES})["messages"]
    values = _values(rows, column) if column is not None else []
    is_talk = any(_is_list(value) or str(value).lstrip().startswith("[") for value in values)
    return Guess("generation") if is_talk else None


def _tagging(rows: Sequence[Row]) -> Guess | None:
    columns = _columns(rows, {"tokens": known.TOKENS, "tags": known.TAGS})
    if columns["tokens"] is None or columns["tags"] is None or _marks_spans(rows):
        return _spans(rows)
    return _tags(rows, columns["tags"])


def _marks_spans(rows: Sequence[Row]) -> bool:
    """Return whether a column holds spans that are marked in a text."""
    names = {*known.SPANS, *known.TAGS}.intersection(column_names(rows))
    return any(are_spans(row.values.get(name)) for name in names for row in rows)


def _tags(rows: Sequence[Row], column: str) -> Guess:
    tags: Counter[str] = Counter()
    for row in rows:
        value = row.values.get(column)
        tags.update(str(tag) for tag in (value if isinstance(value, list | tuple) else str(value).split()))
    return Guess("tagging", counts=_top(tags))


def _spans(rows: Sequence[Row]) -> Guess | None:
    has_text = any(_columns(rows, {"text": known.TEXT, "tokens": known.TOKENS}).values())
    if not has_text or not _marks_spans(rows):
        return None
    columns = find_columns(rows, {}, what="rows")
    if not any(are_spans(row.values.get(str(columns["tags"]))) for row in rows):
        return _tags(rows, str(columns["tags"]))  # spans stand beside the tags of listed words
    unit = unit_of(rows, columns)
    read = [one.spans for row in rows if (one := read_spans(row, columns, unit)) is not None]
    kinds = Counter(kind for spans in read if isinstance(spans, tuple) for kind, _, _ in spans)
    return Guess("tagging", counts=_top(kinds))


def _choices(rows: Sequence[Row]) -> Guess | None:
    found = Guess("choice")
    return found if _fits(found, rows) else None


def _passages(rows: Sequence[Row]) -> Guess | None:
    """Return question answering where answers are pieces of a context: with their places, or nearly all found in it."""
    columns = _columns(rows, {"context": known.CONTEXT, "question": known.QUESTION, "answers": known.ANSWERS})
    context, question, answers = columns["context"], columns["question"], columns["answers"]
    if context is None or question is None or answers is None:
        return None
    has_places = _columns(rows, {"start": known.ANSWER_START})["start"] is not None
    if not has_places and not any(_holds_places(value) for value in _values(rows, answers)):
        num_inside = sum(_is_piece(row.values.get(answers), str(row.values.get(context))) for row in rows)
        if num_inside < _MOST_ROWS * len(rows):
            return None
    found = Guess("qa")
    return found if _fits(found, rows) else None


def _instructions(rows: Sequence[Row]) -> Guess | None:
    columns = _columns(
        rows, {"instruction": ("instruction", "prompt", "指令", "提示"), "output": known.OUTPUT}
    )
    return Guess("generation") if columns["instruction"] and columns["output"] else None


def _judged_text(rows: Sequence[Row]) -> Guess | None:
    """Return a classification, an ordinal or a plain regression, by the values beside the text."""
    texts = _text_columns(rows)
    if texts is None:
        return None
    options = {} if not texts else {"columns": texts}
    taken = {"text": known.TEXT, "pair": known.PAIR}
    label = _columns(rows, {**taken, "label": known.LABEL})["label"]
    score = _columns(rows, {**taken, "score": known.SCORE})["score"]
    if score is not None and _are_measures(_values(rows, score)):
        return Guess("regression", options)
    flags = indicators(rows, taken=set(texts.values())) if label is None and score is None else ()
    if len(flags) > 1:
        counts = Counter(name for row in rows for name in labels_of(row, SEPARATOR.join(flags)) or ())
        return Guess("classification", {"multi_label": True, **options}, _top(counts))
    number = _numbers(_values(rows, score)) if score is not None and label is None else None
    if number is not None:
        is_graded = 2 < len(set(number)) <= _MAX_GRADES
        return Guess("ordinal" if is_graded else "regression", options)
    if label is None and (column := _verdicts(rows)) is not None:
        label = column
        options = {
            "columns": {**{role: one for role, one in texts.items() if one != column}, "label": column}
        }
    values = _values(rows, label) if label else []
    if not values or _are_texts(values) or any(isinstance(value, dict) for value in values):
        return None
    if any(_is_list(value) or (isinstance(value, str) and "|" in value) for value in values):
        each = [str(one) for value in values for one in (value if _is_list(value) else str(value).split("|"))]
        return Guess("classification", {"multi_label": True, **options}, _top(Counter(each)))
    return Guess("classification", options, _top(Counter(str(value) for value in values)))


def _text_columns(rows: Sequence[Row]) -> dict[str, str] | None:
    """Return the columns to name where the usual names do not say that a question goes with a text; None without text."""
    columns = _columns(rows, {"text": known.TEXT, "pair": known.PAIR})
    asked = _columns(rows, {"question": _QUESTIONS})["question"]
    if columns["text"] is None:
        return None
    if asked is None or columns["pair"] is not None:
        return {}
    others = [column for column in _PASSAGES if column != asked and column in column_names(rows)]
    return {"text": asked, "pair": others[0]} if others else {}


def _verdicts(rows: Sequence[Row]) -> str | None:
    """Return a column of answers that say yes or no, and nothing else."""
    column = _columns(rows, {"answer": known.ANSWERS})["answer"]
    values = _values(rows, column) if column else []
    return column if values and {str(value).strip().lower() for value in values} <= _YES_OR_NO else None


def _answers(rows: Sequence[Row]) -> Guess | None:
    columns = _columns(rows, {"output": known.OUTPUT, "instruction": known.INSTRUCTION})
    return Guess("generation") if columns["instruction"] and columns["output"] else None


def _texts(rows: Sequence[Row]) -> Guess | None:
    """Return generation where a row is one text in two languages, or one text and nothing that could be its answer."""
    columns = _columns(rows, {"translation": known.TRANSLATION, "text": known.PLAIN})
    others = set(column_names(rows)) - {columns["text"]} - _BESIDE
    is_plain = columns["text"] is not None and not others
    return Guess("generation") if columns["translation"] or is_plain else None


def _fits(found: Guess, rows: Sequence[Row]) -> bool:
    """Return whether the family of ``found`` can read ``rows``."""
    family = FAMILIES[found.kind]
    spec = family.spec_type.model_validate({"kind": found.kind, "train": ["rows"], **found.options})
    try:
        family.fit("rows", spec, rows)
    except DataError:
        return False
    return True


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _holds_places(value: Any) -> bool:
    """Return whether a cell is SQuAD's answers: ``{"text": [...], "answer_start": [...]}`` or a list of such objects."""
    if isinstance(value, dict):
        return "answer_start" in value
    return _is_list(value) and any(_holds_places(one) for one in value)


def _is_piece(answer: Any, text: str) -> bool:
    """Return whether an answer, or the first of several, stands in ``text`` word for word."""
    first = answer[0] if _is_list(answer) and answer else answer
    return isinstance(first, str) and first.strip() in text


def _numbers(values: Sequence[Any]) -> list[float] | None:
    """Return the values as finite numbers, None where one is not."""
    try:
        numbers = [float(value) for value in values if not isinstance(value, bool)]
    except (TypeError, ValueError, OverflowError):
        return None
    are_numbers = len(numbers) == len(values) > 0 and all(map(math.isfinite, numbers))
    return numbers if are_numbers else None


def _are_measures(values: Sequence[Any]) -> bool:
    """Return whether all values are numbers, and not whole ones that come again and again: those could be classes."""
    numbers = _numbers(values)
    if numbers is None:
        return False
    is_varied = len(set(numbers)) > max(_MAX_GRADES, len(numbers) / 2)
    return is_varied or any(number != int(number) for number in numbers)


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
