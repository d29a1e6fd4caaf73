"""Columns of tokens come back as they were, or not at all."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data.tokens import SUFFIX, TokenStore

ROWS = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5).map(tuple), min_size=1, max_size=6)
MIB = 1 << 20


@pytest.fixture
def store(tmp_path) -> TokenStore:
    return TokenStore(tmp_path / "tokens", MIB)


def _only(store: TokenStore):
    (path,) = store.folder.iterdir()
    return path


@settings(deadline=None, max_examples=40)
@given(ROWS, st.data())
def test_columns_come_back_as_they_were(tmp_path_factory, rows, data):
    other = data.draw(st.lists(st.just((7,)), min_size=len(rows), max_size=len(rows)))
    store = TokenStore(tmp_path_factory.mktemp("store"), MIB)
    store.save("key", {"tokens": rows, "num_cut": other})
    assert store.load("key") == {"tokens": rows, "num_cut": other}
    assert [type(row) for row in store.load("key")["tokens"]] == [tuple] * len(rows)


def test_what_nobody_saved_is_not_there(store):
    assert store.load("key") is None
    store.save("key", {"tokens": [(1,)]})
    assert store.load("other") is None
    assert _only(store).suffix == SUFFIX


def test_equal_tokens_share_one_number(store):
    store.save("key", {"tokens": [(30_000, 5), (30_000, 70_000)]})
    first, second = store.load("key")["tokens"]
    assert first[0] is second[0]


@pytest.mark.parametrize("place", [0, 40, -1])
def test_a_flipped_bit_is_a_miss_and_the_next_save_heals_it(store, place):
    store.save("key", {"tokens": [(1, 2, 3)] * 50})
    path = _only(store)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert store.load("key") is None
    store.save("key", {"tokens": [(1, 2, 3)] * 50})
    assert store.load("key") == {"tokens": [(1, 2, 3)] * 50}


@pytest.mark.parametrize("content", [b"", b"short", bytes(200)])
def test_a_file_that_is_no_such_file_is_a_miss(store, content):
    store.save("key", {"tokens": [(1,)]})
    _only(store).write_bytes(content)
    assert store.load("key") is None


def test_the_file_wanted_longest_ago_makes_room(tmp_path):
    rows = {"tokens": [tuple(range(1000))]}
    store = TokenStore(tmp_path, MIB)
    store.save("a", rows)
    size = _only(store).stat().st_size
    store = TokenStore(tmp_path, 2 * size + 10)
    store.save("b", rows)
    for age, name in ((30, "a"), (20, "b")):
        path = tmp_path / f"{name}{SUFFIX}"
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    assert store.load("a") == rows  # wanted again: now b is the older one
    store.save("c", rows)
    assert (store.load("a"), store.load("b"), store.load("c")) == (rows, None, rows)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= store.limit_bytes


def test_what_a_killed_writer_left_makes_room_too(tmp_path):
    left = tmp_path / f"x{SUFFIX}.123-abcd"
    left.write_bytes(bytes(5000))
    os.utime(left, (1, 1))
    store = TokenStore(tmp_path, 5500)
    store.save("a", {"tokens": [tuple(range(300))]})
    assert store.load("a") is not None
    assert not left.exists()


def test_what_is_larger_than_the_store_is_not_kept(tmp_path):
    store = TokenStore(tmp_path / "none", 100)
    store.save("a", {"tokens": [tuple(range(1000))]})
    assert store.load("a") is None
    assert not store.folder.exists()


def test_a_disk_that_refuses_raises_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = TokenStore(tmp_path / "file" / "tokens", MIB)
    store.save("a", {"tokens": [(1,)]})
    assert store.load("a") is None


def test_nothing_is_left_beside_a_file_that_could_not_be_renamed(store):
    (store.folder / f"key{SUFFIX}").mkdir(parents=True)
    store.save("key", {"tokens": [(1,)]})
    assert [path.name for path in store.folder.iterdir()] == [f"key{SUFFIX}"]
