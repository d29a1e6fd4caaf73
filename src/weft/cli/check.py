"""``weft check``: every mistake that can be found without loading weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from weft.build.opened import open_all
from weft.cli.console import out
from weft.cli.messages import say
from weft.cli.show import show_data


def run(
    recipe: Annotated[Path, typer.Argument(help=say("arg.recipe"))],
    overrides: Annotated[list[str] | None, typer.Argument(help=say("arg.overrides"))] = None,
    is_json: Annotated[bool, typer.Option("--json", help=say("env.json"))] = False,
) -> None:
    """Read the recipe, its data and its model's shapes, and enter every stage without weights."""
    opened = open_all(recipe, tuple(overrides or ()))
    if is_json:
        report = {
            "recipe": opened.recipe.model_dump(mode="json"),
            "data": opened.data.report.model_dump(mode="json"),
        }
        sys.stdout.write(json.dumps(report, ensure_ascii=False, indent=2) + "\n")
        return
    console = out()
    show_data(console, opened.data.report)
    console.print(say("check.done", file=recipe, tasks=len(opened.data.tasks), stages=len(opened.stages)))
