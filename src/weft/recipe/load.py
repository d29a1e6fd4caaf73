"""Recipe files to recipes, with every mistake reported at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath

from pydantic import ValidationError

from weft.errors import RecipeError, nearest
from weft.recipe.checks import check
from weft.recipe.document import Document, Mark, Path, Problem, described
from weft.recipe.overrides import apply
from weft.recipe.problems import explain
from weft.recipe.spec import Catalogue, Recipe
from weft.recipe.yaml import decode, parse


def load(path: FilePath, catalogue: Catalogue, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in the file at ``path``. Data paths in it stay as written.

    Args:
        path: a YAML file.
        catalogue: the task kinds, methods and strategies that it may name.
        overrides: ``key.sub=value`` each, set before anything is checked; stages by index or by name.

    Raises:
        RecipeError: every mistake, as ``file:line: key path: rule, but value. choices``.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        near = sorted(other.name for other in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        hint = nearest(path.name, near) if near else "Give the path of a YAML file."
        reason = (error.strerror or "cannot be read").lower()
        raise RecipeError([f"{path}: must be a recipe file, but there is {reason}. {hint}"]) from None
    return loads(decode(raw, str(path)), catalogue, name=str(path), overrides=overrides)


def loads(
    text: str, catalogue: Catalogue, *, name: str = "recipe.yaml", overrides: Sequence[str] = ()
) -> Recipe:
    """Return the recipe that ``text`` says; as ``load``, with ``name`` as the file's name in messages."""
    document = parse(text, name)
    if not isinstance(document.data, dict):
        what = f"must be a mapping with the keys model, tasks and stages, but is {described(document.data)}"
        raise RecipeError([str(document.problem((), f"{what}."))])
    document = apply(document, overrides, catalogue)
    document, result = _decode(document, catalogue)
    problems = [*document.problems, *check(document)]
    if isinstance(result, Recipe) and not problems:
        return result
    if isinstance(result, ValidationError):
        problems += explain(result.errors(), document, catalogue)
    raise RecipeError(_lines(problems))


def _decode(document: Document, catalogue: Catalogue) -> tuple[Document, Recipe | ValidationError]:
    """Decode; where text is wanted and a number stands, take the number as it was written, and decode again."""
    while True:
        try:
            return document, Recipe.model_validate(document.data, context=catalogue)
        except ValidationError as error:
            texts = _texts_wanted(document, error)
            if not texts:
                return document, error
            for path, mark in texts.items():
                document = document.put(path, mark.text, {(): mark})


def _texts_wanted(document: Document, error: ValidationError) -> dict[Path, Mark]:
    wanted: dict[Path, Mark] = {}
    for one in error.errors():
        if one["type"] == "string_type":
            path = tuple(one["loc"])
            while path and path not in document.marks:
                path = path[:-1]
            if isinstance(document.at(path), int | float) and document.marks[path].text is not None:
                wanted[path] = document.marks[path]
    return wanted


def _lines(problems: Sequence[Problem]) -> list[str]:
    """Return the problems in the order of the file; one place that breaks a rule twice is said once."""
    ordered = sorted(problems, key=lambda problem: problem.mark.order)
    return list(dict.fromkeys(str(problem) for problem in ordered))
