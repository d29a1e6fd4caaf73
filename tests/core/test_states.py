"""The store of states: bit for bit what was added, or missing, whatever happens to processes, files and disks."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor

from weft.core import states
from weft.core.segments import PART, WHOLE
from weft.core.states import Slots, StateStore, state_key

KEY = "0f" * 16
WIDTH = 6
ROOMY = 1 << 30
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def key(number: int) -> bytes:
    return state_key([number, number + 1])


def state(number: int, *, dtype: torch.dtype = torch.float32, width: int = WIDTH) -> Tensor:
    """Any bits at all (NaN, infinities, minus zero), the same for the same number; 1 to 9 tokens."""
    generator = torch.Generator().manual_seed(number)
    shape = (1 + number % 9, width * dtype.itemsize)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).view(dtype)


def bits(value: Tensor) -> Tensor:
    return value.contiguous().view(torch.uint8)


def opened(
    root: Path, *, limit_bytes: int = ROOMY, dtype: torch.dtype = torch.float32, key: str = KEY
) -> StateStore:
    return StateStore.open(root, key, width=WIDTH, dtype=dtype, limit_bytes=limit_bytes)


def fill(store: StateStore, numbers: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Slots:
    rows = [state(number, dtype=dtype) for number in numbers]
    return store.add([key(number) for number in numbers], torch.cat(rows), [len(row) for row in rows])


def found(store: StateStore, numbers: Sequence[int], *, dtype: torch.dtype = torch.float32) -> set[int]:
    """Return which of ``numbers`` the store has, having compared every one of them with the original."""
    slots = store.resolve([key(number) for number in numbers])
    have = np.flatnonzero(slots.is_found_R)
    expected = [state(numbers[row], dtype=dtype) for row in have]
    if expected:
        assert torch.equal(bits(store.gather(slots.take(have))), bits(torch.cat(expected)))
    return {numbers[row] for row in have}


def files(root: Path, suffix: str = WHOLE) -> list[Path]:
    return sorted(root.glob(f"*/*{suffix}"))


def total_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.glob("*/*"))


def forked(work: Callable[[], object], *, kill_after_s: float | None = None) -> int:
    """Run ``work`` in a child and return its wait status; the child never runs anything of pytest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on fork beside idle threads
        child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            work()
        except BaseException:  # noqa: BLE001 (a child has nobody to raise to)
            os._exit(1)
        os._exit(0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


# ---------------------------------------------------------------------------------------- what is read back


@pytest.mark.parametrize("dtype", DTYPES)
def test_bit_for_bit_at_once_after_publishing_and_elsewhere(tmp_path: Path, dtype: torch.dtype) -> None:
    numbers = list(range(50))
    with opened(tmp_path, dtype=dtype) as store:
        assert found(store, numbers, dtype=dtype) == set()
        assert fill(store, numbers[:20], dtype=dtype).is_found_R.all()
        assert fill(store, numbers[20:], dtype=dtype).is_found_R.all()
        assert found(store, numbers, dtype=dtype) == set(numbers)
        with opened(tmp_path, dtype=dtype) as other:
            assert len(other) == 0
        assert store.publish()
        assert found(store, numbers, dtype=dtype) == set(numbers)
        with opened(tmp_path, dtype=dtype) as other:
            assert found(other, numbers, dtype=dtype) == set(numbers)
            assert len(other) == 50
    with opened(tmp_path, dtype=dtype) as store:
        assert found(store, numbers, dtype=dtype) == set(numbers)
    assert len(files(tmp_path)) == 1
    assert not files(tmp_path, PART)


def test_order_repeats_ends_and_extra_tokens(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for part in (range(5), range(5, 9), range(9, 20)):  # three files
            fill(store, part)
            store.publish()
        table = store.resolve([key(number) for number in range(20)])
        for rows in ([3], [4, 3, 2], [19, 0, 7, 7, 12, 0], list(range(20))):
            slots, expected = table.take(rows), [state(row) for row in rows]
            assert slots.length_R.tolist() == [len(row) for row in expected]
            assert torch.equal(bits(store.gather(slots)), bits(torch.cat(expected)))
            longer = store.gather(slots, extra_tokens=3)
            assert torch.equal(bits(longer[:-3]), bits(torch.cat(expected)))
            assert not longer[-3:].any()
        assert store.gather(table.take([])).shape == (0, WIDTH)


def test_what_is_gathered_is_a_copy(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        slots = fill(store, [1, 2])
        store.gather(slots).zero_()
        assert found(store, [1, 2]) == {1, 2}


def test_missing_rows(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        fill(store, [1, 2])
        slots = store.resolve([key(1), key(5), key(2)])
        assert slots.is_found_R.tolist() == [True, False, True]
        with pytest.raises(KeyError, match=r"rows \[1\] are not"):
            store.gather(slots)
        slots.put([1], fill(store, [5]))
        assert torch.equal(bits(store.gather(slots)), bits(torch.cat([state(1), state(5), state(2)])))
        assert len(Slots.missing(4)) == 4
        assert not Slots.missing(4).is_found_R.any()


def test_a_text_is_written_once_and_the_first_wins(tmp_path: Path) -> None:
    with opened(tmp_path) as store, opened(tmp_path) as other:
        twice = torch.cat([state(1), state(2), state(1)])
        slots = store.add([key(1), key(2), key(1)], twice, [2, 3, 2])
        assert slots.offset_R.tolist() == [0, 2, 0]
        fill(store, [2, 3])
        again = store.add([key(1)], torch.zeros(2, WIDTH), [2])
        assert torch.equal(bits(store.gather(again)), bits(state(1)))
        fill(other, [1, 2, 3, 4])
        store.publish()
        other.publish()
        assert store.refresh() == 1
        assert found(store, [1, 2, 3, 4]) == {1, 2, 3, 4}
        assert store.resolve([key(1)]).segment_R.tolist() == slots.segment_R[:1].tolist()
    with opened(tmp_path) as store:
        assert len(store) == 4
        assert found(store, [1, 2, 3, 4]) == {1, 2, 3, 4}


def test_texts_of_others_appear_at_refresh_and_slots_stay(tmp_path: Path) -> None:
    with opened(tmp_path) as store, opened(tmp_path) as other:
        mine = fill(store, [1, 2])
        fill(other, [3])
        assert store.refresh() == 0
        other.publish()
        assert store.refresh() == 1
        assert store.refresh() == 0
        fill(store, [4])  # goes on in the file begun before the refresh
        assert found(store, [1, 2, 3, 4]) == {1, 2, 3, 4}
        assert torch.equal(bits(store.gather(mine)), bits(torch.cat([state(1), state(2)])))


Step = tuple[str, list[int]]


@settings(max_examples=40, deadline=None)
@given(
    some.lists(
        some.tuples(
            some.sampled_from(["add", "publish", "open", "ask"]), some.lists(some.integers(0, 30), max_size=8)
        ),
        max_size=12,
    ),
    some.sampled_from(DTYPES),
)
def test_like_a_dict(tmp_path_factory: pytest.TempPathFactory, steps: list[Step], dtype: torch.dtype) -> None:
    root = tmp_path_factory.mktemp("store")
    store, plain = opened(root, dtype=dtype), dict[int, Tensor]()
    for what, numbers in steps:
        if what == "add" and numbers:
            fill(store, numbers, dtype=dtype)
            plain |= {number: state(number, dtype=dtype) for number in numbers}
        elif what == "publish":
            store.publish()
        elif what == "open":
            store.close()
            store = opened(root, dtype=dtype)
        slots = store.resolve([key(number) for number in numbers])
        assert slots.is_found_R.tolist() == [number in plain for number in numbers]
        rows = [row for row, number in enumerate(numbers) if number in plain]
        expected = torch.cat([torch.empty(0, WIDTH, dtype=dtype), *(plain[numbers[row]] for row in rows)])
        assert torch.equal(bits(store.gather(slots.take(rows))), bits(expected))
    store.close()
    shutil.rmtree(root)


# ------------------------------------------------------------------------------------- processes and kills


def test_processes_that_write_at_once(tmp_path: Path) -> None:
    def write(first: int) -> None:
        with opened(tmp_path) as store:
            for start in range(first, first + 60, 6):
                fill(store, range(start, start + 6))
                store.publish()

    children = []
    for first in (0, 30, 60):  # neighbours share half of their texts
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                write(first)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    with opened(tmp_path) as store:
        assert found(store, range(200)) == set(range(120))
    assert 20 <= len(files(tmp_path)) <= 30, "who opens late finds what the others have published"


def test_killed_again_and_again(tmp_path: Path) -> None:
    rounds, seen = 25, 0

    def write(first: int) -> None:
        with opened(tmp_path) as store:
            for start in range(first, first + 10_000, 5):
                fill(store, range(start, start + 5))
                if start % 3 == 0:
                    store.publish()

    for turn in range(rounds):
        status = forked(partial(write, turn * 7), kill_after_s=0.002 + 0.0013 * turn)
        assert os.WTERMSIG(status) == signal.SIGKILL
        with opened(tmp_path) as store:
            now = found(store, range(600))
            assert len(now) >= seen
            seen = len(now)
            assert not files(tmp_path, PART)
    assert seen > 0


@pytest.mark.parametrize("point", ["pwrite", "half a pwrite", "ftruncate", "fsync", "rename", "after rename"])
def test_killed_at_the_worst_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    with opened(tmp_path) as store:
        fill(store, [1, 2, 3])

    def die(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        pwrite, rename = os.pwrite, Path.rename
        store = opened(tmp_path)
        if point == "pwrite":
            os.pwrite = die
        elif point == "ftruncate":
            os.ftruncate = die
        fill(store, [4, 5])
        if point == "half a pwrite":
            os.pwrite = lambda handle, content, at: die(pwrite(handle, content[: len(content) // 2], at))
        elif point == "fsync":
            os.fsync = die
        elif point == "rename":
            Path.rename = die
        elif point == "after rename":
            Path.rename = lambda self, to: die(rename(self, to))
        store.publish()

    assert os.WTERMSIG(forked(work)) == signal.SIGKILL
    left = files(tmp_path, PART)
    assert bool(left) == (point != "after rename")
    with opened(tmp_path) as store:
        whole = {1, 2, 3, 4, 5} if point == "after rename" else {1, 2, 3}
        assert found(store, range(10)) == whole
        assert not files(tmp_path, PART)
        fill(store, [4, 5])
    with opened(tmp_path) as store:
        assert found(store, range(10)) == {1, 2, 3, 4, 5}


def test_parts_of_the_living_are_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        fill(store, [1])
        (part,) = files(tmp_path, PART)
        os.utime(part, (0, 0))
        dead = part.with_name(f"dead{PART}")
        dead.write_bytes(b"x" * 100)
        with opened(tmp_path):
            assert files(tmp_path, PART) == [part]
    with opened(tmp_path) as store:
        assert found(store, [1]) == {1}


# ------------------------------------------------------------------------------------------ damaged files


def two_files(root: Path) -> tuple[Path, Path]:
    paths = []
    for numbers in ([1, 2, 3], [7, 8]):
        with opened(root) as store:
            fill(store, numbers)
        paths += [path for path in files(root) if path not in paths]
    return paths[0], paths[1]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_removed(tmp_path: Path, share: float) -> None:
    bad, good = two_files(tmp_path)
    os.truncate(bad, int(share * bad.stat().st_size))
    with opened(tmp_path) as store:
        assert found(store, range(10)) == {7, 8}
        assert files(tmp_path) == [good]
        fill(store, [1, 2])
        assert found(store, range(10)) == {1, 2, 7, 8}


@settings(max_examples=60, deadline=None)
@given(where=some.floats(0, 1, exclude_max=True), bit=some.integers(0, 7))
def test_one_wrong_bit_and_the_file_is_never_used(
    tmp_path_factory: pytest.TempPathFactory, where: float, bit: int
) -> None:
    root = tmp_path_factory.mktemp("store")
    bad, good = two_files(root)
    content = bytearray(bad.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    bad.write_bytes(content)
    with opened(root) as store:
        assert found(store, range(10)) == {7, 8}
        assert files(root) == [good]
        assert fill(store, [1, 2, 3]).is_found_R.all()
        assert found(store, range(10)) == {1, 2, 3, 7, 8}
    shutil.rmtree(root)


def test_strange_files_do_no_harm(tmp_path: Path) -> None:
    two_files(tmp_path)
    folder = files(tmp_path)[0].parent
    (folder / f"empty{WHOLE}").touch()
    (folder / f"noise{WHOLE}").write_bytes(os.urandom(5000))
    (folder / f"link{WHOLE}").symlink_to("/etc/passwd")
    (folder / f"folder{WHOLE}").mkdir()
    (folder / "notes.txt").write_text("mine")
    with opened(tmp_path) as store:
        assert found(store, range(10)) == {1, 2, 3, 7, 8}
    assert Path("/etc/passwd").exists()
    assert (folder / "notes.txt").read_text() == "mine"


def test_rows_of_another_form_are_not_read(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        fill(store, [1])
    with opened(tmp_path, dtype=torch.bfloat16) as store:
        assert len(store) == 0
    with StateStore.open(tmp_path, KEY, width=3, dtype=torch.float32, limit_bytes=ROOMY) as store:
        assert len(store) == 0
    with opened(tmp_path) as store:
        assert found(store, [1]) == {1}


# --------------------------------------------------------------------------------------- limits and disks


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let writers ask for little at a time, so that limits of some kilobytes can be tested."""
    monkeypatch.setattr(states, "GRAIN_BYTES", 1024)


@pytest.mark.usefixtures("small")
def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    many = list(range(400))  # 48 kB
    for age, name in enumerate(("aa" * 8, "bb" * 8, "cc" * 8)):
        with opened(tmp_path, key=name) as store:
            fill(store, many)
        for path in files(tmp_path):
            if path.parent.name.startswith(name):
                os.utime(path, (1000 - age, 1000 - age))  # aa was used last, cc is the oldest
    each = total_bytes(tmp_path) // 3
    opened(tmp_path, key="cc" * 8).close()  # used: now the newest
    with opened(tmp_path, key="dd" * 8, limit_bytes=4 * each - 1000) as store:
        for start in range(0, 400, 40):
            fill(store, many[start : start + 40])
            assert total_bytes(tmp_path) <= 4 * each - 1000
        assert found(store, many) == set(many)
    left = {path.parent.name[:2] for path in files(tmp_path)}
    assert left == {"aa", "cc", "dd"}
    assert not (tmp_path / f"{'bb' * 8}-1").exists()


@pytest.mark.usefixtures("small")
def test_what_is_in_use_is_never_removed(tmp_path: Path) -> None:
    limit = 60_000
    with (
        opened(tmp_path, limit_bytes=limit) as store,
        opened(tmp_path, key="ee" * 8, limit_bytes=limit) as other,
    ):
        fill(other, range(100))
        other.publish()
        slots = [fill(store, [number]) for number in range(500)]
        kept = {number for number, slot in enumerate(slots) if slot.is_found_R.all()}
        assert store.is_full
        assert "limit of 60000" in store.why_full
        assert kept == set(range(len(kept)))
        assert 100 < len(kept) < 400
        assert found(store, range(500)) == kept
        assert found(other, range(100)) == set(range(100))
        assert total_bytes(tmp_path) <= limit
        assert not fill(store, [0, 1000]).is_found_R[1]
        assert store.publish()
        assert total_bytes(tmp_path) <= limit
        assert len(files(tmp_path)) == 2
    with opened(tmp_path, limit_bytes=limit) as store:
        assert found(store, range(500)) == kept


def test_no_room_at_all(tmp_path: Path) -> None:
    with opened(tmp_path, limit_bytes=0) as store:
        assert not fill(store, [1, 2]).is_found_R.any()
        assert store.is_full
    assert files(tmp_path) == files(tmp_path, PART) == []


def test_a_removed_file_stays_readable_where_it_is_mapped(tmp_path: Path) -> None:
    two_files(tmp_path)
    with opened(tmp_path) as store:
        slots = store.resolve([key(1), key(8)])
        for path in files(tmp_path):
            path.unlink()
        assert torch.equal(bits(store.gather(slots)), bits(torch.cat([state(1), state(8)])))


@pytest.mark.parametrize("fails", ["pwrite", "ftruncate", "fsync", "mkdir", "flock"])
def test_a_full_or_broken_disk_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    two_files(tmp_path)

    def no_space(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    owner: Any = {"mkdir": Path, "flock": fcntl}.get(fails, os)
    with opened(tmp_path) as store:
        monkeypatch.setattr(owner, fails, no_space)
        fill(store, [4, 5])
        published = store.publish()
        assert store.is_full
        assert "No space left" in store.why_full
        assert published == (fails != "fsync")
        assert found(store, range(10)) == {1, 2, 3, 7, 8}
    monkeypatch.undo()
    assert len(files(tmp_path)) == 2
    with opened(tmp_path) as store:
        assert found(store, range(10)) == {1, 2, 3, 7, 8}
        assert not files(tmp_path, PART)


def test_the_kernel_refuses_a_larger_file(tmp_path: Path) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        states.GRAIN_BYTES = 1024
        with opened(tmp_path) as store:
            slots = [fill(store, [number]) for number in range(500)]
            kept = {number for number, slot in enumerate(slots) if slot.is_found_R.all()}
            assert store.is_full
            assert 10 < len(kept) < 400
            assert found(store, range(500)) == kept

    assert forked(work) == 0
    with opened(tmp_path) as store:
        assert len(store) > 10
        assert len(found(store, range(500))) == len(store)


def test_a_root_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with opened(tmp_path / "file") as store:
        assert not fill(store, [1]).is_found_R.any()
        assert store.is_full


# ------------------------------------------------------------------------------------------- small things


def test_opening_tells_the_time_at_most_once_an_hour(tmp_path: Path) -> None:
    old, young = two_files(tmp_path)
    now = time.time()
    os.utime(old, (now - 4000, now - 4000))
    os.utime(young, (now - 1000, now - 1000))
    opened(tmp_path).close()
    assert old.stat().st_mtime > now - 100
    assert young.stat().st_mtime < now - 900


def test_nobody_else_may_look(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "b") as store:
        fill(store, [1])
    (path,) = files(tmp_path / "a" / "b")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.parent.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("bad", ["", "../../../etc", "abc", "ABCDEF0123", "0f" * 65])
def test_a_key_is_a_digest(tmp_path: Path, bad: str) -> None:
    with pytest.raises(ValueError, match="hex digits"):
        opened(tmp_path, key=bad)


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for keys, rows, lengths in (
            ([key(1)], torch.zeros(2, WIDTH), [3]),
            ([key(1)], torch.zeros(2, WIDTH + 1), [2]),
            ([key(1)], torch.zeros(2, WIDTH, dtype=torch.bfloat16), [2]),
            ([key(1), key(2)], torch.zeros(2, WIDTH), [2]),
            ([key(1), key(2)], torch.zeros(2, WIDTH), [2, 0]),
            ([b"short"], torch.zeros(2, WIDTH), [2]),
        ):
            with pytest.raises(ValueError):
                store.add(keys, rows, lengths)
        assert len(store) == 0
    for width, dtype in ((0, torch.float32), (3, torch.int64)):
        with pytest.raises(ValueError, match="float32, bfloat16 or float16"):
            StateStore.open(tmp_path, KEY, width=width, dtype=dtype, limit_bytes=ROOMY)


def test_a_closed_store_keeps_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    fill(store, [1])
    store.close()
    store.close()
    assert len(store) == 0
    assert not fill(store, [2]).is_found_R.any()
    with opened(tmp_path) as store:
        assert found(store, [1, 2]) == {1}


def test_gradients_stay_outside(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        rows = torch.ones(2, WIDTH, requires_grad=True)
        assert not store.gather(store.add([key(1)], rows, [2])).requires_grad


def test_keys_tell_texts_apart() -> None:
    texts: list[tuple[list[int], list[int] | None]] = [
        ([], None),
        ([1], None),
        ([1, 2], None),
        ([2, 1], None),
        ([1, 2], [0, 0]),
        ([1, 2], [0, 1]),
        ([1], [2]),
        ([1, 2, 0], [0]),
        ([1, 2, 0, 0], None),
        ([0], None),
        ([0, 0], None),
    ]
    assert len({state_key(*text) for text in texts}) == len(texts)
    assert all(len(state_key(*text)) == 16 for text in texts)
    assert state_key(np.array([1, 2])) == state_key(iter((1, 2))) == state_key([1, 2])
    assert (
        state_key([101, 2023, 102], [0, 0, 0]).hex() == "4fb5948eeb6eb905c7c13432cb394cbc"
    )  # what lies on disks already
