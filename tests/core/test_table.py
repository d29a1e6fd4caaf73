"""The parameter table says every parameter once and gives the optimizer its groups."""

from __future__ import annotations

import pytest

from weft.core.table import ParamRow, ParamTable, Role


def row(path: str, *, lr: float = 0.0, decay: bool = False) -> ParamRow:
    role = Role.TRAINED if lr else Role.FROZEN
    return ParamRow(path, (2, 3), role, owner="trunk", why="rule 1", lr=lr, decay=decay)


def test_groups_are_the_trained_rows_each_once() -> None:
    table = ParamTable((row("a"), row("b", lr=1e-3), row("c", lr=1e-3, decay=True), row("d", lr=1e-3)))
    groups = table.groups()
    assert {key: [r.path for r in rows] for key, rows in groups.items()} == {
        (1e-3, False): ["b", "d"],
        (1e-3, True): ["c"],
    }
    assert sorted(r.path for rows in groups.values() for r in rows) == [r.path for r in table.trained()]
    assert (table.num_trained(), table.num_values(), len(table)) == (18, 24, 4)


def test_a_path_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="a: every parameter has one row"):
        ParamTable((row("a"), row("a")))


def test_role_and_rate_must_agree() -> None:
    with pytest.raises(ValueError, match="frozen needs lr 0"):
        ParamTable((ParamRow("a", (1,), Role.FROZEN, "trunk", "", lr=0.1),))
    with pytest.raises(ValueError, match="trained needs lr > 0"):
        ParamTable((ParamRow("a", (1,), Role.TRAINED, "trunk", "", lr=0.0),))
