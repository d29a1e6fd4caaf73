"""What every page of the benchmark is asked on its command line."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from tempfile import gettempdir

from bench.race import ROOT


def parser(module: str, about: str | None) -> argparse.ArgumentParser:
    """Return a parser that asks where data is, where to work, and with how many threads.

    Args:
        module: that is run.
        about: its docstring.
    """
    asked = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    data, work = ROOT.parent / "shared" / "data", Path(gettempdir()) / "weft-bench"
    asked.add_argument("--data", type=Path, default=data, help="folder that holds sst2/train.jsonl, ...")
    asked.add_argument("--work", type=Path, default=work, help="for prepared files, which are kept")
    asked.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return asked


def ask_rounds(asked: argparse.ArgumentParser, rounds: int) -> None:
    """Ask how often every contestant runs, ``rounds`` times if nobody says, and how long to wait for quiet."""
    asked.add_argument("--rounds", type=int, default=rounds)
    asked.add_argument("--patience", type=float, default=60.0, help="seconds to wait for a quiet machine")
