"""Pooling of packed and padded states: equal vectors, each made once whoever asks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from weft.core.features import Features, Pooling
from weft.core.layout import Layout

LENGTHS = [3, 1, 4]


def both() -> tuple[Features, Features]:
    """Return the same states padded (noise where there is padding) and packed."""
    padded = Layout.padded(LENGTHS)
    grid_BLD = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    flat_TD = grid_BLD.flatten(0, 1)[padded.index_T]
    return Features(grid_BLD, padded), Features(flat_TD, Layout.packed(LENGTHS))


@pytest.mark.parametrize("how", [Pooling.CLS, Pooling.MEAN, Pooling.LAST])
def test_pooling_is_the_same_packed_and_padded(how: Pooling) -> None:
    padded, packed = both()
    rows = [packed.hidden[start : start + n] for start, n in zip((0, 3, 4), LENGTHS, strict=True)]
    expected = {
        Pooling.CLS: [row[0] for row in rows],
        Pooling.MEAN: [row.mean(0) for row in rows],
        Pooling.LAST: [row[-1] for row in rows],
    }[how]
    assert torch.allclose(padded.pooled_BD(how), torch.stack(expected), atol=1e-6)
    assert torch.allclose(packed.pooled_BD(how), torch.stack(expected), atol=1e-6)


def test_many_heads_pool_once() -> None:
    calls: list[Tensor] = []

    def pooler(first_BD: Tensor) -> Tensor:
        calls.append(first_BD)
        return first_BD.tanh()

    features = replace(both()[1], pooler=pooler)
    vectors = [features.pooled_BD(Pooling.POOLER) for _ in range(16)]
    assert len(calls) == 1
    assert all(vector is vectors[0] for vector in vectors)
    assert features.pooled_BD(Pooling.MEAN) is features.pooled_BD(Pooling.MEAN)
    assert not torch.equal(features.pooled_BD(Pooling.MEAN), features.pooled_BD(Pooling.LAST))


def test_gradients_of_all_heads_reach_the_states_through_the_shared_vector() -> None:
    features = both()[1]
    hidden = features.hidden.requires_grad_()
    (features.pooled_BD(Pooling.LAST).sum() + 2 * features.pooled_BD(Pooling.LAST).sum()).backward()
    expected = torch.zeros(8, 2)
    expected[[2, 3, 7]] = 3.0
    assert torch.equal(hidden.grad, expected)


def test_a_copy_with_other_states_pools_anew() -> None:
    features = both()[1]
    before = features.pooled_BD(Pooling.CLS)
    moved = replace(features, states=features.hidden + 1)
    assert torch.equal(moved.pooled_BD(Pooling.CLS), before + 1)


def test_a_trunk_without_a_pooler_says_so() -> None:
    with pytest.raises(ValueError, match="this one has none"):
        both()[0].pooled_BD(Pooling.POOLER)


def test_states_are_made_when_somebody_asks_and_once() -> None:
    calls: list[int] = []

    def made() -> Tensor:
        calls.append(1)
        return torch.arange(16.0).view(8, 2)

    layout = both()[1].layout
    features = Features(made, layout)
    assert calls == []
    assert torch.equal(features.first_BD(), features.hidden[layout.starts_B])
    assert calls == [1]


def test_a_memory_is_asked_before_anything_is_pooled() -> None:
    class Memory:
        def pooled_BD(self, how, make):
            return torch.full((2, 2), 7.0) if how is Pooling.CLS else make()

    plain = both()[1]
    features = replace(plain, memory=Memory())
    assert features.pooled_BD(Pooling.CLS).unique().tolist() == [7.0]
    assert torch.equal(features.pooled_BD(Pooling.LAST), plain.pooled_BD(Pooling.LAST))
