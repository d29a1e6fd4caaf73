"""The decoder's errors in Weft's words: one problem for each mistake, where it was written, with what would be right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from weft.errors import nearest
from weft.recipe.document import Document, Path, Problem, described
from weft.recipe.places import find
from weft.recipe.spec import Catalogue

_RULES = {
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of at most 4,300 digits",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "greater_than": "must be more than {gt:,.10g}",
    "greater_than_equal": "must be at least {ge:,.10g}",
    "less_than": "must be less than {lt:,.10g}",
    "less_than_equal": "must be at most {le:,.10g}",
    "too_short": "must have at least {min_length} element",
    "too_long": "must have at most {max_length} elements",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "enum": "must be one of its choices",
    "literal_error": "must be one of its choices",
}


def explain(errors: Sequence[ErrorDetails], document: Document, catalogue: Catalogue) -> list[Problem]:
    """Return one problem for each mistake behind pydantic's ``errors`` on the data of ``document``.

    A union reports one error for each member, and a list with a bad element is also too short: those become one.
    """
    located = [(_path_in(document, error), error) for error in errors]
    inner = {path[:end] for path, _ in located for end in range(len(path))}
    problems: list[Problem] = []
    same_place: dict[Path, list[ErrorDetails]] = {}
    for path, error in located:
        if error["type"] == "missing":
            problems.append(document.problem(path, _missing(error)))
        elif error["type"] == "extra_forbidden":
            place = find(path[:-1], document, catalogue)
            choices = place.keys() if place is not None else ()
            hint = nearest(str(path[-1]), choices)
            problems.append(document.problem(path, f"must be a key that exists here, but is not. {hint}"))
        elif path not in inner:
            same_place.setdefault(path, []).append(error)
    problems += [document.problem(path, _text(path, group, document)) for path, group in same_place.items()]
    return problems


def _path_in(document: Document, error: ErrorDetails) -> Path:
    """Return the path of the value that ``error`` is about, without what pydantic adds (union tags, short forms)."""
    path: Path = ()
    loc = error["loc"][:-1] if error["type"] == "missing" else error["loc"]
    for part in loc:
        value = document.at(path)
        known = (
            part in value if isinstance(value, Mapping) else isinstance(part, int) and isinstance(value, list)
        )
        path = (*path, part) if known else path
    return path


def _missing(error: ErrorDetails) -> str:
    hint = error.get("ctx", {}).get("hint", "Add it.")
    return f"must have the key '{error['loc'][-1]}', but it is missing. {hint}"


def _text(path: Path, errors: Sequence[ErrorDetails], document: Document) -> str:
    rules = dict.fromkeys(_rule(error) for error in errors)
    first, *others = rules
    rule = " or ".join((first, *(other.removeprefix("must be ") for other in others)))
    if ", but " in rule or rule.endswith("."):  # of several keys together: it says itself what is
        return rule
    is_key = "[key]" in errors[0]["loc"]
    value = errors[0]["input"] if is_key else document.at(path)
    found = described(value, None if is_key else document.mark(path).text)
    hints = [hint for error in errors if (hint := _hint(error, value))]
    return " ".join((f"{rule}, but is {found}.", *dict.fromkeys(hints)))


def _rule(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "unknown":
            return "must be one of its choices"
        case kind if kind in _RULES:
            return _RULES[kind].format(**context)
        case _:
            return error["msg"]


def _hint(error: ErrorDetails, value: Any) -> str:
    context = error.get("ctx", {})
    if error["type"] in ("enum", "literal_error"):
        expected = str(context["expected"])
        choices = re.findall(r"'([^']*)'", expected) or re.split(r", | or ", expected)
        return nearest(str(value), choices)
    return str(context.get("hint", ""))
