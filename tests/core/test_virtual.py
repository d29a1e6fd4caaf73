"""Which virtual positions a row has, and where everything lies once rows have grown by them."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from weft.core.batch import Batch
from weft.core.layout import Layout
from weft.core.routing import NONE, Routable, Routing
from weft.core.virtual import (
    Stack,
    flat,
    grow,
    longest,
    on_grid,
    positions_of,
    rerouted,
    stacked,
    with_tokens,
)

LENGTHS = {"shared": 2, "a": 3, "later": 1, "b": 1}
LEGS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=6)


def routing(*rows: int) -> Routing:
    return Routing.of(("a", "b", "c"), rows, Layout.packed([4] * len(rows)))


def test_without_routing_every_row_has_all_in_order():
    stack = stacked(LENGTHS, None, 3)
    assert stack == Stack(("shared", "a", "later", "b"), (tuple(range(7)),) * 3)
    assert stack.counts == (7, 7, 7)
    assert stack.most == 7


def test_a_row_has_what_all_have_and_its_own():
    stack = stacked(LENGTHS, routing(1, NONE, 2), 3)
    assert stack.names == ("shared", "later", "b")  # nobody takes a: its table stays out of the batch
    assert stack.rows == ((0, 1, 2, 3), (0, 1, 2), (0, 1, 2))
    assert stacked(LENGTHS, routing(0, 1), 2).rows == ((0, 1, 2, 3, 4, 5), (0, 1, 5, 6))


def test_one_row_stands_for_all_where_routing_knows_no_rows():
    assert stacked({"a": 2, "b": 1}, Routing.uniform(("a", "b"), 1), 3).rows == ((0,),) * 3
    assert stacked({"a": 2}, Routing.uniform(("a", "b"), NONE), 2) == Stack((), ((), ()))


def test_the_longest_row_takes_one_of_the_adapters_that_rows_choose():
    assert longest(LENGTHS, ()) == 7
    assert longest(LENGTHS, ("a", "b")) == 3 + 3
    assert longest({}, ("a",)) == 0
    assert Stack((), ()).most == 0


@given(LEGS, st.integers(0, 3))
def test_rows_grow_by_what_stands_in_front_of_them(legs, extra):
    lengths, counts = [length for length, _ in legs], [count for _, count in legs]
    rows, end = [], 0
    for count in counts:
        rows.append(tuple(range(end, end + count)))
        end += count
    layout = Layout.packed(lengths)
    grown = grow(layout.cumulative(extra), layout.num_tokens + extra, max(lengths), rows)
    expected, token = [], 0
    all_lengths: list[int] = [*lengths, *([extra] if extra else [])]
    for length, row in zip(all_lengths, [*rows, ()], strict=False):
        expected += [layout.num_tokens + extra + place for place in row] + list(range(token, token + length))
        token += length
    assert grown.source_X.tolist() == expected
    assert [expected.index(t) for t in range(token)] == grown.place_T.tolist()
    ends = [*(length + count for length, count in legs), *([extra] if extra else [])]
    assert grown.starts.tolist() == [sum(ends[:n]) for n in range(len(ends) + 1)]
    assert grown.starts.dtype is torch.int32
    assert max(length + count for length, count in legs) <= grown.max_length <= max(lengths) + max(counts)


def batch(*, is_packed: bool) -> Batch:
    layout = Layout.packed([2, 3]) if is_packed else Layout.padded([2, 3], 4)
    tokens = torch.tensor([5, 6, 7, 8, 9]) if is_packed else torch.tensor([[5, 6, 0, 0], [7, 8, 9, 0]])
    return Batch(tokens, (tokens > 6).long(), layout, {}, ("one", "two"), reads_M=torch.tensor([0, 2]))


def test_tokens_stand_in_front_of_packed_rows():
    new, perturb, place_T = with_tokens(
        batch(is_packed=True), [(0, 1), (1,)], vocabulary=100, perturb=torch.ones(5, 2)
    )
    assert new.tokens.tolist() == [100, 101, 5, 6, 101, 7, 8, 9]
    assert new.segments.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert place_T.tolist() == [2, 3, 5, 6, 7]
    assert new.reads_M.tolist() == [2, 5]
    assert (new.layout.lengths_B.tolist(), new.layout.starts_B.tolist()) == ([4, 4], [0, 4])
    assert (new.layout.num_tokens, new.layout.is_packed) == (8, True)
    assert perturb[:, 0].tolist() == [0, 0, 1, 1, 0, 1, 1, 1]


def test_tokens_stand_in_front_of_padded_rows():
    new, perturb, place_T = with_tokens(
        batch(is_packed=False), [(0, 1), ()], vocabulary=100, perturb=torch.ones(2, 4, 2)
    )
    assert new.tokens.tolist() == [[100, 101, 5, 6, 0], [7, 8, 9, 0, 0]]
    assert new.layout.mask_BL().long().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
    assert flat(new.tokens, new.layout)[place_T].tolist() == [5, 6, 7, 8, 9]
    assert perturb.shape == (2, 5, 2)
    assert flat(perturb, new.layout)[:, 0].tolist() == [0, 0, 1, 1, 1, 1, 1]


def test_a_grid_holds_real_tokens_and_zeros():
    padded = batch(is_packed=False)
    again = on_grid(flat(padded.tokens, padded.layout), padded.layout)
    assert torch.equal(again, padded.tokens)


def test_positions_of_an_adapter():
    one = routing(0, 1)
    assert positions_of("shared", one, (1, 8), torch.device("cpu")) is None
    assert positions_of("a", None, (1, 8), torch.device("cpu")) is None
    assert positions_of("b", one, (1, 8), torch.device("cpu")).tolist() == [4, 5, 6, 7]


class Holder(Routable):
    @property
    def adapter_names(self):
        return ("a", "b", "c")


def test_modules_know_within_a_pass_that_rows_have_grown():
    parts = nn.ModuleList([Holder(), nn.Linear(1, 1), Holder()])
    with rerouted(parts.modules(), [1, 2]):
        assert parts[0].routing is None
    old = routing(0, 1)
    for part in (parts[0], parts[2]):
        vars(part)["routing"] = old
    with rerouted(parts.modules(), [1, 2]):
        assert parts[0].routing.lengths == parts[2].routing.lengths == (5, 6)
        assert parts[0].routing.rows == old.rows
    assert parts[0].routing is old
