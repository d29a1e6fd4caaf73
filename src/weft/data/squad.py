"""Nested reading comprehension (SQuAD, CMRC 2018, DRCD, MRQA): articles of paragraphs of questions, one row a question.

A row has what its question says (``id``, ``question``, ``answers``, ``is_impossible``, ...) and the context, under the
names that the file has for them, and the plain values of its paragraph and its article (``title``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from weft.data.table import Record
from weft.errors import DataError

_PARAGRAPHS, _QUESTIONS = "paragraphs", "qas"
_IDS = ("id", "qid", "query_id", "question_id")


def flattened(records: Iterable[Record], *, name: str) -> Iterator[Record]:
    """Yield ``records`` with every nested one replaced by a row for each of its questions, which stands at its id.

    A question without an id of its own stands at the number of its record and its own number in it (``3.14``).

    Args:
        records: of a file.
        name: of the file, for messages.

    Raises:
        DataError: a paragraph or a question is not an object.
    """
    seen: set[str] = set()
    for values, line in records:
        if not _is_nested(values):
            yield values, line
            continue
        for number, row in enumerate(_questions(values, where=f"{name}:{line}"), start=1):
            own = next((str(row[key]) for key in _IDS if row.get(key)), "")
            yield row, f"{line}.{number}" if not own or own in seen else own
            seen.add(own)


def _is_nested(values: Mapping[str, Any]) -> bool:
    """Return whether a record holds questions; a document whose ``paragraphs`` are texts is a row as it is."""
    if isinstance(values.get(_QUESTIONS), list):
        return True
    inner = values.get(_PARAGRAPHS)
    return isinstance(inner, list) and any(isinstance(one, dict) and _QUESTIONS in one for one in inner)


def _questions(article: Mapping[str, Any], *, where: str) -> Iterator[dict[str, Any]]:
    is_article = _QUESTIONS not in article
    about = _scalars(article) if is_article else {}
    for paragraph in _objects(
        article[_PARAGRAPHS] if is_article else [article], where=f"{where}: {_PARAGRAPHS}"
    ):
        for question in _objects(paragraph.get(_QUESTIONS), where=f"{where}: {_QUESTIONS}"):
            yield {**about, **_scalars(paragraph), **question}


def _scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not isinstance(value, list | dict)}


def _objects(values: Any, *, where: str) -> list[dict[str, Any]]:
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(f"{where} must be a list of objects, but is {str(values)[:60]}. Correct the file.")
    return values
