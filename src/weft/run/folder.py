"""The run folder (DESIGN section 7) and its lock: one writer a run."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.errors import RunBusyError
from weft.report.records import Record


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths within ``runs/<name>``."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def origin(self) -> Path:
        """JSON: where the recipe came from and which data, model and Weft the run belongs to."""
        return self.path / "origin.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    def stage(self, name: str) -> Path:
        return self.path / "stages" / name

    def checkpoints(self, stage: str) -> Path:
        return self.stage(stage) / "checkpoints"

    def final(self, stage: str) -> Path:
        """What the stage hands on; exists only when the stage is finished."""
        return self.stage(stage) / "final"

    def predictions(self, split: str, task: str) -> Path:
        return self.path / "predictions" / split / f"{task}.jsonl"

    def append(self, kind: str, record: Record | dict[str, Any]) -> None:
        """Add one line to ``log.jsonl``."""
        values = record.model_dump(mode="json") if isinstance(record, Record) else record
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": kind, **values}, ensure_ascii=False) + "\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock while inside.

        Raises:
            RunBusyError: another process holds it; its process id and host are named.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise RunBusyError(
                    f"{self.path}: one process works in a run folder, but {file.read().strip() or 'another'} already "
                    f"does. Wait for it or stop it."
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield


def write_atomic(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old file or the new one, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def publish(home: Path, fill: Callable[[Path], None]) -> None:
    """Make folder ``home`` by ``fill`` so that it appears whole or not at all.

    What an interrupted try left beside it is removed first.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    for left in home.parent.glob(f".{home.name}.aside-*"):
        shutil.rmtree(left)
    aside = home.with_name(f".{home.name}.aside-{os.getpid()}")
    aside.mkdir()
    fill(aside)
    for path in (*aside.rglob("*"), aside):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    aside.rename(home)
