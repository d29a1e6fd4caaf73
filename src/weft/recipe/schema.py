"""The JSON Schema of recipes, for editors: all families and methods with their keys, and every short form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from weft.recipe.spec import Catalogue, Recipe, Rule, Spec, TaskSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXTS = {"type": "array", "items": {"type": "string"}}
Schema = dict[str, Any]


def schema(catalogue: Catalogue) -> Schema:
    """Return the JSON Schema (draft 2020-12) of every recipe that ``catalogue`` allows.

    It says what an editor can know: keys, types, ranges and choices. What ties keys together is checked by ``load``.
    """
    members = (*catalogue.tasks.values(), *catalogue.methods.values())
    classes = tuple(dict.fromkeys((Recipe, TaskSpec, Rule, *members)))
    names, document = models_json_schema(
        [(cls, "validation") for cls in classes], ref_template="#/$defs/{model}"
    )
    definitions: dict[str, Schema] = document["$defs"]
    key_of = {cls: reference["$ref"].rpartition("/")[2] for (cls, _), reference in names.items()}
    _short_forms(definitions, key_of[Recipe], catalogue)
    tasks = _members(definitions, catalogue.tasks, key_of, key="kind")
    rules = _members(definitions, catalogue.methods, key_of, key="train")
    for key in {key_of[TaskSpec], key_of[Rule]} - {key_of[cls] for cls in members}:
        del definitions[key]
    root = definitions.pop(key_of[Recipe])
    named = root["properties"]["tasks"]
    named["patternProperties"] = {name: {"oneOf": tasks} for name in named["patternProperties"]}
    named["additionalProperties"] = False
    definitions["AnyRule"] = {"oneOf": rules}
    return {"$schema": DIALECT, **root, "title": "Weft recipe", "$defs": definitions}


def _members(
    definitions: dict[str, Schema], classes: Mapping[str, type[Spec]], key_of: Mapping[Any, str], *, key: str
) -> list[Schema]:
    """Fix ``key`` of every member to its name, let sources be one text, and return references to the members."""
    axis = TaskSpec if key == "kind" else Rule
    for name, cls in classes.items():
        member = definitions[key_of[cls]]
        properties = member["properties"]
        properties[key] = {"const": name, "description": axis.model_fields[key].description}
        member["required"] = list(dict.fromkeys((key, *member.get("required", ()))))
        if axis is TaskSpec:
            sources = {
                source: _or(properties[source], {"type": "string"}) for source in ("train", "dev", "test")
            }
            properties.update(sources)
    return [{"$ref": f"#/$defs/{key_of[cls]}"} for cls in classes.values()]


def _short_forms(definitions: dict[str, Schema], recipe: str, catalogue: Catalogue) -> None:
    root, stage = definitions[recipe]["properties"], definitions["StageSpec"]["properties"]
    kinds = {"$ref": "#/$defs/MixtureKind"}
    root["model"] = _or(root["model"], {"type": "string"})
    stage["mixture"] = _or(stage["mixture"], kinds)
    stage["tasks"] = _or(stage["tasks"], {"type": "string"}, {**_TEXTS, "minItems": 1, "uniqueItems": True})
    stage["strategy"] = {
        **{key: value for key, value in stage["strategy"].items() if key in ("description", "default")},
        "anyOf": [
            {"type": "string", "examples": sorted(catalogue.strategies)},
            {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/AnyRule"}},
        ],
    }


def _or(full: Schema, *short: Schema) -> Schema:
    """Return a schema that takes ``full`` or a short form; description and default stay outside."""
    outside = {key: full[key] for key in ("description", "default") if key in full}
    inside = {key: value for key, value in full.items() if key not in (*outside, "title")}
    return {**outside, "anyOf": [*short, inside]}
