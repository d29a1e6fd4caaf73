"""Proof that entering a stage does not change the function: the same random rows before and after.

Legend: T tokens of all probe rows, D width.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from weft.core.batch import Batch
from weft.core.layout import Layout
from weft.core.network import Trunk
from weft.core.seeds import fold
from weft.core.sites import SiteMap
from weft.core.view import ModelView, SiteKind
from weft.errors import HandOverError

_ROWS = 8
_LONGEST = 32
_WORDS = "embeddings.word"  # positions and segments have tables of other sizes
TOLERANCE = 1e-4
"""Largest accepted difference, relative to the largest state: a merge rounds W + BA once, in fp32."""


def probe_batch(vocabulary: int, *, longest: int = _LONGEST) -> Batch:
    """Return a batch of random token rows, the same for every call with the same arguments.

    Args:
        vocabulary: tokens are below it.
        longest: no row has more tokens.
    """
    random = np.random.default_rng(fold(0, "probe"))
    lengths = [int(n) for n in random.integers(min(4, longest), longest + 1, size=_ROWS)]
    layout = Layout.padded(lengths)
    tokens_BL = torch.zeros(_ROWS, max(lengths), dtype=torch.int64)
    for row, length in enumerate(lengths):
        tokens_BL[row, :length] = torch.from_numpy(random.integers(0, vocabulary, size=length))
    return Batch(
        tokens=tokens_BL, segments=None, layout=layout, targets={}, ids=tuple(map(str, range(_ROWS)))
    )


def probe(sites: SiteMap) -> Tensor:
    """Return the trunk's states of the probe rows in eval mode and fp32, shape (T, D), on the CPU."""
    network = sites.network
    longest = min(_LONGEST, cast(Trunk, network.trunk).info.max_positions)
    batch = probe_batch(_vocabulary(sites.view), longest=longest).to(network.device)
    was_training = network.training
    network.eval()
    with torch.no_grad():
        states_TD = network.features(batch).flat_TD().float().cpu()
    network.train(was_training)
    return states_TD


def _vocabulary(view: ModelView) -> int:
    """Return how many tokens the trunk is sure to know: where no table is called the words', the smallest table counts."""
    tables = {
        site.path: min(info.shape[0] for info in site.params)
        for site in view.sites
        if site.kind is SiteKind.EMBEDDING
    }
    words = [size for path, size in tables.items() if path.endswith(_WORDS)]
    return min(words or tables.values())


def difference(before_TD: Tensor, after_TD: Tensor) -> float:
    """Return the largest difference of two probes, relative to the largest state of the first."""
    return float((before_TD - after_TD).abs().max() / before_TD.abs().max().clamp_min(1e-12))


def check_entry(stage: str, before_TD: Tensor, after_TD: Tensor) -> float:
    """Return the difference that entering ``stage`` made.

    Raises:
        HandOverError: it is more than rounding.
    """
    found = difference(before_TD, after_TD)
    if not found <= TOLERANCE:
        raise HandOverError(
            f"stage {stage}: entering must not change what the network computes, but probe states differ by "
            f"{found:.1e} of their size (limit {TOLERANCE:.0e}). This is a fault in a method's merge or restore."
        )
    return found
