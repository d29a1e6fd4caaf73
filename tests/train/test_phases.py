"""What moves when: late starters, layers that join one after the other, layers by turns."""

from __future__ import annotations

import pytest

from weft.core.table import Draw, ParamRow, ParamTable, Role


def row(path, **rest):
    return ParamRow(path, (2,), Role.TRAINED, "trunk", "", 1e-3, **rest)


def test_a_table_without_times_is_constant():
    table = ParamTable((row("a"), row("b")))
    assert table.is_constant
    assert table.moving(step=0, fraction=0.0, seed=0) == {"a", "b"}


def test_late_starters_begin_when_their_share_is_done():
    table = ParamTable((row("a"), row("b", since=0.5)))
    assert not table.is_constant
    assert [table.moving(step=0, fraction=at, seed=0) for at in (0.0, 0.49, 0.5, 0.9)] == [
        {"a"},
        {"a"},
        {"a", "b"},
        {"a", "b"},
    ]


@pytest.mark.parametrize("take", [1, 2, 5])
def test_turns_are_drawn_anew_and_always_the_same(take):
    rows = [row(f"layers.{i}.{part}", draw=Draw(f"layers.{i}", take, 3)) for i in range(4) for part in "wb"]
    table = ParamTable((row("embeddings"), *rows))
    turns = [table.moving(step=step, fraction=0.0, seed=7) for step in range(60)]
    for start in range(0, 60, 3):
        assert turns[start] == turns[start + 1] == turns[start + 2]
    for moving in turns:
        groups = {path.rpartition(".")[0] for path in moving - {"embeddings"}}
        assert len(groups) == min(take, 4)
        assert moving == {"embeddings"} | {f"{group}.{part}" for group in groups for part in "wb"}
    if take < 4:
        assert len(set(turns)) > 3
        assert turns != [table.moving(step=step, fraction=0.0, seed=8) for step in range(60)]
