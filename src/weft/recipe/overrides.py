"""Overrides from the command line: ``stages.expert.lr=1e-5``, set in a document before it is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from weft.errors import RecipeError, nearest
from weft.recipe.document import Document, Mark, Path, Problem, shown
from weft.recipe.places import Form, Place, find
from weft.recipe.spec import Catalogue, MixtureSpec, ModelSpec
from weft.recipe.yaml import parse

_AFTER_ALL_LINES = 1_000_000_000
_SHORT_FORMS = {ModelSpec: "path", MixtureSpec: "kind"}  # what the text stands for where a mapping is short


def apply(document: Document, overrides: Sequence[str], catalogue: Catalogue) -> Document:
    """Return ``document`` with every ``key.sub=value`` of ``overrides`` set, in order; problems are added to it."""
    for index, text in enumerate(overrides):
        mark = Mark(f"override {text}", _AFTER_ALL_LINES + index)
        try:
            document = _set(document, text, mark, catalogue)
        except _Refused as refused:
            document = replace(document, problems=(*document.problems, refused.problem))
    return document


class _Refused(Exception):
    def __init__(self, mark: Mark, path: Path, text: str) -> None:
        super().__init__(text)
        self.problem = Problem(mark, path, text)


def _set(document: Document, text: str, mark: Mark, catalogue: Catalogue) -> Document:
    key, equals, value_text = text.partition("=")
    if not equals or not key.strip():
        raise _Refused(
            mark, (), "must be key.sub=value, but has no key or no '='. Example: stages.0.lr=1e-4."
        )
    value = _value(value_text, mark)
    path: Path = ()
    parts = key.strip().split(".")
    for depth, part in enumerate(parts):
        place = find(path, document, catalogue)
        document = _expanded(document, path, place)
        is_last = depth == len(parts) - 1
        path = (*path, _step(document, path, part, place, mark, is_last=is_last))
    marks = {at: replace(old, where=mark.where, order=mark.order) for at, old in value.marks.items()}
    return document.put(path, value.data, marks)


def _value(text: str, mark: Mark) -> Document:
    try:
        value = parse(text, mark.where) if text.strip() else Document(None, {(): mark})
    except RecipeError as error:
        message = str(error).removeprefix(f"{mark.where}:").partition(": ")[2]
        raise _Refused(mark, (), message) from None
    if value.problems:
        raise _Refused(mark, value.problems[0].path, value.problems[0].text)
    return value


def _step(
    document: Document, path: Path, part: str, place: Place | None, mark: Mark, *, is_last: bool
) -> str | int:
    """Return the key or index that ``part`` means below ``path``."""
    here = document.at(path)
    if place is not None and not isinstance(here, Mapping | list | None):
        place = Place(Form.VALUE)  # the recipe has a plain value where more is wanted
    match place:
        case Place(form=Form.KEYS):
            keys = place.keys()
            if part not in keys:
                what = f"must be a key that exists here, but is not. {nearest(part, keys)}"
                raise _Refused(mark, (*path, part), what)
            return part
        case Place(form=Form.LIST) if isinstance(here, list):
            return _index(here, path, part, mark)
        case Place(form=Form.MAPPING):
            known = list(here) if isinstance(here, Mapping) else []
            if part not in known and (place.spec is not None or not is_last):
                what = f"must exist already, but does not. {nearest(part, known)}"
                raise _Refused(mark, (*path, part), what)
            return part
        case _:
            what = (
                f"must have something below it, but {shown(path)} is a plain value. Set {shown(path)} itself."
            )
            raise _Refused(mark, (*path, part), what)


def _index(items: list[Any], path: Path, part: str, mark: Mark) -> int:
    names = [str(item.get("name")) if isinstance(item, Mapping) and "name" in item else "" for item in items]
    if part in names:
        return names.index(part)
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    choices = [name for name in names if name] + [str(index) for index in range(len(items))]
    raise _Refused(
        mark, (*path, part), f"must be an element that exists, but is not. {nearest(part, choices)}"
    )


def _expanded(document: Document, path: Path, place: Place | None) -> Document:
    """Return ``document`` with the value at ``path`` written in full where it is a short form."""
    value = document.at(path)
    if place is None or value is None:
        return document
    old = document.mark(path)
    if place.form is Form.KEYS and place.spec in _SHORT_FORMS and not isinstance(value, Mapping):
        key = _SHORT_FORMS[place.spec]
        return document.put(path, {key: value}, {(): old, (key,): old})
    if (
        place.form is Form.MAPPING
        and place.spec is None
        and path[-1:] == ("tasks",)
        and not isinstance(value, Mapping)
    ):
        names = [str(name) for name in (value if isinstance(value, list) else [value])]
        return document.put(path, dict.fromkeys(names, 1.0), {(): old, **{(name,): old for name in names}})
    return document
