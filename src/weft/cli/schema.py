"""``weft schema``: the JSON Schema of recipes, for editors."""

from __future__ import annotations

import json
import sys

from weft.build.catalogue import catalogue
from weft.recipe.schema import schema


def run() -> None:
    """Print the schema with all task families and methods of this installation."""
    sys.stdout.write(json.dumps(schema(catalogue()), indent=2, ensure_ascii=False) + "\n")
