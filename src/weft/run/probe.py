"""Proof that entering a stage does not change the function: the same random rows before and after.

Legend: T tokens of all probe rows, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from weft.core.batch import Batch, Replies
from weft.core.features import Features
from weft.core.layout import Layout
from weft.core.network import Trunk
from weft.core.routing import Routing, groups_in, routed
from weft.core.seeds import fold
from weft.core.sites import SiteMap
from weft.core.view import ModelView, SiteKind
from weft.errors import HandOverError

_ROWS = 8
_LONGEST = 32
_WORDS = "embeddings.word"  # positions and segments have tables of other sizes
EVERYBODY = ""  # stands for the tasks without an adapter of their own
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


def probe(sites: SiteMap) -> dict[str, Tensor]:
    """Return the trunk's states of the probe rows in eval mode and fp32, each of shape (T, D), on the CPU.

    Returns:
        By task, where a task's rows pass through adapters of their own; under the empty name what all other rows get.
    """
    network = sites.network
    longest = min(_LONGEST, cast(Trunk, network.trunk).info.max_positions)
    batch = probe_batch(_vocabulary(sites.view), longest=longest).to(network.device)
    if cast(Trunk, network.trunk).info.is_encoder_decoder:
        batch = _with_replies(batch)
    groups = groups_in(network.routes)
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            found = {EVERYBODY: _states(network.features(batch))}
            for task, own in network.routes.items():
                rows = [groups.index(own)] * batch.layout.num_rows
                with routed(network.trunk, Routing.of(groups, rows, batch.layout)):
                    found[task] = _states(cast(Trunk, network.trunk)(batch))
    finally:
        network.train(was_training)
    return found


def _with_replies(batch: Batch) -> Batch:
    """Return ``batch`` with every row as the reply to the one before it."""
    last = batch.layout.num_rows - 1
    rows = (last, *range(last))
    return replace(batch, replies=Replies(batch.tokens, batch.layout, rows))


def _states(features: Features) -> Tensor:
    """Return the states of all tokens, those of replies behind those of rows, on the CPU."""
    both = (features,) if features.decoder is None else (features, features.decoder)
    return torch.cat([one.flat_TD().float().cpu() for one in both])


def _vocabulary(view: ModelView) -> int:
    """Return how many tokens the trunk is sure to know: where no table is called the words', the smallest table counts."""
    tables = {
        site.path: info.shape[0]
        for site in view.sites
        if site.kind is SiteKind.EMBEDDING
        for info in site.params
        if info.path == f"{site.path}.weight"  # what adapters add has other sizes
    }
    words = [size for path, size in tables.items() if path.endswith(_WORDS)]
    return min(words or tables.values())


def difference(before_TD: Tensor, after_TD: Tensor) -> float:
    """Return the largest difference of two probes, relative to the largest state of the first."""
    return float((before_TD - after_TD).abs().max() / before_TD.abs().max().clamp_min(1e-12))


def check_entry(
    stage: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor], *, tasks: Iterable[str]
) -> float:
    """Return the difference that entering ``stage`` made, the largest over ``tasks``.

    Raises:
        HandOverError: it is more than rounding.
    """
    pairs = {(name if name in before else EVERYBODY, name if name in after else EVERYBODY) for name in tasks}
    found = max(difference(before[here], after[there]) for here, there in pairs or {(EVERYBODY, EVERYBODY)})
    if not found <= TOLERANCE:
        raise HandOverError(
            f"stage {stage}: entering must not change what the network computes, but probe states differ by "
            f"{found:.1e} of their size (limit {TOLERANCE:.0e}). This is a fault in a method's merge or restore."
        )
    return found
