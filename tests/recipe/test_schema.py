from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from weft.recipe.schema import schema
from weft.recipe.spec import Catalogue, MixtureKind, Recipe, StageSpec


@pytest.fixture(scope="module")
def document(catalogue: Catalogue) -> dict[str, Any]:
    return schema(catalogue)


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(item)


def test_it_is_json_of_the_dialect_that_editors_know(document: dict[str, Any]):
    assert json.loads(json.dumps(document)) == document
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert document["type"] == "object"
    assert document["required"] == ["model", "tasks", "stages"]


def test_every_reference_leads_somewhere_and_every_definition_is_used(document: dict[str, Any]):
    wanted = {node["$ref"].removeprefix("#/$defs/") for node in nodes(document) if "$ref" in node}
    assert wanted == set(document["$defs"])


def test_every_key_of_recipe_and_stage_is_there_with_its_description(document: dict[str, Any]):
    for cls, properties in (
        (Recipe, document["properties"]),
        (StageSpec, document["$defs"]["StageSpec"]["properties"]),
    ):
        assert set(properties) == set(cls.model_fields)
        assert all(
            properties[name]["description"] == field.description for name, field in cls.model_fields.items()
        )


def test_unknown_keys_are_refused_everywhere(document: dict[str, Any]):
    objects = [node for node in nodes(document) if "properties" in node and node.get("type") == "object"]
    assert len(objects) == 1 + 5 + 2 + 3  # recipe, its five specs, two kinds, three methods
    assert all(node["additionalProperties"] is False for node in objects)


def test_task_kinds_are_alternatives_with_their_own_keys(document: dict[str, Any], catalogue: Catalogue):
    ((pattern, task),) = document["properties"]["tasks"]["patternProperties"].items()
    assert pattern.startswith("^[A-Za-z0-9]")
    members = [document["$defs"][one["$ref"].rpartition("/")[2]] for one in task["oneOf"]]
    assert {member["properties"]["kind"]["const"] for member in members} == set(catalogue.tasks)
    for member in members:
        cls = catalogue.tasks[member["properties"]["kind"]["const"]]
        assert set(member["properties"]) == set(cls.model_fields)
        assert set(member["required"]) == {"kind", "train"}
        assert {"type": "string"} in member["properties"]["train"]["anyOf"]
        assert member["properties"]["kind"]["description"]


def test_methods_are_alternatives_with_their_own_keys(document: dict[str, Any], catalogue: Catalogue):
    members = [
        document["$defs"][one["$ref"].rpartition("/")[2]] for one in document["$defs"]["AnyRule"]["oneOf"]
    ]
    assert {member["properties"]["train"]["const"] for member in members} == set(catalogue.methods)
    lora = next(member for member in members if member["properties"]["train"]["const"] == "lora")
    assert lora["properties"]["rank"] | {"title": ""} == {
        "default": 8,
        "minimum": 1,
        "type": "integer",
        "title": "",
    }
    assert lora["required"] == ["train"]


def test_short_forms(document: dict[str, Any]):
    stage = document["$defs"]["StageSpec"]["properties"]
    types = [one.get("type") for one in stage["tasks"]["anyOf"]]
    assert types == ["string", "array", "object"]
    assert [one.get("type") for one in stage["strategy"]["anyOf"]] == ["string", "array"]
    assert stage["strategy"]["anyOf"][0]["examples"] == ["full", "head", "lora"]
    assert stage["strategy"]["default"] == "full"
    assert document["properties"]["model"]["anyOf"] == [{"type": "string"}, {"$ref": "#/$defs/ModelSpec"}]
    assert stage["mixture"]["anyOf"] == [{"$ref": "#/$defs/MixtureKind"}, {"$ref": "#/$defs/MixtureSpec"}]
    assert document["$defs"]["MixtureKind"]["enum"] == [kind.value for kind in MixtureKind]


def test_durations_are_patterns_without_named_groups(document: dict[str, Any]):
    length = document["$defs"]["StageSpec"]["properties"]["length"]
    assert length["default"] == "3 epochs"
    assert "?P<" not in length["pattern"]
    assert length["pattern"].startswith("^")


def test_a_new_kind_appears_by_itself(catalogue: Catalogue):
    from weft.recipe.spec import Catalogue, TaskSpec

    class NewSpec(TaskSpec):
        """A new family."""

        colour: str = "red"

    more = Catalogue({**catalogue.tasks, "new": NewSpec}, catalogue.methods, catalogue.strategies)
    assert schema(more)["$defs"]["NewSpec"]["properties"]["colour"]["default"] == "red"
