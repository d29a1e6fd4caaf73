"""``log.jsonl``: what happened, line by line, in every process that worked on the run.

The log is only ever added to. A process that takes a run up writes a ``resumed`` line, and an ``entered`` line with the
step it goes on from; steps after that step which stand above it are told again. Reports are made from checkpoints,
which know each step once.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.report.records import Record
from weft.run.files import writing

_TAIL_BYTES = 1 << 20


class Log:
    """A log to add to, and the run's clock: seconds that all its processes worked, as far as lines were written.

    Args:
        path: of the log; a last line that a killed process did not finish is cut off.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            self._before = _repair(path)
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Return the run's clock."""
        return self._before + time.perf_counter() - self._start

    def append(self, event: str, content: Record | Mapping[str, Any]) -> None:
        """Add one line: the event's name, the clock, and ``content``."""
        line = {"event": event, "clock": round(self.seconds(), 3), **_plain(content)}
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def plain(record: Record) -> dict[str, Any]:
    """Return ``record`` as JSON values; numbers that are not finite become strings, which ``Record`` reads back."""
    return json.loads(record.model_dump_json())


def _plain(content: Record | Mapping[str, Any]) -> Mapping[str, Any]:
    return plain(content) if isinstance(content, Record) else content


def _repair(path: Path) -> float:
    """Cut an unfinished last line off; return the clock of the last line that is left, 0 without one."""
    if not path.is_file():
        return 0.0
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - _TAIL_BYTES)
        file.seek(start)
        tail = file.read()
        whole = tail[: tail.rfind(b"\n") + 1]
        file.truncate(start + len(whole))
    lines = whole.splitlines()
    return float(json.loads(lines[-1])["clock"]) if lines else 0.0
