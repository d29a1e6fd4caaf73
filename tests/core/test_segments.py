"""One file of states: what is checked when, who may remove what, and what its bytes are."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from weft.core.segments import (
    BLOCK_BYTES,
    MAGIC,
    PART,
    WHOLE,
    Draft,
    Form,
    Segment,
    alone,
    make_room,
    open_segment,
    remove_unused,
    tidy,
)

FORM = Form(256, torch.float32)  # 1024 tokens a block
KEYS = [bytes([number]) * 16 for number in range(6)]


def published(folder: Path, states_TD: Tensor, lengths: list[int]) -> Path:
    draft = Draft(folder, FORM)
    draft.grow(states_TD.nbytes + 4096)
    assert draft.append(KEYS[: len(lengths)], states_TD, lengths) == 0
    return draft.publish()


def mapped(path: Path) -> Segment:
    segment = open_segment(path, FORM)
    assert segment is not None
    return segment


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_the_file_begins_with_the_rows_as_they_are(tmp_path: Path) -> None:
    states = torch.randn(5, 256)
    path = published(tmp_path, states, [2, 3])
    assert path.suffix == WHOLE
    content = path.read_bytes()
    assert content[: states.nbytes] == states.numpy().tobytes()
    assert KEYS[0] + KEYS[1] + bytes([2, 0, 0, 0, 3, 0, 0, 0]) in content
    assert content[-32:-24] == MAGIC
    segment = mapped(path)
    assert torch.equal(segment.states_TD, states)
    assert segment.keys == KEYS[0] + KEYS[1]
    assert segment.lengths_R.tolist() == [2, 3]


def test_only_blocks_that_are_asked_for_are_read(tmp_path: Path) -> None:
    path = published(tmp_path, torch.randn(3500, 256), [700] * 5)  # four blocks, the last one short
    with path.open("r+b") as file:
        file.seek(3 * BLOCK_BYTES + 5)
        was = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([was[0] ^ 4]))
    segment = mapped(path)
    assert segment.verified.tolist() == [False] * 4
    assert segment.holds(ints(), ints())
    assert segment.verified.tolist() == [False] * 4
    assert segment.holds(ints(0), ints(700))
    assert segment.verified.tolist() == [True, False, False, False]
    assert segment.holds(ints(0, 1400), ints(700, 700))  # the second reaches into block 2
    assert segment.verified.tolist() == [True, True, True, False]
    assert segment.holds(ints(2048), ints(1024))  # ends where block 3 begins
    assert not segment.holds(ints(2800), ints(700))
    assert segment.verified.tolist() == [True, True, True, False]


def test_a_draft_that_grows_keeps_what_was_mapped_before(tmp_path: Path) -> None:
    draft = Draft(tmp_path, FORM)
    first, second = torch.randn(3, 256), torch.randn(4, 256)
    draft.grow(first.nbytes)
    assert draft.append(KEYS[:1], first, [3]) == 0
    before = draft.states_TD
    draft.grow(100_000)
    assert draft.append(KEYS[1:2], second, [4]) == 3
    assert torch.equal(before[:3], first)
    assert torch.equal(draft.states_TD[:7], torch.cat([first, second]))
    assert draft.path.stat().st_size == draft.capacity_bytes == 100_000
    draft.discard()
    assert torch.equal(draft.states_TD[:7], torch.cat([first, second]))
    assert list(tmp_path.iterdir()) == []


def test_who_uses_a_file_keeps_it(tmp_path: Path) -> None:
    path = published(tmp_path, torch.zeros(1, 256), [1])
    segment = mapped(path)
    assert not remove_unused(path)
    del segment
    assert remove_unused(path)
    assert not path.exists()
    assert remove_unused(path)  # gone already


def test_a_file_under_removal_is_not_opened(tmp_path: Path) -> None:
    path = published(tmp_path, torch.zeros(1, 256), [1])
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert open_segment(path, FORM) is None
    assert open_segment(path, FORM) is not None
    assert open_segment(tmp_path / "none.states", FORM) is None


def test_room_is_made_oldest_first_and_no_more_than_needed(tmp_path: Path) -> None:
    sizes = [1000, 2000, 3000, 4000]
    for age, size in enumerate(sizes):
        folder = tmp_path / f"store{age}"
        folder.mkdir()
        path = folder / f"x{PART if age == 1 else WHOLE}"
        path.write_bytes(b"x" * size)
        os.utime(path, (100 + age, 100 + age))
    (tmp_path / "store3" / "other.txt").write_bytes(b"x" * 9999)

    def left() -> list[int]:
        return [age for age in range(4) if (tmp_path / f"store{age}").exists()]

    assert make_room(tmp_path, wanted_bytes=500, limit_bytes=10_500) == 500
    assert left() == [0, 1, 2, 3]
    assert make_room(tmp_path, wanted_bytes=501, limit_bytes=10_500) == 1500
    assert left() == [1, 2, 3]
    with (tmp_path / "store2" / f"x{WHOLE}").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert make_room(tmp_path, wanted_bytes=10_000, limit_bytes=8000) == 5000
        assert [path.name for path in sorted(tmp_path.glob("*/*"))] == [f"x{WHOLE}", "other.txt"]
        assert make_room(tmp_path, wanted_bytes=1, limit_bytes=2000) == -1000


def test_leftovers_go_unless_their_writer_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"left{PART}").touch()
    draft = Draft(tmp_path, FORM)
    tidy(tmp_path)
    assert list(tmp_path.iterdir()) == [draft.path]
    draft.discard()

    def unsupported(*_: object) -> None:
        raise OSError("Operation not supported")

    left = tmp_path / f"left{PART}"
    left.touch()
    monkeypatch.setattr(fcntl, "flock", unsupported)
    tidy(tmp_path)  # nobody can tell: it stays
    assert left.exists()
    with pytest.raises(OSError, match="not supported"), alone(tmp_path):
        pass


def test_one_at_a_time(tmp_path: Path) -> None:
    with (
        alone(tmp_path / "root"),
        (tmp_path / "root" / "lock").open() as file,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / "root" / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
