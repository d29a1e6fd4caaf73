"""The command line: one command a file, imported when it is called. Only this room prints, and only it exits."""

from __future__ import annotations

from weft.cli.app import main

__all__ = ["main"]
