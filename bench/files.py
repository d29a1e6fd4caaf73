"""The prepared files of a job: made once for a number of rows, in a process of their own, and kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.race import ROOT, ContestantError, environment

_OF_SENTENCES = frozenset({"full", "lora", "top2", "head", "candidates", "heads"})


def prepared(job: str, rows: int, *, data: Path, work: Path, threads: int) -> Path:
    """Return the folder with the files of ``job``.

    Raises:
        ContestantError: they cannot be made.
    """
    kind = "sentences" if job in _OF_SENTENCES else job
    home = work.resolve() / f"{kind}-{rows}"
    if not (home / "about.json").is_file():
        words = [sys.executable, "-m", "bench.prepare", kind, str(data.resolve()), str(home), str(rows)]
        surroundings = environment(threads, home)
        done = subprocess.run(words, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ContestantError(done.stderr[-1500:])
    return home
