"""Waiting for the disk: for a file and for the names in a folder, and no handle stays open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from weft.core.disk import sync


def num_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_files_and_folders_are_waited_for_and_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    file.write_text("x")
    waited: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda handle: waited.append(Path(f"/proc/self/fd/{handle}").readlink()))
    before = num_open()
    sync(file)
    sync(tmp_path)
    assert waited == [file, tmp_path]
    assert num_open() == before


def test_what_the_disk_refuses_is_raised_and_the_handle_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    before = num_open()
    with pytest.raises(OSError, match="No space left"):
        sync(tmp_path)
    assert num_open() == before
