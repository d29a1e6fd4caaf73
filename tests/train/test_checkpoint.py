"""Faults of operations while saving and afterwards: what is found later is always whole."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from weft.errors import CheckpointError, NameInvalidError
from weft.train import checkpoint

SOURCE = Path(checkpoint.__file__).parents[2]


def files(step: int):
    return {
        "model.safetensors": {"layers.0.weight": torch.full((64, 8), float(step))},
        "optimizer.safetensors": {
            "layers.0.weight/exp_avg": torch.full((64, 8), step / 2),
            "step": torch.tensor(1.5),
        },
        "progress.json": {"step": step, "examples": {"情感": step}},
    }


POINTS = [*files(0), checkpoint.MANIFEST, "rename", checkpoint.LATEST]
WRITTEN = POINTS[:4]


def save(folder, step, **options):
    return checkpoint.save(
        folder, f"step-{step:08d}", files(step), about={"digest": "abc", "step": step}, **options
    )


def test_what_goes_in_comes_out(tmp_path):
    path = save(tmp_path / "new" / "checkpoints", 2)
    assert path.name == "step-00000002"
    assert checkpoint.verify(path) is None
    assert checkpoint.newest(path.parent) == (path, [])
    assert checkpoint.about(path) == {"digest": "abc", "step": 2}
    assert checkpoint.values(path, "progress.json") == {"step": 2, "examples": {"情感": 2}}
    for name in ("model.safetensors", "optimizer.safetensors"):
        loaded, given = checkpoint.tensors(path, name), files(2)[name]
        assert loaded.keys() == given.keys()
        assert all(torch.equal(loaded[key], given[key]) for key in given)
    assert (path.parent / "LATEST").read_text() == "step-00000002\n"
    assert sorted(one.name for one in path.parent.iterdir()) == ["LATEST", "step-00000002"]


def test_files_can_be_read_by_others(tmp_path):
    path = save(tmp_path, 1)
    assert {one.name: one.stat().st_mode & 0o777 for one in path.iterdir()} == dict.fromkeys(WRITTEN, 0o644)


def test_the_manifest_lists_every_file_with_size_and_hash(tmp_path):
    path = save(tmp_path, 1)
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    assert manifest["format"] == 1
    listed = {one["name"]: (one["bytes"], one["sha256"]) for one in manifest["files"]}
    done = subprocess.run(["sha256sum", *listed], cwd=path, check=True, capture_output=True, text=True)
    assert listed == {
        name: ((path / name).stat().st_size, digest)
        for digest, name in (line.split() for line in done.stdout.splitlines())
    }


def test_views_and_what_changes_afterwards(tmp_path):
    weight = torch.arange(12.0).view(3, 4)
    path = checkpoint.save(
        tmp_path, "1", {"m.safetensors": {"turned": weight.t(), "row": weight[1]}}, about={}
    )
    weight.zero_()
    loaded = checkpoint.tensors(path, "m.safetensors")
    assert loaded["turned"].tolist() == torch.arange(12.0).view(3, 4).t().tolist()
    assert loaded["row"].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", "", "x.tmp-1"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(NameInvalidError):
        checkpoint.save(tmp_path / "c", name, files(1), about={})
    assert not (tmp_path / "c").exists()


def test_a_checkpoint_is_written_once(tmp_path):
    path = save(tmp_path, 1)
    before = (path / checkpoint.MANIFEST).read_bytes()
    with pytest.raises(CheckpointError, match="step-00000001: a checkpoint is written once"):
        save(tmp_path, 1)
    assert (path / checkpoint.MANIFEST).read_bytes() == before


def test_only_safetensors_and_json(tmp_path):
    with pytest.raises(ValueError, match=r"state\.pt: a checkpoint holds"):
        checkpoint.save(tmp_path, "1", {"state.pt": {}}, about={})
    with pytest.raises(ValueError, match="not JSON compliant"):
        checkpoint.save(tmp_path, "1", {"x.json": {"x": float("nan")}}, about={})
    assert checkpoint.newest(tmp_path) == (None, [])
    assert list(tmp_path.iterdir()) == []


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    import torch
    from weft.train import checkpoint

    def save_and_die(folder, point):
        def die(name):
            if name == point:
                os.kill(os.getpid(), signal.SIGKILL)

        files = {
            "model.safetensors": {"w": torch.full((64, 8), 6.0)},
            "optimizer.safetensors": {"w/exp_avg": torch.full((64, 8), 3.0)},
            "progress.json": {"step": 6},
        }
        checkpoint.save(folder, "step-00000006", files, about={}, on_file=die)

    for point in sys.argv[2:]:
        child = os.fork()
        if child == 0:
            save_and_die(Path(sys.argv[1]) / point, point)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    """
)


