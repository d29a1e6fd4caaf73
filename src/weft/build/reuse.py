"""Frozen layers behind a store: what they make of a text is computed once, in whatever stage, task or run comes first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch

from weft.build.stage import Entered
from weft.core.caches import cache_home, limit_bytes
from weft.core.parts import AdapterState, adapter_of
from weft.core.states import StateStore
from weft.model.backbone import HFTrunk
from weft.model.cut import cut_at, deepest_cut, obstacle
from weft.model.frozen import Frozen, store_key
from weft.recipe.spec import StageSpec


def depth(stage: StageSpec, entered: Entered, *, moving: Iterable[str] | None = None) -> int:
    """Return how many layers of the trunk run once a text in ``stage``: 0 where every pass runs all of them.

    One more than there are layers means the whole trunk.

    Args:
        stage: being entered.
        entered: its network.
        moving: paths of what moves; default: all that is trained in the stage.
    """
    trunk, network = cast(HFTrunk, entered.network.trunk), entered.network
    if not stage.reuse or not trunk.packs or obstacle(trunk.backbone):
        return 0
    # What stands in front of a text is no part of its key, and a store is asked for rows out of their batch.
    if network.sees_rows or trunk.num_virtual(network.routes.values()):
        return 0
    trained = [row.path for row in entered.table.trained()] if moving is None else list(moving)
    # Nor is the adapter that a row takes: below the lowest of those, equal texts have equal states.
    owners = {f"adapter:{adapter_of(route)}" for group in network.routes.values() for route in group}
    routed = [row.path for row in entered.table if row.owner in owners]
    return deepest_cut([*trained, *routed], num_layers=entered.sites.view.num_layers.get("", 0)) or 0


def put_behind_store(
    stage: StageSpec,
    entered: Entered,
    *,
    adapters: Iterable[AdapterState],
    dtype: torch.dtype,
    moving: Iterable[str] | None = None,
) -> StateStore | None:
    """Let the trunk of ``entered`` take what its frozen layers make of a text from the disk.

    Args:
        stage: being entered.
        entered: its network, not on the meta device.
        adapters: carried into the stage.
        dtype: of the trunk while it computes.
        moving: paths of what moves at present; default: all that is trained in the stage.

    Returns:
        The store, None where nothing can be reused. Publish it with every checkpoint: what a resumed run finds is then
        what the broken one had.
    """
    at = depth(stage, entered, moving=moving)
    trunk = cast(HFTrunk, entered.network.trunk)
    trunk.frozen = None
    if at == 0:
        return None
    cut = cut_at(trunk.backbone, at)
    key = store_key(cut, dtype=dtype, about=[[one.name, one.method, one.config] for one in adapters])
    store = StateStore.open(
        cache_home() / "states", key, width=trunk.info.width, dtype=dtype, limit_bytes=limit_bytes()
    )
    is_moved = any(parameter.requires_grad for parameter in trunk.parameters())
    trunk.frozen = Frozen(cut, store, is_at_rest=cut.is_whole and not is_moved)
    return store
