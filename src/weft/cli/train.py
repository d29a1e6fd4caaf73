"""``weft train``: a recipe from its first stage to its bundle and report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from weft.build.catalogue import open_recipe
from weft.cli.console import out
from weft.cli.follow import follow, show_end
from weft.cli.messages import say
from weft.run.folder import RunFolder
from weft.run.session import train


def run(
    recipe: Annotated[Path, typer.Argument(help=say("arg.recipe"))],
    overrides: Annotated[list[str] | None, typer.Argument(help=say("arg.overrides"))] = None,
    folder: Annotated[Path | None, typer.Option("--run", help=say("train.run"))] = None,
    is_overwrite: Annotated[bool, typer.Option("--overwrite", help=say("train.overwrite"))] = False,
    is_json: Annotated[bool, typer.Option("--json", help=say("env.json"))] = False,
) -> None:
    """Train; progress goes to stderr, the final scores to stdout."""
    home = RunFolder(folder or Path("runs") / recipe.stem)
    values = open_recipe(recipe, tuple(overrides or ()))
    events = train(values, home, root=recipe.resolve().parent, overwrite=is_overwrite)
    finished = follow(events, is_quiet=is_json)
    if is_json:
        sys.stdout.write(finished.report.model_dump_json(indent=2) + "\n")
    else:
        show_end(finished, out())
