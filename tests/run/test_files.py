"""A reader sees the old or the new."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from weft.errors import CheckpointError
from weft.run.files import publish, remove, replacing, tidy, write_text, writing


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_text_is_replaced_and_folders_are_made(tmp_path: Path):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "one")
    write_text(path, "zwei: größer")
    assert path.read_text("utf-8") == "zwei: größer"
    assert names(path.parent) == {"b.txt"}


def test_old_file_stays_when_writing_fails(tmp_path: Path):
    path = tmp_path / "b.txt"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as aside:
            aside.write_text("half")
            assert path.read_text() == "old"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == {"b.txt"}


def test_folder_appears_whole(tmp_path: Path):
    home = tmp_path / "stages" / "one" / "final"
    with publish(home) as aside:
        (aside / "heads").mkdir()
        (aside / "heads" / "x.json").write_text("{}")
        assert not home.exists()
    assert (home / "heads" / "x.json").read_text() == "{}"
    assert names(home.parent) == {"final"}


def test_folder_does_not_appear_when_filling_fails(tmp_path: Path):
    def fail() -> None:
        with publish(tmp_path / "final") as aside:
            (aside / "x").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == set()


def test_what_the_system_refuses_is_one_error_that_says_what_to_do(tmp_path: Path):
    with pytest.raises(CheckpointError) as caught, writing(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == (
        f"{tmp_path / 'x'}: a run must be able to write here, but No space left on device. Free space or give "
        "permission, then resume; what was saved before is whole."
    )


def test_tidy_removes_only_what_was_left_aside(tmp_path: Path):
    (tmp_path / ".bundle.tmp-12").mkdir()
    (tmp_path / ".report.json.tmp-12").write_text("half")
    (tmp_path / "bundle").mkdir()
    (tmp_path / ".hidden").write_text("mine")
    tidy(tmp_path)
    assert names(tmp_path) == {"bundle", ".hidden"}


def test_removing_a_link_leaves_what_it_points_at(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for name in ("link", "missing"):
        remove(tmp_path / name)
    assert names(tmp_path) == {"data"}
    assert (tmp_path / "data" / "x").read_text() == "mine"
