"""Cloze tests whose blanks share their candidates (ChID, as CLUE has it): a row a blank.

A record has several texts under ``content``, in which blanks are numbered (``#idiom000042#``), one list of ``candidates`` and the
right ones of all blanks, in order, under ``answers``. A row has one of the texts with one blank to fill, ``____``, the others
left as ``……``, the candidates, and its ``answer`` where the record has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from weft.data.table import Record

_BLANK = re.compile(r"#idiom\d+#")
_ASKED, _OTHER = "____", "……"
_CONTENT, _CANDIDATES, _ANSWERS = "content", "candidates", "answers"
ANSWER: Final = "answer"


def flattened(records: Iterable[Record]) -> Iterator[Record]:
    """Yield ``records`` with every cloze test replaced by a row for each of its blanks, at ``<line>.<number>``."""
    for values, line in records:
        if not _is_cloze(values):
            yield values, line
            continue
        answers = _answers(values.get(_ANSWERS))
        rest = {key: value for key, value in values.items() if key != _ANSWERS}
        for number, text in enumerate(_asked(values[_CONTENT])):
            answer = {ANSWER: answers[number]} if number < len(answers) else {}
            yield {**rest, _CONTENT: text, **answer}, f"{line}.{number + 1}"


def _is_cloze(values: Mapping[str, Any]) -> bool:
    texts, candidates = values.get(_CONTENT), values.get(_CANDIDATES)
    if not isinstance(texts, list) or not isinstance(candidates, list):
        return False
    return any(isinstance(text, str) and _BLANK.search(text) for text in texts)


def _asked(texts: Iterable[Any]) -> Iterator[str]:
    """Yield each text once for each of its blanks."""
    for text in texts:
        parts = _BLANK.split(str(text))
        for number in range(1, len(parts)):
            yield _OTHER.join(parts[:number]) + _ASKED + _OTHER.join(parts[number:])


def _answers(value: Any) -> list[Any]:
    """Return the right candidates: the texts of a list of objects, or of one object of lists."""
    if isinstance(value, Mapping):
        texts = value.get("text")
        return list(texts) if isinstance(texts, list) else []
    objects = value if isinstance(value, list) else []
    return [one.get("text") if isinstance(one, Mapping) else one for one in objects]
