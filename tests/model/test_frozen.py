"""A trunk behind a store: the same features, computed once a text, also in training, answering and after a change."""

from __future__ import annotations

import pytest
import torch

from weft.core.batch import Batch
from weft.core.example import Encoded
from weft.core.features import Pooling
from weft.core.layout import Layout
from weft.core.network import Network
from weft.core.states import StateStore
from weft.model import frozen
from weft.model.cut import cut_at
from weft.model.frozen import Frozen, Pool, row_keys, rows_of, store_key
from weft.model.trunk import load_trunk

CPU = torch.device("cpu")


def batch_of(*texts):
    rows = [Encoded(tuple(text), None, 0, 0, "x:1") for text in texts]
    layout = Layout.packed([len(text) for text in texts])
    tokens = torch.tensor([token for text in texts for token in text])
    return Batch(
        tokens, None, layout, {}, tuple(str(i) for i in range(len(rows))), tuple(row.digest for row in rows)
    )


ONE = batch_of([5, 6, 7], [8, 9], [10])
TWO = batch_of([8, 9], [11, 12, 13, 14], [10])


@pytest.fixture
def behind(saved, tmp_path):
    """Return a function that puts a trunk behind a store at a cut."""

    def put(kind, at, *, limit=10**9, is_at_rest=False, dtype=torch.float32):
        trunk = load_trunk(saved(kind), wants_lm_head=False, dropout=0.0, device=CPU)
        plain = load_trunk(saved(kind), wants_lm_head=False, dropout=0.0, device=CPU)
        cut = cut_at(trunk.backbone, at)
        key = store_key(cut, dtype=dtype, about=[])
        store = StateStore.open(tmp_path, key, width=trunk.info.width, dtype=dtype, limit_bytes=limit)
        trunk.frozen = Frozen(cut, store, is_at_rest=is_at_rest)
        return trunk, plain, store

    return put


def counted(monkeypatch, trunk):
    """Return the list of rows that pass the lower layers."""
    passed = []
    lower = type(trunk.frozen.cut).lower

    def counting(self, inputs):
        passed.append(inputs["input_ids"].numel())
        return lower(self, inputs)

    monkeypatch.setattr(type(trunk.frozen.cut), "lower", counting)
    return passed


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("kind", ["bert", "modernbert", "llama", "gpt2"])
def test_features_are_the_plain_ones_and_each_text_runs_once(behind, monkeypatch, kind, at):
    trunk, plain, _ = behind(kind, at)
    passed = counted(monkeypatch, trunk)
    with torch.no_grad():
        for batch in (ONE, TWO, ONE, TWO):
            found, expected = trunk(batch).hidden, plain(batch).hidden
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert passed == [6, 4], "the first batch, then the one new text of the second"


def test_gradients_reach_what_is_above_the_cut_and_equal_the_plain_ones(behind):
    trunk, plain, _ = behind("bert", 1)
    for _ in range(2):
        for model in (trunk, plain):
            model.zero_grad()
            model(ONE).hidden.square().sum().backward()
        got = dict(trunk.named_parameters())
        for name, parameter in plain.named_parameters():
            if "layer.1." in name:
                torch.testing.assert_close(got[name].grad, parameter.grad, rtol=1e-4, atol=1e-5)
            elif "pooler" not in name:
                assert got[name].grad is None, name


def test_a_full_store_changes_nothing_but_the_time(behind, monkeypatch):
    trunk, plain, store = behind("bert", 2, limit=0)
    passed = counted(monkeypatch, trunk)
    with torch.no_grad():
        for batch in (ONE, TWO, ONE):
            torch.testing.assert_close(trunk(batch).hidden, plain(batch).hidden, rtol=0, atol=1e-5)
    assert store.is_full
    assert len(passed) == 3


def test_a_perturbation_goes_through_all_layers(behind, monkeypatch):
    trunk, plain, _ = behind("bert", 2)
    passed = counted(monkeypatch, trunk)
    shift = torch.randn(6, trunk.info.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = trunk(ONE, perturb=shift).hidden, plain(ONE, perturb=shift).hidden
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert passed == []


@pytest.mark.parametrize("how", list(Pooling))
def test_a_trunk_at_rest_is_not_even_looked_up_twice(behind, monkeypatch, how):
    trunk, plain, store = behind("bert", 3, is_at_rest=True)
    with torch.inference_mode():  # vectors found while answering are used in training
        first = trunk(ONE).pooled_BD(how).clone()
    monkeypatch.setattr(store, "gather", None)
    trunk.model.forward = None
    again = trunk(batch_of([10], [5, 6, 7])).pooled_BD(how)
    assert torch.equal(again, first[[2, 0]])
    with torch.no_grad():
        torch.testing.assert_close(first, plain(ONE).pooled_BD(how), rtol=0, atol=1e-5)
    weight = torch.ones(trunk.info.width, requires_grad=True)
    (again.float() @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, again.float().sum(0))


def test_bf16_states_are_those_of_the_pass(behind):
    trunk, plain, _ = behind("bert", 2, dtype=torch.bfloat16)
    networks = Network(trunk, {}), Network(plain, {})
    with torch.no_grad():
        for batch in (ONE, TWO, ONE):
            hidden = []
            for network in networks:
                with network.computing(torch.bfloat16):
                    hidden.append(network.features(batch).hidden.float())
            torch.testing.assert_close(*hidden, rtol=0, atol=0.1)


def test_keys_are_the_same_with_and_without_prepared_digests():
    bare = Batch(ONE.tokens, None, ONE.layout, {}, ONE.ids)
    assert row_keys(bare) == row_keys(ONE) == list(ONE.digests)
    part = rows_of(ONE, [2, 0])
    assert part.tokens.tolist() == [10, 5, 6, 7]
    assert row_keys(part) == [ONE.digests[2], ONE.digests[0]]


def test_a_store_is_for_one_cut_dtype_and_scale(behind):
    trunk, _, _ = behind("bert", 2)
    cut = trunk.frozen.cut
    keys = {
        store_key(cut, dtype=torch.float32, about=[]),
        store_key(cut, dtype=torch.bfloat16, about=[]),
        store_key(cut, dtype=torch.float32, about=[{"alpha": 16}]),
        store_key(cut_at(trunk.backbone, 1), dtype=torch.float32, about=[]),
    }
    assert len(keys) == 4


def test_a_pool_is_bounded(monkeypatch):
    monkeypatch.setattr(frozen, "MOST_POOLED_BYTES", 1024 * 2 * 4)
    pool = Pool()
    keys = [bytes([n // 256, n % 256]) for n in range(600)]
    values = torch.arange(1200.0).view(600, 2)
    pool.add(keys[:500], values[:500])
    pool.add(keys, values)
    assert torch.equal(pool.find_BD(keys), values)
    more = [bytes([9, n % 256, n // 256]) for n in range(600)]
    pool.add(more, values)
    assert pool.find_BD(more) is None
    assert torch.equal(pool.find_BD([keys[3], keys[599]]), values[[3, 599]])
