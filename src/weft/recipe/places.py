"""Which keys may stand where in a recipe: the spec classes, walked by key path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from weft.recipe.document import Document, Path
from weft.recipe.spec import Catalogue, Recipe, Rule, Spec, TaskSpec


class Form(StrEnum):
    """What can stand below a place."""

    KEYS = "keys"  # the fields of a spec
    MAPPING = "mapping"  # free names
    LIST = "list"
    VALUE = "value"  # nothing


@dataclass(frozen=True, slots=True)
class Place:
    """One place of a recipe. ``spec`` is the class whose fields are the keys here, or that of each element."""

    form: Form
    spec: type[Spec] | None = None

    def keys(self) -> tuple[str, ...]:
        """Return the names that are valid here, where they are fixed."""
        return tuple(self.spec.model_fields) if self.spec is not None and self.form is Form.KEYS else ()


ROOT = Place(Form.KEYS, Recipe)


def find(path: Path, document: Document, catalogue: Catalogue) -> Place | None:
    """Return the place at ``path``, given the task kinds and methods that ``document`` names; None if there is none."""
    place: Place | None = ROOT
    for depth, part in enumerate(path, start=1):
        place = place and _inside(place, part)
        if place is not None and place.form is Form.KEYS:
            place = Place(Form.KEYS, _member(place.spec, document.at(path[:depth]), catalogue))
    return place


def _inside(place: Place, part: str | int) -> Place | None:
    match place.form:
        case Form.VALUE:
            return None
        case Form.KEYS:
            assert place.spec is not None
            field = place.spec.model_fields.get(str(part))
            return None if field is None else _place_of(field.annotation)
        case Form.MAPPING | Form.LIST:
            if place.form is Form.LIST and not isinstance(part, int):
                return None
            return Place(Form.VALUE) if place.spec is None else Place(Form.KEYS, place.spec)


def _place_of(annotation: Any) -> Place:
    """Return the place that a field of this type is; of a union, the member with something below it."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _place_of(args[0])
    if origin in (Union, UnionType):
        places = (_place_of(arg) for arg in args)
        return next((place for place in places if place.form is not Form.VALUE), Place(Form.VALUE))
    if origin is dict:
        return Place(Form.MAPPING, _place_of(args[1]).spec)
    if origin in (tuple, list):
        return Place(Form.LIST, _place_of(args[0]).spec)
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return Place(Form.KEYS, annotation)
    return Place(Form.VALUE)


def _member(spec: type[Spec] | None, value: Any, catalogue: Catalogue) -> type[Spec] | None:
    if not isinstance(value, Mapping):
        return spec
    if spec is TaskSpec:
        return catalogue.tasks.get(str(value.get("kind")), TaskSpec)
    if spec is Rule:
        return catalogue.methods.get(str(value.get("train")), Rule)
    return spec