def _killed_at(folder: Path, points: list[str]) -> None:
    """Save step 6 once a point, each time in a folder and a process of its own, which dies when that is on disk."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    subprocess.run([sys.executable, "-c", KILLED, folder, *points], env=environment, check=True, timeout=120)


@pytest.mark.slow
def test_killed_after_any_file_the_newest_whole_one_is_found(tmp_path):
    for point in POINTS:
        save(tmp_path / point, 4)
    _killed_at(tmp_path, POINTS)
    for point in POINTS:
        folder = tmp_path / point
        found, rejected = checkpoint.newest(folder)
        is_whole = point in ("rename", checkpoint.LATEST)
        assert found == folder / ("step-00000006" if is_whole else "step-00000004"), point
        assert rejected == []
        assert len(checkpoint.tidy(folder)) == (0 if is_whole else 1)
        save(folder, 8)
        assert sorted(one.name for one in folder.iterdir()) == [
            "LATEST", "step-00000004", *(["step-00000006"] if is_whole else []), "step-00000008",
        ]  # fmt: skip


class _PowerCutError(BaseException):
    """Nobody catches it, as nobody catches a power cut."""


@pytest.mark.parametrize("point", POINTS)
def test_cut_off_after_any_file_the_newest_whole_one_is_found(tmp_path, point):
    save(tmp_path, 4)

    def cut(name):
        if name == point:
            raise _PowerCutError

    with pytest.raises(_PowerCutError):
        save(tmp_path, 6, on_file=cut)
    found, rejected = checkpoint.newest(tmp_path)
    assert rejected == []
    assert found is not None
    assert found.name == ("step-00000006" if point in ("rename", checkpoint.LATEST) else "step-00000004")
    assert (tmp_path / "LATEST").read_text() == f"step-0000000{6 if point == checkpoint.LATEST else 4}\n"


def truncate(path: Path):
    os.truncate(path, path.stat().st_size - 8)


def empty(path: Path):
    path.write_bytes(b"")


def flip(path: Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def remove(path: Path):
    path.unlink()


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("damage", [truncate, empty, flip, remove])
def test_damage_is_found_and_named_and_the_one_before_is_used(tmp_path, damage, name):
    good, bad = save(tmp_path, 4), save(tmp_path, 6)
    damage(bad / name)
    found, rejected = checkpoint.newest(tmp_path)
    assert found == good
    [(path, reason)] = rejected
    assert path.name == "step-00000006.corrupt"
    assert path.is_dir()
    if not (name == checkpoint.MANIFEST and damage is flip):  # then any name in it may be wrong
        assert reason.startswith(f"{name}: ")
    assert checkpoint.newest(tmp_path) == (good, [])
    assert save(tmp_path, 6).name == "step-00000006"


def test_every_single_flipped_bit_of_a_manifest_is_harmless(tmp_path):
    """A flipped bit in ``about`` changes no content; anywhere else it is an error, never a wrong load."""
    path = checkpoint.save(tmp_path, "1", {"a.json": {"x": 1}}, about={})
    whole = (path / checkpoint.MANIFEST).read_bytes()
    survived = 0
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= 0x01
        (path / checkpoint.MANIFEST).write_bytes(data)
        survived += checkpoint.verify(path) is None
    spaces = sum(chr(byte).isspace() for byte in whole) + len('"about"')
    assert survived <= spaces


def test_all_bad_lists_every_reason_and_finds_none(tmp_path):
    for step in (2, 4, 6):
        empty(save(tmp_path, step) / "model.safetensors")
    found, rejected = checkpoint.newest(tmp_path)
    assert found is None
    assert [path.name for path, _ in rejected] == [f"step-0000000{step}.corrupt" for step in (6, 4, 2)]
    assert {reason for _, reason in rejected} == {"model.safetensors: must have 2136 bytes, but has 0"}


def test_a_planted_partial_folder_is_ignored_and_reported(tmp_path):
    good = save(tmp_path, 4)
    (tmp_path / "step-999").mkdir()
    (tmp_path / "step-999" / "config.json").write_text("{}")
    found, rejected = checkpoint.newest(tmp_path)
    assert found == good
    assert [(path.name, reason) for path, reason in rejected] == [
        ("step-999.corrupt", "MANIFEST.json: missing, the checkpoint was never finished")
    ]
    (tmp_path / "step-999").mkdir()
    assert [path.name for path, _ in checkpoint.newest(tmp_path)[1]] == ["step-999.corrupt-2"]


def test_the_number_orders_and_not_the_clock_nor_latest(tmp_path):
    for name in ("9", "10", "2"):
        path = checkpoint.save(tmp_path, name, files(1), about={})
        os.utime(path, (1e9 - int(name), 1e9 - int(name)))
    (tmp_path / "LATEST").write_text("2\n")
    assert checkpoint.newest(tmp_path)[0] == tmp_path / "10"
    (tmp_path / "LATEST").unlink()
    assert checkpoint.newest(tmp_path)[0] == tmp_path / "10"
    assert checkpoint.newest(tmp_path / "nowhere") == (None, [])


def test_another_format_or_a_name_that_leads_elsewhere_is_rejected(tmp_path):
    path = save(tmp_path, 1)
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    (path / checkpoint.MANIFEST).write_text(json.dumps({**manifest, "format": 2}))
    assert checkpoint.verify(path) == "MANIFEST.json: cannot be read (format 2, this version of Weft reads 1)"
    manifest["files"][0]["name"] = "../../model.safetensors"
    (path / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    reason = checkpoint.verify(path)
    assert reason is not None
    assert "leads elsewhere" in reason


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_rotation_keeps_the_newest_and_the_pinned(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step)
    done = checkpoint.rotate(tmp_path, keep=2, pinned={"step-00000002"})
    assert names(tmp_path) == ["step-00000002", "step-00000005", "step-00000006"]
    assert [path.name for path in done.removed] == [f"step-0000000{step}" for step in (1, 3, 4)]
    assert done.failed == []
    assert checkpoint.rotate(tmp_path, keep=2, pinned={"step-00000002"}).removed == []
    with pytest.raises(ValueError, match="keep: must be at least 1"):
        checkpoint.rotate(tmp_path, keep=0)


def test_rotation_waits_until_the_newest_verifies(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    flip(tmp_path / "step-00000003" / "optimizer.safetensors")
    assert checkpoint.rotate(tmp_path, keep=1).removed == ()
    assert len(names(tmp_path)) == 3
    assert checkpoint.rotate(tmp_path / "nowhere", keep=1).removed == ()


def test_a_broken_one_does_not_count_as_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    truncate(tmp_path / "step-00000003" / "model.safetensors")
    checkpoint.rotate(tmp_path, keep=2)
    assert names(tmp_path) == ["step-00000002", "step-00000003", "step-00000004"]


def test_a_removal_that_dies_half_way_leaves_no_checkpoint_but_a_leftover(tmp_path, monkeypatch):
    save(tmp_path, 1)
    save(tmp_path, 2)

    def refuse(path, *args, **options):
        assert not (path / checkpoint.MANIFEST).exists()
        raise OSError("device busy")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    done = checkpoint.rotate(tmp_path, keep=1)
    monkeypatch.undo()
    assert [(path.name, reason) for path, reason in done.failed] == [("step-00000001", "device busy")]
    assert checkpoint.newest(tmp_path)[0] == tmp_path / "step-00000002"
    assert [path.name[:17] for path in checkpoint.tidy(tmp_path)] == ["step-00000001.tmp"]
    assert names(tmp_path) == ["step-00000002"]


def test_tidy_removes_leftovers_and_nothing_else(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-00000002.tmp-77-abcd").mkdir()
    (tmp_path / "step-00000002.tmp-77-abcd" / "model.safetensors").write_bytes(b"x")
    (tmp_path / "LATEST.tmp-77").write_text("step-00000001\n")
    (tmp_path / "step-00000003.corrupt").mkdir()
    assert [path.name for path in checkpoint.tidy(tmp_path)] == ["LATEST.tmp-77", "step-00000002.tmp-77-abcd"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "LATEST",
        "step-00000001",
        "step-00000003.corrupt",
    ]
    assert checkpoint.tidy(tmp_path / "nowhere") == []


@pytest.fixture
def small_disk():
    """Return a function that limits files to so many bytes; as a full disk, a write then fails half way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda num_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [100, 2000, 2140])
def test_a_full_disk_leaves_the_earlier_one_and_says_what_is_needed(tmp_path, small_disk, limit):
    good = save(tmp_path, 4)
    small_disk(limit)
    with pytest.raises(
        CheckpointError, match=r"a checkpoint needs 4100 bytes, but could not be written with \d+ byt"
    ):
        save(tmp_path, 6)
    small_disk(resource.RLIM_INFINITY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "step-00000004"]
    assert checkpoint.newest(tmp_path) == (good, [])
    assert checkpoint.verify(save(tmp_path, 6)) is None


def test_preflight_names_path_free_and_needed(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(CheckpointError, match=rf"{tmp_path}: checkpoints need \d+ bytes, but \d+ are free"):
        checkpoint.preflight(tmp_path, 2 * free)
    checkpoint.preflight(tmp_path / "a" / "b", 1000)
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_preflight_refuses_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="file: checkpoints need a folder that can be written"):
        checkpoint.preflight(tmp_path / "file", 10)


def test_save_looks_for_room_before_it_writes(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(CheckpointError, match=r"need \d+ bytes, but 1048576 are free"):
        save(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []
