"""Who may write into a run folder, and what of it is a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.errors import RecipeError, RunBusyError
from weft.run import folder as module
from weft.run.folder import RunFolder


def test_lock_names_its_holder_and_is_free_again(tmp_path: Path):
    folder = RunFolder(tmp_path / "a" / "run")
    with folder.locked():
        text = (folder.path / "lock").read_text()
        with pytest.raises(RunBusyError, match=text), folder.locked():
            pytest.fail("two writers")
        assert (folder.path / "lock").read_text() == text
    with folder.locked():
        pass


def test_clearing_takes_the_origin_first_and_only_what_is_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = RunFolder(tmp_path)
    removed: list[str] = []
    real = module.remove
    monkeypatch.setattr(module, "remove", lambda path: (removed.append(path.name), real(path)))
    (tmp_path / "stages" / "x").mkdir(parents=True)
    for name in ("origin.json", "report.json", "notes.txt", "lock"):
        (tmp_path / name).write_text("x")
    folder.clear()
    assert removed[0] == "origin.json"
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "lock"}


def test_folder_without_anything_of_a_runs_name_is_free(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder(tmp_path).check_free()
    RunFolder(tmp_path / "missing").check_free()


@pytest.mark.parametrize("name", ["recipe.yaml", "bundle", "stages", "report.md"])
def test_folder_with_other_peoples_files_is_not(tmp_path: Path, name: str):
    (tmp_path / name).mkdir()
    with pytest.raises(RecipeError, match=f"here {name} would be replaced"):
        RunFolder(tmp_path).check_free()
    (tmp_path / "lock").write_text("")  # a run has been here
    RunFolder(tmp_path).check_free()


def test_paths_are_those_of_the_design():
    folder = RunFolder(Path("runs/x"))
    assert folder.final("a") == Path("runs/x/stages/a/final")
    assert folder.checkpoints("a") == Path("runs/x/stages/a/checkpoints")
    assert folder.predictions("test", "t") == Path("runs/x/predictions/test/t.jsonl")
    assert (
        folder.recipe.name,
        folder.plan.name,
        folder.log.name,
        folder.report.name,
        folder.bundle.name,
    ) == (*("recipe.yaml", "plan.json", "log.jsonl", "report.json", "bundle"),)
    assert folder.finished() is None
