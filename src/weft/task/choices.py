"""Rows of multiple choice as data sets write them: where the choices stand, and which one is right.

Choices are a list in one column (RACE, MMLU, XCOPA), a mapping with labels of their own (ARC, CommonsenseQA), or a column
each (COPA, SWAG, C-Eval). The right one is named by its place, its letter, its own label, its column or its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from string import ascii_lowercase, ascii_uppercase
from typing import Any, Final, NamedTuple

from weft.core.example import Row
from weft.data.columns import Role, resolve
from weft.errors import DataError
from weft.task.labels import SEPARATOR, label_text, plain
from weft.task.sequence import Columns

LETTERS: Final = ascii_uppercase
"""Names of places, and with them how many choices a row may have."""
NUM_COLUMNS: Final = 10
"""Choices that may have a column each."""

CONTEXT: Final = (
    *("premise", "context", "passage", "article", "paragraph", "dialogue", "ctx", "sent1", "story", "text"),
    *(
        "sentence",
        "background",
        "document",
        "content",
        "前提",
        "上下文",
        "文章",
        "材料",
        "背景",
        "段落",
        "对话",
        "正文",
        "文本",
        "内容",
    ),
)
QUESTION: Final = (
    *("question", "question_stem", "query", "goal", "sent2", "stem", "prompt", "problem"),
    *("问题", "题目", "题干", "提问"),
)
CHOICES: Final = (
    *("choices", "options", "endings", "candidates", "choice", "option", "answers", "alternatives"),
    *("选项", "候选", "候选答案", "选择"),
)
ANSWER: Final = (
    *(
        "label",
        "labels",
        "answerKey",
        "answer_key",
        "answer",
        "gold_label",
        "correct_answer",
        "correct_option",
    ),
    *("correct", "correct_answer_id", "answer_index", "answer_idx", "answer_id", "cop", "target", "gold"),
    *("答案", "正确答案", "正确选项", "标签", "标准答案"),
)
_HAN_NUMBERS = "一二三四五六七八九十"
_COPA: Final = {
    "cause": ("What was the cause?", "原因是什么？"),
    "effect": ("What happened as a result?", "结果发生了什么？"),
}
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")


class Naming(StrEnum):
    """How a column names the right choice."""

    OWN = "own"  # by the label that the row gives its choices, or by the name of their column
    INDEX = "index"  # by its place, from 0
    NUMBER = "number"  # by its place, from 1
    LETTER = "letter"  # A, B, ...
    TEXT = "text"  # by what it says


class Choices(NamedTuple):
    """The choices of one row, and the labels that it gives them itself, empty where it gives none."""

    texts: tuple[str, ...]
    own: tuple[str, ...]


def choice_role(number: int) -> Role:
    """Return the role of the column of the choice at place ``number``; data sets count from 0, from 1 or with letters.

    Roles are resolved in order and no two share a column, so ``ending0`` is the first of ``ending0, ending1`` and
    ``choice1`` that of ``choice1, choice2``.
    """
    counted = (
        "choice",
        "choice_",
        "ending",
        "ending_",
        "option",
        "option_",
        "answer",
        "answer_",
        "sol",
        "选项",
    )
    lettered = ("", "option", "option_", "answer", "choice", "op", "选项")
    aliases = [f"{stem}{place}" for stem in counted for place in (number, number + 1)]
    aliases += [f"{stem}{ascii_uppercase[number]}" for stem in lettered]
    aliases += [f"{stem}{ascii_lowercase[number]}" for stem in lettered]
    return Role(f"choice{number + 1}", (*aliases, f"选项{_HAN_NUMBERS[number]}"), required=False)


def find_columns(rows: Sequence[Row], given: Mapping[str, str], *, what: str) -> dict[str, str | None]:
    """Return the column of each role: text and question (one of them at least), choices in one column or several, label.

    Raises:
        DataError: nothing to choose from, nothing to choose by, or columns that leave a choice out.
    """
    several = [choice_role(number) for number in range(NUM_COLUMNS)]
    roles = [
        Role("label", ANSWER),
        Role("text", CONTEXT, required=False, is_text=True),
        Role("question", QUESTION, required=False, is_text=True),
        Role("choices", CHOICES, required=False),
    ]
    by_name = {role.name for role in several} & set(given)
    if by_name:  # of one column and several, those count that the recipe names
        roles.pop()
    found = resolve(rows, [*roles, *several], given, what=what)
    names = [found.pop(role.name) for role in several]
    if found.get("choices") is None:
        found["choices"] = None
        count = names.index(None) if None in names else NUM_COLUMNS
        if count < 2:
            raise DataError(
                f"{what}: must have a column of choices, or one for each of two and more (choice1, choice2; A, B), but the "
                f"columns found are {_named(found)}. Say which with columns: {{choices: <column>}}, or {{choice1: "
                f"<column>, choice2: <column>}}."
            )
        found |= {role.name: name for role, name in zip(several[:count], names, strict=False)}
    if found["text"] is None and found["question"] is None:
        raise DataError(
            f"{what}: must have a column for text or question, but the columns found are {_named(found)}. Say which "
            f"with columns: {{question: <column>}}."
        )
    return found


def choices_of(row: Row, columns: Columns) -> Choices | str:
    """Return the choices of ``row``, or why there are none that can be used."""
    if columns["choices"] is not None:
        found = _listed(row.values.get(columns["choices"]))
    else:
        names = [str(column) for role, column in columns.items() if _is_choice(role)]
        found = Choices(
            tuple(_text(row.values.get(name)) for name in names), tuple(names)
        )  # as SuperGLUE's COPA
    texts = found.texts
    while texts and not texts[-1]:  # a row may have fewer than its file has columns
        texts = texts[:-1]
    if len(texts) < 2:
        return "fewer than two choices"
    if not all(texts):
        return "empty choice"
    if len(texts) > len(LETTERS):
        return f"more than {len(LETTERS)} choices"
    return Choices(texts, found.own[: len(texts)])


def choice_columns(columns: Columns) -> tuple[str, ...]:
    """Return the columns that hold choices."""
    found = (column for role, column in columns.items() if role == "choices" or _is_choice(role))
    return tuple(column for column in found if column is not None)


def place_of(value: Any, choices: Choices, naming: Naming) -> int | None:
    """Return the place, from 0, of the choice that ``value`` names; None where it names none."""
    name = label_text(value)
    if name is None:
        return None
    count = len(choices.texts)
    match naming:
        case Naming.OWN:
            return _place(name, choices.own)
        case Naming.INDEX | Naming.NUMBER:
            place = int(name) - (naming is Naming.NUMBER) if name.isdecimal() else -1
            return place if 0 <= place < count else None
        case Naming.LETTER:
            return _place(name.strip("().").upper(), LETTERS[:count])
        case Naming.TEXT:
            return _place(name, choices.texts)


def naming_of(rows: Sequence[tuple[Any, Choices]]) -> Naming | None:
    """Return how most of the labels name choices, None where none does; of equals the first of ``Naming``.

    So numbers count from 0 unless one of them is as high as the number of its row's choices.
    """
    counts = {
        naming: sum(place_of(value, choices, naming) is not None for value, choices in rows)
        for naming in Naming
    }
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else None


def asked(text: str, question: str) -> str:
    """Return the words of a question; the bare ``cause`` or ``effect`` of COPA and XCOPA in the language of ``text``."""
    words = _COPA.get(question.strip().lower())
    return question if words is None else words[_HAN.search(text) is not None]


def _listed(value: Any) -> Choices:
    """Return the choices in one cell: a list, a mapping, their JSON, or text with ``|`` between them."""
    value = plain(value)
    if isinstance(value, str):
        value = _from_json(value)
    if isinstance(value, Mapping):
        labels, texts = value.get("label"), value.get("text")
        if labels is None or texts is None:  # {"A": "red", "B": "blue"}
            labels, texts = list(value), list(value.values())
        return Choices(tuple(map(_text, plain(texts))), tuple(map(_text, plain(labels))))
    if not isinstance(value, list | tuple):
        return Choices((), ())
    if value and all(isinstance(one, Mapping) and "text" in one for one in value):
        return Choices(
            tuple(_text(one["text"]) for one in value),
            tuple(_text(one["label"]) for one in value if "label" in one),
        )
    return Choices(tuple(map(_text, value)), ())


def _from_json(text: str) -> Any:
    if text.lstrip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except ValueError:  # a choice may begin so
            pass
    return text.split(SEPARATOR)


def _is_choice(role: str) -> bool:
    return role.startswith("choice") and role.removeprefix("choice").isdecimal()


def _text(value: Any) -> str:
    return label_text(value) or ""


def _place(name: str, names: Sequence[str]) -> int | None:
    return names.index(name) if name in names else None


def _named(columns: Mapping[str, str | None]) -> str:
    return ", ".join(f"{role}: {column}" for role, column in columns.items() if column) or "none"
