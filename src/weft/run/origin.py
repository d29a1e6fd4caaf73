"""What a run belongs to, written when it begins and met again when it is taken up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import weft
from weft.build.catalogue import open_recipe
from weft.errors import CheckpointError
from weft.evaluate.compare import recipe_differences
from weft.export.parts import read_json
from weft.model.device import describe_machine
from weft.recipe.spec import Recipe
from weft.run.context import Context
from weft.run.files import write_text
from weft.run.folder import RunFolder

_BACK = "Put it back as it was, or start a new run."


def write_origin(context: Context, *, root: Path) -> None:
    """Write the origin of a run that begins now."""
    values = {
        "weft": weft.__version__,
        "root": str(root.resolve()),
        "recipe": context.recipe.model_dump(mode="json"),
        "data": dict(context.data.digests),
        "base": context.base.digest,
        "machine": describe_machine(),
    }
    write_text(context.folder.origin, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def read_origin(folder: RunFolder) -> dict[str, Any]:
    """Return the origin of the run in ``folder``.

    Raises:
        CheckpointError: there is no run.
    """
    if not folder.origin.is_file():
        raise CheckpointError(f"{folder.path}: must hold a run, but holds none. Start one with 'weft train'.")
    return read_json(folder.origin)


def same_recipe(folder: RunFolder, origin: dict[str, Any]) -> Recipe:
    """Return the run's recipe.

    Raises:
        CheckpointError: it says something else than at the beginning; the keys are named.
    """
    recipe = open_recipe(folder.recipe)
    differences = recipe_differences(origin["recipe"], recipe.model_dump(mode="json"))
    if differences:
        words = "; ".join(f"{one.key}: {one.a} -> {one.b}" for one in differences)
        raise CheckpointError(
            f"{folder.recipe}: a run keeps its recipe, but it changed since: {words}. {_BACK}"
        )
    return recipe


def check_origin(context: Context, origin: dict[str, Any]) -> None:
    """See that data and model are those that the run began with.

    Raises:
        CheckpointError: they are not; the files or the model are named.
    """
    if origin["base"] != context.base.digest:
        raise CheckpointError(
            f"{context.base.folder.path}: a run keeps its base model, but configuration, tokenizer, weights or adapters "
            f"changed since. {_BACK}"
        )
    ours, theirs = context.data.digests, origin["data"]
    changed = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
    if changed:
        raise CheckpointError(
            f"{context.folder.path}: a run keeps its data, but these changed since: {', '.join(changed)}. {_BACK}"
        )
