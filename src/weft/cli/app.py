"""``weft``: the table of commands, and what becomes of an error.

A command's module is imported when the command is called, so that ``weft --help`` needs no torch.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from weft import __version__
from weft.cli.messages import say
from weft.cli.startup import starting
from weft.errors import RecipeError, WeftError

COMMANDS = {
    "init": "weft.cli.init",
    "check": "weft.cli.check",
    "plan": "weft.cli.plan",
    "train": "weft.cli.train",
    "resume": "weft.cli.resume",
    "eval": "weft.cli.eval",
    "predict": "weft.cli.predict",
    "chat": "weft.cli.chat",
    "compare": "weft.cli.compare",
    "export": "weft.cli.export",
    "methods": "weft.cli.methods",
    "schema": "weft.cli.schema",
    "env": "weft.cli.env",
}
"""Module by command, in the order of the work. Each has a function ``run`` whose parameters are the options."""

EXIT_BUG = 70  # EX_SOFTWARE
EXIT_IO = 74  # EX_IOERR
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells say it


class LazyGroup(TyperGroup):
    """Holds a line of help for each command, and imports only the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Return the command that ``args`` call, imported."""
        if args and args[0] in COMMANDS:
            return args[0], load(args[0]), args[1:]
        return super().resolve_command(ctx, args)


def load(name: str) -> Any:
    """Return the command ``name`` of the table as typer makes it of its module's ``run``."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, help=say(f"command.{name}"))(import_module(COMMANDS[name]).run)
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; a ``WeftError`` becomes its message, not a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    is_debug = "--debug" in given or os.environ.get("WEFT_DEBUG", "0") not in ("", "0")
    try:
        with starting():
            _group()([argument for argument in given if argument != "--debug"], prog_name="weft")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001  # the last place where an error can be said well
        if is_debug:
            traceback.print_exc()
        return _report(error)
    return 0


def _group() -> Any:
    """Return the group of all commands."""
    app = typer.Typer(cls=LazyGroup, add_completion=False, rich_markup_mode=None, no_args_is_help=True)
    app.callback(help=say("app.help"), epilog=say("app.epilog"))(_options)
    group = typer.main.get_command(app)
    assert isinstance(group, LazyGroup)
    for name in COMMANDS:
        group.add_command(TyperCommand(name, help=say(f"command.{name}")))
    return group


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        sys.stdout.write(f"weft {__version__}\n")
        raise typer.Exit


def _options(
    is_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help=say("app.version")),
    ] = False,
    is_debug: Annotated[bool, typer.Option("--debug", help=say("app.debug"))] = False,
) -> None:
    """Take the options that stand before a command; ``main`` and ``_show_version`` have acted on them already."""


def _report(error: Exception) -> int:
    """Say ``error`` on stderr and return the exit code that stands for it."""
    if isinstance(error, RecipeError) and len(error.problems) > 1:
        lines, code = (*error.problems, say("error.problems", count=len(error.problems))), error.exit_code
    elif isinstance(error, WeftError):
        lines, code = (str(error),), error.exit_code
    elif isinstance(error, OSError):
        lines, code = (str(error),), EXIT_IO
    else:
        lines, code = (f"{type(error).__name__}: {error}", say("error.bug_hint")), EXIT_BUG
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    return code
