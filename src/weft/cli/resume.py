"""``weft resume``: go on where a run stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from weft.cli.console import out
from weft.cli.follow import follow, show_end
from weft.cli.messages import say
from weft.run.folder import RunFolder
from weft.run.session import resume


def run(
    folder: Annotated[Path, typer.Argument(help=say("arg.run"))],
    is_json: Annotated[bool, typer.Option("--json", help=say("env.json"))] = False,
) -> None:
    """Take up the run at its newest checkpoint that verifies."""
    finished = follow(resume(RunFolder(folder)), is_quiet=is_json)
    if is_json:
        sys.stdout.write(finished.report.model_dump_json(indent=2) + "\n")
    else:
        show_end(finished, out())
