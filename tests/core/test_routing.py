"""Who passes through what: positions of packed, padded and pooled states, cuts into blocks, what is refused."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from weft.core.batch import Batch, Target
from weft.core.layout import Layout
from weft.core.routing import (
    NONE,
    Block,
    Routable,
    Routing,
    groups_in,
    routed,
    routed_as,
    routes_of,
    routing_of,
    with_rows,
)
from weft.errors import StrategyError

CPU = torch.device("cpu")
ABC = ("a", "b", "c")


def packed(rows: list[int], lengths: list[int]) -> Routing:
    return Routing.of(ABC, rows, Layout.packed(lengths))


def test_positions_are_found_by_shape() -> None:
    routing = packed([2, NONE, 0], [2, 1, 3])
    tokens = [2, 2, NONE, 0, 0, 0]
    assert routing.index_N((1, 6), ABC, CPU).tolist() == tokens
    assert routing.index_N((6,), ABC, CPU).tolist() == tokens
    assert routing.index_N((1, 8), ABC, CPU).tolist() == [*tokens, NONE, NONE]  # a count rounded up
    assert routing.index_N((3, 1), ABC, CPU).tolist() == [2, NONE, 0]  # a pooler's rows
    assert routing.index_N((3, 2), ABC, CPU).tolist() == [2, 2, NONE, NONE, 0, 0]  # a grid inside the trunk
    assert routing.index_N((3, 4), ("c", "a"), CPU).tolist() == [0] * 4 + [NONE] * 4 + [1] * 4


def test_some_tokens_of_packed_rows_keep_their_adapters() -> None:
    few = packed([2, NONE, 0, 1], [2, 1, 3, 1]).at(torch.tensor([1, 2, 4, 5]))
    assert (few.rows, few.lengths, few.is_packed) == ((2, NONE, 0, 1), (1, 1, 2, 0), True)
    assert few.index_N((1, 4), ABC, CPU).tolist() == [2, NONE, 0, 0]
    assert few.index_N((1, 8), ABC, CPU).tolist() == [2, NONE, 0, 0] + [NONE] * 4
    assert few.present == ABC, "also of the row of which nothing is read"
    assert few.blocks((1, 8), ABC, overhead=10**9) == (Block(0, 8, 0, 3),)
    uniform = Routing.uniform(ABC, 1)
    assert uniform.at(torch.tensor([3])) is uniform


def test_a_padded_batch_is_a_grid_of_any_width() -> None:
    routing = Routing.of(ABC, [1, 0], Layout.padded([1, 3]))
    assert routing.index_N((2, 3), ABC, CPU).tolist() == [1, 1, 1, 0, 0, 0]
    assert routing.index_N((2, 5), ABC, CPU).tolist() == [1] * 5 + [0] * 5
    assert routing.index_N((2,), ABC, CPU).tolist() == [1, 0]


def test_other_rows_take_the_adapters_of_the_rows_that_they_belong_to() -> None:
    inner, outer = _Site(), _Site()
    whole = nn.ModuleList([inner, outer])
    routing = packed([2, NONE, 0], [2, 1, 3])
    with routed_as(whole, [1, 0], width=4):
        assert inner.routing is None, "nobody is routed"
    with routed(whole, routing):
        with routed_as(inner, [2, 0, 0, 1], width=4):
            assert inner.routing is not None
            assert inner.routing.rows == (0, 2, 2, NONE)
            assert inner.routing.index_N((4, 4), ABC, CPU).tolist() == [0] * 4 + [2] * 8 + [NONE] * 4
            assert inner.routing.index_N((4, 7), ABC, CPU).tolist() == [0] * 7 + [2] * 14 + [NONE] * 7
            assert outer.routing is routing
        assert inner.routing is routing
    with routed(whole, Routing.uniform(ABC, 1)), routed_as(whole, [0, 0], width=4):
        assert inner.routing is not None
        assert inner.routing.rows == (1,), "one for all rows stays one for all"


class _Site(Routable):
    @property
    def adapter_names(self) -> tuple[str, ...]:
        return ABC


def test_what_fits_neither_rows_nor_tokens_is_refused() -> None:
    with pytest.raises(StrategyError, match="states of 2 rows or 4 tokens"):
        Routing.of(ABC, [1, 0], Layout.padded([1, 3])).index_N((4,), ABC, CPU)
    with pytest.raises(StrategyError, match="states of 2 rows or 4 tokens"):
        packed([1, 0], [1, 3]).blocks((1, 3), ABC, overhead=0)


@pytest.mark.parametrize(
    ("adapters", "rows", "words"),
    [
        (("a", "a"), [0, 1], "once each"),
        (ABC, [0], "one for each of 2 rows, but there are 1"),
        (ABC, [0, 3], "a place among 3 adapters, but one is 3"),
        (ABC, [0, -2], "but one is -2"),
    ],
)
def test_a_routing_that_cannot_be_is_refused(adapters: tuple[str, ...], rows: list[int], words: str) -> None:
    with pytest.raises(StrategyError, match=words):
        Routing.of(adapters, rows, Layout.packed([1, 3]))


def test_present_are_the_adapters_of_rows_in_order() -> None:
    assert packed([2, NONE, 0, 2], [1] * 4).present == ("a", "c")
    assert packed([NONE], [3]).present == ()


def test_made_once() -> None:
    routing, calls = packed([0], [1]), []
    assert [routing.once("x", lambda: calls.append(1) or 7) for _ in range(3)] == [7, 7, 7]
    assert len(calls) == 1


@given(
    rows=st.lists(st.tuples(st.integers(-1, 6), st.integers(1, 90)), min_size=1, max_size=40),
    overhead=st.sampled_from([0, 50, 1000, 10**9]),
    is_sorted=st.booleans(),
    extra=st.sampled_from([0, 13]),
)
def test_blocks_cover_every_position_with_its_adapter_once(
    rows: list[tuple[int, int]], overhead: int, is_sorted: bool, extra: int
) -> None:
    rows = sorted(rows) if is_sorted else rows
    names = tuple("abcdefg")
    routing = Routing.of(names, [row for row, _ in rows], Layout.packed([length for _, length in rows]))
    leading = (1, sum(length for _, length in rows) + extra)
    index = routing.index_N(leading, names, CPU).tolist()
    blocks = routing.blocks(leading, names, overhead=overhead)
    covered = [NONE] * len(index)
    for block in blocks:
        assert 0 <= block.first < block.last <= len(names)
        for at in range(block.start, block.stop):
            assert covered[at] == NONE
            covered[at] = 1 if block.first <= index[at] < block.last else covered[at]
    assert [at for at, place in enumerate(index) if place != NONE and covered[at] == NONE] == []
    assert len(blocks) <= 1 or overhead < 10**9


@given(
    rows=st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 9)), min_size=1, max_size=20),
    extra=st.sampled_from([0, 5]),
)
def test_runs_are_the_positions_of_one_adapter_each(rows: list[tuple[int, int]], extra: int) -> None:
    names = tuple("abcd")
    routing = Routing((("a",), ("b",), ("c",), ("d",)), *zip(*rows, strict=True), is_packed=True)
    leading = (
        (2, (sum(routing.lengths) + extra + 1) // 2) if len(rows) > 2 else (1, sum(routing.lengths) + extra)
    )
    total = leading[0] * leading[1]
    found = [NONE] * total
    runs = routing.runs(leading, names)
    for run in runs:
        assert 0 <= run.start < run.stop <= total
        assert run.last == run.first + 1
        assert set(found[run.start : run.stop]) == {NONE}
        found[run.start : run.stop] = [run.first] * (run.stop - run.start)
    assert found == routing.index_N(leading, names, CPU).tolist()
    assert all(one.stop < two.start or one.first != two.first for one, two in itertools.pairwise(runs))
    for name in names:
        positions = routing.positions(leading, name, CPU)
        assert positions.tolist() == [at for at, place in enumerate(found) if place == names.index(name)]
        assert routing.positions(leading, name, CPU) is positions


def test_few_adapters_are_one_block_and_many_in_order_are_cut() -> None:
    names = tuple(f"x{i}" for i in range(64))
    few = Routing.of(names, [0] * 32 + [1] * 32, Layout.packed([24] * 64))
    assert few.blocks((1, 1536), names, overhead=1000) == (Block(0, 1536, 0, 2),)
    many = Routing.of(names, list(range(64)), Layout.packed([24] * 64))
    blocks = many.blocks((1, 1536), names, overhead=1000)
    assert [block.stop - block.start for block in blocks] == [128] * 12
    assert {block.last - block.first for block in blocks} == {8}
    assert many.blocks((1, 1536), names, overhead=10**9) == (Block(0, 1536, 0, 64),)


def test_rows_without_any_adapter_make_no_block() -> None:
    assert packed([NONE, NONE], [2, 3]).blocks((1, 5), ABC, overhead=1) == ()
    assert packed([0, 1], [2, 3]).blocks((1, 5), ("c",), overhead=1) == ()


class Holder(Routable):
    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    @property
    def adapter_names(self) -> tuple[str, ...]:
        return self.names


def test_routing_holds_within_the_block_and_nests() -> None:
    first, second = Holder("a", "b"), Holder("c")
    trunk = nn.Sequential(nn.Linear(2, 2), first, second)
    outer = packed([0], [1])
    inner = Routing.of(("b",), [0], Layout.packed([1]))
    with routed(trunk, outer):
        assert first.routing is second.routing is outer
        with contextlib.suppress(KeyError), routed([first], inner):
            assert (first.routing, second.routing) == (inner, outer)
            raise KeyError
        assert first.routing is outer
    assert first.routing is None
    assert second.routing is None


def test_an_adapter_that_nobody_holds_is_refused() -> None:
    with (
        pytest.raises(StrategyError, match=r"c: must be an adapter of this network"),
        routed(Holder("a", "b"), packed([0], [1])),
    ):
        pass


def batch(rows: dict[str, list[int]]) -> Batch:
    """Return a packed batch of three rows with one target for each task of ``rows``."""
    targets = {name: Target(torch.tensor(own), {}, 0.0, len(own)) for name, own in rows.items()}
    return Batch(torch.arange(6), None, Layout.packed([1, 2, 3]), targets, ("f:1", "f:2", "f:3"))


def test_rows_take_the_adapter_of_the_tasks_that_ask() -> None:
    routes = {"mood": ("z",), "topic": ("z",), "names": ("a",)}
    found = routing_of(batch({"mood": [2], "topic": [2, 0], "plain": [1]}), routes)
    assert found.adapters == ("a", "z")  # sorted: rows in the order of names are in the order of places
    assert (found.rows, found.lengths, found.is_packed) == ((1, NONE, 1), (1, 2, 3), True)
    assert routing_of(batch({"names": [1]}), routes).rows == (NONE, 0, NONE)


@pytest.mark.parametrize("other", ["names", "plain"])
def test_a_row_cannot_take_two_adapters(other: str) -> None:
    with pytest.raises(StrategyError, match="f:2: a row must take the adapters of one task"):
        routing_of(batch({"mood": [1], other: [1]}), {"mood": ("z",), "names": ("a",)})


def test_rows_may_take_several_adapters() -> None:
    routes = routes_of([{"mood": "z"}, {"names": "a"}, {"mood": "b", "topic": "b"}])
    assert routes == {"mood": ("z", "b"), "names": ("a",), "topic": ("b",)}
    assert groups_in(routes) == (("a",), ("b",), ("z", "b"))
    found = routing_of(batch({"mood": [2], "topic": [0]}), routes)
    assert found.rows == (1, NONE, 2)
    assert found.adapters == ("a", "b", "z")
    assert found.present == ("b", "z")
    assert found.index_N((1, 6), ("z",), CPU).tolist() == [NONE] * 3 + [0] * 3
    assert found.index_N((1, 6), ("a", "b"), CPU).tolist() == [1, NONE, NONE, 1, 1, 1]
    assert routing_of(batch({"mood": [0], "names": [1]}), routes).present == ("a", "z", "b")


@given(st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), min_size=1, max_size=6, unique_by=frozenset))
def test_of_one_lane_no_row_takes_two(groups: list[set[str]]) -> None:
    routing = Routing.of([tuple(sorted(group)) for group in groups], [0], Layout.packed([1]))
    lanes = routing.lanes(routing.adapters)
    assert sorted(name for lane in lanes for name in lane) == sorted(routing.adapters)
    assert all(len(group.intersection(lane)) <= 1 for group in groups for lane in lanes)
    assert routing.lanes(routing.adapters) is lanes
    assert len(lanes) == 1 or any(len(group) > 1 for group in groups)
    assert routing.lanes(()) == ()


def test_one_row_may_stand_for_all() -> None:
    routing = Routing.uniform(ABC, 2)
    assert routing.present == ("c",)
    assert routing.index_N((2, 3), ABC, CPU).tolist() == [2] * 6
    assert routing.blocks((5, 1), ABC, overhead=10) == (Block(0, 5, 2, 3),)
    assert Routing.uniform(ABC, NONE).blocks((5, 1), ABC, overhead=10) == ()


def test_what_a_stock_model_pools_of_a_packed_batch_belongs_to_nobody() -> None:
    assert packed([0, 1], [2, 3]).index_N((1,), ABC, CPU).tolist() == [NONE]
    assert packed([1], [2]).index_N((1,), ABC, CPU).tolist() == [1]


def test_rows_are_told_to_modules_that_compute_alike_for_all() -> None:
    part, plain = _Site(), nn.Linear(1, 1)
    with with_rows([part, plain], [2, 3]):
        assert part.routing == Routing((), (NONE, NONE), (2, 3), is_packed=False)
        assert part.routing.rows_N((2, 4), CPU).tolist() == [0, 0, 2, 2, 1, 1, 1, 2]
    assert part.routing is None
    with routed([part], Routing.uniform(ABC, 1)), with_rows([part], [4]):
        assert part.routing == Routing((("a",), ("b",), ("c",)), (1,), (4,), is_packed=False)
