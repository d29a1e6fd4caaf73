"""Every way through a trunk gives the same loss and gradients: padded, packed by kernels or plain torch, from a store."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.core.batch import Batch
from weft.core.layout import Layout
from weft.core.network import Network
from weft.core.states import StateStore
from weft.model.cut import cut_at
from weft.model.frozen import Frozen
from weft.model.trunk import load_trunk
from weft.native import attention as native_attention

CPU = torch.device("cpu")
KINDS = ["bert", "roberta", "modernbert", "llama", "qwen3", "gpt2"]
FP32_TOLERANCE = 1e-5  # of the norm
BF16_TOLERANCE = 0.06  # of the norm: 2^-8 a rounding, over two layers and back
lengths = st.lists(st.integers(1, 24), min_size=1, max_size=7)
searching = settings(
    max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def packed(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 60, (sum(sizes),), generator=generator)
    return Batch(tokens, None, Layout.packed(sizes), {}, tuple(map(str, range(len(sizes)))))


def padded(batch):
    sizes = batch.layout.lengths_B.tolist()
    layout = Layout.padded(sizes)
    grid = torch.zeros(len(sizes), max(sizes), dtype=torch.int64)
    for row, tokens in enumerate(batch.tokens.split(sizes)):
        grid[row, : len(tokens)] = tokens
    return replace(batch, tokens=grid, layout=layout)


def passed(trunk, batch, dtype=torch.float32):
    """Return loss and gradients by name of one pass: every state weighs differently."""
    network = Network(trunk, {})
    trunk.zero_grad()
    with network.computing(dtype) as twins:
        states_TD = network.features(batch).flat_TD().float()
        weights = torch.randn(states_TD.shape, generator=torch.Generator().manual_seed(7))
        loss = (states_TD * weights).sum()
        loss.backward()
        if twins is not None:
            twins.collect()
    return loss.item(), {n: p.grad.clone() for n, p in trunk.named_parameters() if p.grad is not None}


def assert_same(found, expected, tolerance):
    assert found[1].keys() == expected[1].keys()
    flat = [torch.cat([grads[name].flatten() for name in expected[1]]) for grads in (found[1], expected[1])]
    assert (flat[0] - flat[1]).norm() <= tolerance * flat[1].norm()
    assert abs(found[0] - expected[0]) <= tolerance * flat[1].norm().item()


@pytest.fixture(scope="module")
def trunks(saved):
    def load(kind):
        trunk = load_trunk(saved(kind), wants_lm_head=False, dropout=0.0, device=CPU)
        for name, parameter in trunk.named_parameters():
            parameter.requires_grad_("pooler" not in name)
        return trunk

    found = {kind: load(kind) for kind in KINDS}
    return found.__getitem__


@pytest.mark.parametrize("kind", KINDS)
@searching
@given(sizes=lengths, seed=st.integers(0, 99))
def test_packed_is_padded(trunks, kind, sizes, seed):
    trunk = trunks(kind)
    assert trunk.packs
    batch = packed(sizes, seed)
    assert_same(passed(trunk, batch), passed(trunk, padded(batch)), FP32_TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@searching
@given(sizes=lengths, seed=st.integers(0, 99))
def test_plain_torch_is_the_kernels(trunks, kind, sizes, seed):
    trunk, batch = trunks(kind), packed(sizes, seed)
    by_kernels = passed(trunk, batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_attention, "use_native", lambda *_: None)
        by_torch = passed(trunk, batch)
    assert_same(by_torch, by_kernels, FP32_TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@searching
@given(sizes=lengths, seed=st.integers(0, 99))
def test_bf16_is_near_fp32_on_every_path(trunks, kind, sizes, seed):
    trunk, batch = trunks(kind), packed(sizes, seed)
    expected = passed(trunk, batch)
    for way in (batch, padded(batch)):
        assert_same(passed(trunk, way, torch.bfloat16), expected, BF16_TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@searching
@given(sizes=lengths, seed=st.integers(0, 99))
def test_from_a_store_is_from_the_start(trunks, tmp_path_factory, kind, sizes, seed):
    trunk, batch = trunks(kind), packed(sizes, seed)
    cut = cut_at(trunk.backbone, 1)
    expected = passed(trunk, batch)
    above = {name for name in expected[1] if any(part in name for part in (".1.", "norm", "ln_f"))}
    above -= {name for name in above if "embeddings" in name or ".0." in name}
    folder = tmp_path_factory.mktemp("states")
    with StateStore.open(
        folder, "ab" * 8, width=trunk.info.width, dtype=torch.float32, limit_bytes=10**8
    ) as store:
        trunk.frozen = Frozen(cut, store)
        try:
            for _ in range(2):  # computed, then taken from the store
                found = passed(trunk, batch)
                assert_same(
                    (found[0], {name: found[1][name] for name in above}),
                    (expected[0], {name: expected[1][name] for name in above}),
                    FP32_TOLERANCE,
                )
                assert found[1].keys() == above
        finally:
            trunk.frozen = None
