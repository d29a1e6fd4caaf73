"""``weft plan``: what each stage trains, and what it will cost, before weights are loaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from weft.build.estimate import measure
from weft.build.opened import open_all
from weft.cli.console import out
from weft.cli.messages import say
from weft.cli.show import show_data, show_plan
from weft.model.device import pick_device, pick_precision


def run(
    recipe: Annotated[Path, typer.Argument(help=say("arg.recipe"))],
    overrides: Annotated[list[str] | None, typer.Argument(help=say("arg.overrides"))] = None,
    is_json: Annotated[bool, typer.Option("--json", help=say("env.json"))] = False,
) -> None:
    """Print data, parameter table, steps, memory and time of every stage."""
    opened = open_all(recipe, tuple(overrides or ()))
    device = pick_device()
    plans = opened.plans(measure(device, pick_precision(opened.recipe.precision, device)))
    if is_json:
        values = {"stages": [plan.model_dump(mode="json") for plan in plans]}
        sys.stdout.write(json.dumps(values, ensure_ascii=False, indent=2) + "\n")
        return
    console = out()
    show_data(console, opened.data.report)
    for plan in plans:
        console.print("")
        show_plan(console, plan)
