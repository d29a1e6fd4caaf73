"""What frozen layers make of each text, computed once and taken from the disk from then on.

Legend: B rows, T tokens of all rows, D width.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from weft import native
from weft.core.batch import Batch
from weft.core.features import Pooling
from weft.core.layout import Layout
from weft.core.states import StateStore, state_key
from weft.core.tensors import int64
from weft.model.cut import Cut

MOST_POOLED_BYTES = 256 * 2**20


class Pool:
    """Pooled vectors by text, in memory: a head on a frozen trunk then costs no more than itself."""

    def __init__(self) -> None:
        self._place: dict[bytes, int] = {}
        self._values_ND = torch.empty(0)

    def find_BD(self, keys: Sequence[bytes]) -> Tensor | None:
        """Return the vectors of ``keys``; None if one is unknown."""
        try:
            return self._values_ND.index_select(0, int64([self._place[key] for key in keys]))
        except KeyError:
            return None

    def add(self, keys: Sequence[bytes], values_BD: Tensor) -> None:
        """Keep the vectors of texts, as long as there is room."""
        new = [(row, key) for row, key in enumerate(keys) if key not in self._place]
        needed = len(self._place) + len(new)
        if needed > len(self._values_ND):
            room = max(1024, 2 * needed)
            if room * values_BD[0].nbytes > MOST_POOLED_BYTES:
                return
            with torch.inference_mode(mode=False):  # made while answering, used in training
                grown_ND = values_BD.new_empty(room, values_BD.shape[1])
            if self._place:
                grown_ND[: len(self._place)] = self._values_ND[: len(self._place)]
            self._values_ND = grown_ND
        for row, key in new:
            place = self._place.setdefault(key, len(self._place))
            self._values_ND[place] = values_BD[row]


@dataclass(frozen=True, slots=True)
class Remembered:
    """The pooled vectors of one batch's rows (``weft.core.features.PoolMemory``)."""

    pools: dict[Pooling, Pool]
    keys: Sequence[bytes]

    def pooled_BD(self, how: Pooling, make: Callable[[], Tensor]) -> Tensor:
        """Return the vectors of the rows: remembered ones, or those that ``make`` returns, which are kept."""
        pool = self.pools.setdefault(how, Pool())
        found_BD = pool.find_BD(self.keys)
        if found_BD is None:
            found_BD = make().detach()
            pool.add(self.keys, found_BD)
        return found_BD


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    """A trunk's frozen layers behind a store.

    Attributes:
        cut: nothing below it is trained.
        store: made for these layers by ``store_key``.
        is_at_rest: whether the whole trunk is frozen, its pooler too, so that pooled vectors never change.
        pools: those vectors, by kind.
    """

    cut: Cut
    store: StateStore
    is_at_rest: bool = False
    pools: dict[Pooling, Pool] = field(default_factory=dict[Pooling, Pool])

    def memory(self, batch: Batch) -> Remembered:
        """Return the memory of the pooled vectors of ``batch``."""
        return Remembered(self.pools, row_keys(batch))

    def states_TD(self, batch: Batch, *, lower: Callable[[Batch], Tensor]) -> Tensor:
        """Return the states at the cut of all tokens of a packed batch, on its device.

        Args:
            batch: packed.
            lower: computes them for a batch; called with the rows that the store lacks, if any.
        """
        keys = row_keys(batch)
        slots = self.store.resolve(keys)
        missing = np.flatnonzero(~slots.is_found_R).tolist()
        if not missing:
            return self.store.gather(slots).to(batch.tokens.device, non_blocking=True)
        new = batch if len(missing) == len(keys) else rows_of(batch, missing)
        new_TD = lower(new)
        added = self.store.add([keys[row] for row in missing], new_TD, new.layout.lengths_B.tolist())
        if new is batch:
            return new_TD
        slots.put(missing, added)
        if slots.is_found_R.all():
            return self.store.gather(slots).to(batch.tokens.device, non_blocking=True)
        return lower(batch)  # the store is full


def row_keys(batch: Batch) -> list[bytes]:
    """Return the key of each row of a packed batch, as ``state_key`` makes it of tokens and segments."""
    if batch.digests and sys.byteorder == "little":
        return list(batch.digests)
    tokens = batch.tokens.tolist()
    segments = None if batch.segments is None else batch.segments.tolist()
    starts = batch.layout.starts_B.tolist()
    ends = [*starts[1:], len(tokens)]
    return [
        state_key(tokens[start:end], None if segments is None else segments[start:end])
        for start, end in zip(starts, ends, strict=True)
    ]


def rows_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return some rows of a packed batch as a batch without targets."""
    layout = batch.layout
    starts, lengths = layout.starts_B.tolist(), layout.lengths_B.tolist()
    index_T = torch.cat([torch.arange(starts[row], starts[row] + lengths[row]) for row in rows])
    index_T = index_T.to(batch.tokens.device)
    return replace(
        batch,
        tokens=batch.tokens[index_T],
        segments=None if batch.segments is None else batch.segments[index_T],
        layout=Layout.packed([lengths[row] for row in rows]).to(batch.tokens.device),
        targets={},
        ids=tuple(batch.ids[row] for row in rows),
        digests=tuple(batch.digests[row] for row in rows) if batch.digests else (),
    )


def store_key(cut: Cut, *, dtype: torch.dtype, about: object) -> str:
    """Return the digest of all that decides what lies at ``cut`` besides the text.

    Args:
        cut: of the network as it will be used.
        dtype: of the trunk while it computes.
        about: JSON values that say what weights alone do not (how frozen adapters are scaled).
    """
    words = json.dumps([cut.digest(), str(dtype), native.available(), about], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:32]
