"""Layers through a compiler: the same loss and gradients, one compilation for all lengths and layers."""

from __future__ import annotations

import pytest
import torch

from weft.core.batch import Batch
from weft.core.layout import Layout
from weft.core.network import Network
from weft.model import compiled
from weft.model.trunk import load_trunk
from weft.recipe.spec import Activations

SIZES = ([9, 12, 3, 17], [5, 6, 7], [2, 30, 4, 4, 4])


@pytest.fixture
def graphs(monkeypatch):
    """Trace as for a GPU but run what was traced as it is; return how many graphs were made."""
    made = []

    def backend(graph, _inputs):
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(compiled, "BACKEND", backend)
    compiled.function_of.cache_clear()
    yield made
    compiled.function_of.cache_clear()
    torch.compiler.reset()


def batch(sizes):
    tokens = torch.randint(3, 60, (sum(sizes),), generator=torch.Generator().manual_seed(0))
    return Batch(tokens, None, Layout.packed(sizes), {}, tuple(map(str, sizes)))


def passed(trunk, sizes):
    network = Network(trunk, {})
    trunk.zero_grad()
    torch.manual_seed(3)
    with network.computing(torch.float32):
        states = network.features(batch(sizes)).flat_TD()
        loss = (states * torch.linspace(-1, 1, states.numel()).view_as(states).sin()).square().sum()
        loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in trunk.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the tracer looks at it
@pytest.mark.parametrize("activations", [Activations.KEEP, Activations.RECOMPUTE])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_loss_and_gradients_are_the_same_for_every_length(saved, graphs, kind, activations):
    trunk = load_trunk(saved(kind), wants_lm_head=False, dropout=0.0, device=torch.device("cpu")).train()
    trunk.activations = activations
    made = []
    for sizes in SIZES:
        trunk.compiles = False
        loss, grads = passed(trunk, sizes)
        assert len(graphs) == (made[-1] if made else 0), "nothing is compiled unless asked"
        trunk.compiles = True
        same, found = passed(trunk, sizes)
        made.append(len(graphs))
        assert same == pytest.approx(loss, rel=1e-5)
        assert found.keys() == grads.keys()
        for name, grad in grads.items():
            assert torch.allclose(found[name], grad, rtol=1e-4, atol=1e-4 * float(grad.abs().max())), name
    assert made[0] > 0
    assert made[-1] == made[0], "token counts are symbols: other lengths need no other graphs"
