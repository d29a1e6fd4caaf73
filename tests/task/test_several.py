"""Lines of outputs by example, against the same written out by hand."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.core.example import Encoded, Text
from weft.task.several import is_text, places, spread


def _example(num_texts: int) -> Encoded:
    more = tuple(Text((number,), None) for number in range(1, num_texts))
    return Encoded((0,), None, None, None, "x.jsonl:1", more=more)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_every_row_has_one_place_in_order(counts):
    table = places([_example(count) for count in counts])
    assert table.shape == (len(counts), max(counts))
    assert is_text(table).sum(1).tolist() == counts
    assert table[is_text(table)].tolist() == list(range(sum(counts)))
    rest = iter(range(sum(counts)))
    assert [[row for row in line if row >= 0] for line in table.tolist()] == [
        [next(rest) for _ in range(count)] for count in counts
    ]


def test_outputs_are_spread_by_example_and_the_rest_is_filled():
    table = places([_example(2), _example(1)])
    outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    found = spread(outputs, table, fill=-math.inf)
    assert found.tolist() == [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [-math.inf, -math.inf]]]


def test_what_is_filled_has_no_gradient():
    table = places([_example(3), _example(1)])
    outputs = torch.arange(4.0)[:, None].requires_grad_()
    spread(outputs, table, fill=0.0).sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.tolist() == [[1.0]] * 4
