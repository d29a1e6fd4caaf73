from __future__ import annotations

import json
from collections.abc import Callable

from weft.build.catalogue import catalogue
from weft.recipe.schema import schema


def test_schema_is_json_with_every_family_and_method(weft: Callable[..., tuple[int, str, str]]):
    code, out, err = weft("schema")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document == schema(catalogue())
    constants = {
        value["const"]
        for one in document["$defs"].values()
        for value in one.get("properties", {}).values()
        if "const" in value
    }
    assert {"classification", "regression", "tagging", "generation", "none", "full", "lora"} <= constants
