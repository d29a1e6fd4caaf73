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


def passed(trunk, batch, dtype=torch.float32, reads_M=None):
    """Return loss and gradients by name of one pass: every state weighs differently, and those not read nothing."""
    network = Network(trunk, {})
    trunk.zero_grad()
    with network.computing(dtype) as twins:
        features = network.features(batch)
        states_TD = (features.flat_TD() if reads_M is None else features.at_MD(reads_M)).float()
        weights = torch.randn(
            batch.layout.num_tokens, states_TD.shape[1], generator=torch.Generator().manual_seed(7)
        )
        loss = (states_TD * (weights if reads_M is None else weights[reads_M])).sum()
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
    firsts = batch.layout.starts_B
    expected, expected_firsts = passed(trunk, batch), passed(trunk, batch, reads_M=firsts)
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
                assert found[1].keys() == above
                assert_same(found, (expected[0], {name: expected[1][name] for name in above}), FP32_TOLERANCE)
                found = passed(trunk, replace(batch, reads_M=firsts), reads_M=firsts)
                wanted = {name: expected_firsts[1][name] for name in above}
                assert_same(found, (expected_firsts[0], wanted), FP32_TOLERANCE)
        finally:
            trunk.frozen = None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
@searching
@given(
    sizes=lengths,
    seed=st.integers(0, 99),
    how=st.sampled_from(["first", "last", "some"]),
)
def test_the_last_layer_for_the_tokens_that_are_read_alone(trunks, kind, dtype, sizes, seed, how):
    trunk, batch = trunks(kind), packed(sizes, seed)
    layout = batch.layout
    reads_M = {
        "first": layout.starts_B,
        "last": layout.starts_B + layout.lengths_B - 1,
        "some": torch.randperm(layout.num_tokens, generator=torch.Generator().manual_seed(seed))[
            : len(sizes)
        ].sort()[0],
    }[how]
    tolerance = FP32_TOLERANCE if dtype is torch.float32 else BF16_TOLERANCE
    found = passed(trunk, replace(batch, reads_M=reads_M), dtype, reads_M)
    expected = passed(trunk, batch, dtype, reads_M)
    assert_same(found, expected, tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_computed_above_the_last_keys_for_tokens_that_nobody_reads(trunks, kind):
    trunk, batch = trunks(kind), packed([9, 12, 3], 0)
    counted = []
    last = trunk._layers[-1]
    inner = [module for module in last.modules() if hasattr(module, "weight") and module.weight.dim() == 2]
    hooks = [inner[-1].register_forward_hook(lambda _module, given, _out: counted.append(given[0].shape[-2]))]
    try:
        features = Network(trunk, {}).features(replace(batch, reads_M=batch.layout.starts_B))
    finally:
        for hook in hooks:
            hook.remove()
    assert counted == [3]
    assert features.hidden.shape == (3, trunk.info.width)
    assert features.first_BD().shape == (3, trunk.info.width)
    for ask in (features.last_BD, features.flat_TD, features.mean_BD):
        with pytest.raises(IndexError):
            ask()
