"""Writing so that a reader, and a process that is killed, see the old or the new, never a part."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from weft.core.disk import sync
from weft.errors import CheckpointError

_ASIDE = ".tmp-"


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Say what could not be written: a full disk or a forbidden folder is one clear error.

    Raises:
        CheckpointError: the system refused.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path}: a run must be able to write here, but {error.strerror or error}. Free space or give permission, "
            f"then resume; what was saved before is whole."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Replace the file ``path`` by ``text``."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield a path to write to; the file there replaces ``path`` when all went well, and goes otherwise."""
    aside = _aside(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            sync(aside)
            aside.replace(path)
            sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def publish(home: Path) -> Generator[Path]:
    """Yield a folder to fill; it becomes ``home``, whole, when all went well, and goes otherwise."""
    aside = _aside(home)
    with writing(home):
        aside.mkdir(parents=True)
        try:
            yield aside
            for path in (*aside.rglob("*"), aside):
                sync(path)
            aside.rename(home)
            sync(home.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Remove what killed processes left aside in ``folder``; only for the one who holds the run's lock."""
    for left in folder.glob(f".*{_ASIDE}*"):
        remove(left)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{_ASIDE}{os.getpid()}")
