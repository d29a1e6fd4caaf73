"""Consoles and progress bars: colour and motion on a terminal, plain lines or nothing elsewhere."""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

_BAR_WIDTH = 16


def out() -> Console:
    """Return the console of results (stdout). Lines are never broken, so that other programs can read them."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=_width(sys.stdout))


def err() -> Console:
    """Return the console of messages and progress (stderr)."""
    return Console(
        stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True, width=_width(sys.stderr)
    )


def bars(console: Console) -> Progress:
    """Return progress bars with count, rate and time left on ``console``; they show nothing where it is no terminal."""
    return Progress(
        TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=_BAR_WIDTH),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        console=console,
        expand=True,  # the description gives way where the terminal is narrow, the numbers stay whole
        disable=not console.is_terminal,
        transient=True,
    )


def _width(stream: TextIO) -> int | None:
    """Return the width of tables: the terminal's, or enough for a table where there is none."""
    return None if stream.isatty() else 160


class _RateColumn(ProgressColumn):
    """Steps in one second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.3g}/s")
