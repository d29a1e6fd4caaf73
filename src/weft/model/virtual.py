"""What methods have put in front of the rows of a trunk: found in its modules each time, for methods come and go."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from weft.core.features import Features
from weft.core.layout import Layout
from weft.core.tensors import int64
from weft.core.virtual import Stack, VirtualKeys, VirtualTokens, longest, on_grid, stacked
from weft.model.names import NameTable

_NONE = Stack((), ())
_KEYS = re.compile(r"layers\.\{i\}\.attention\.(key|kv|qkv)")


@dataclass(frozen=True, slots=True, eq=False)
class Virtual:
    """Virtual positions of one trunk.

    Attributes:
        words: what looks token ids up; None where a backbone has no such module.
        attentions: whose parts may hold keys; none where attention is not looked up.
    """

    words: nn.Module | None
    attentions: Sequence[nn.Module]

    @property
    def vocabulary(self) -> int:
        """V: ids from here on are virtual tokens."""
        assert isinstance(self.words, nn.Embedding)
        return self.words.num_embeddings

    def most(self, groups: Iterable[Sequence[str]]) -> int:
        """Return the most positions that they take from a row that takes one of ``groups`` of adapters."""
        own = tuple(groups)
        tokens = longest(self.words.virtual_tokens(), own) if isinstance(self.words, VirtualTokens) else 0
        return tokens + max((longest(part.virtual_keys(), own) for part in self._holders()), default=0)

    def tokens(self, num_rows: int) -> Stack:
        """Return the virtual tokens of each row of a batch."""
        if not isinstance(self.words, VirtualTokens):
            return _NONE
        return stacked(self.words.virtual_tokens(), self.words.routing, num_rows)

    def ids(self) -> list[int]:
        """Return the ids of the virtual tokens of every row, where all rows have the same."""
        return [self.vocabulary + place for row in self.tokens(1).rows for place in row]

    def shifts(self, num_rows: int) -> tuple[int, ...]:
        """Return how far the positions of each row's tokens move for virtual keys; nothing where nobody holds keys."""
        kinds = {tuple(part.virtual_keys().items()): part.routing for part in self._holders()}
        counts = [stacked(dict(kind), routing, num_rows).counts for kind, routing in kinds.items()]
        return tuple(map(max, zip(*counts, strict=True)))

    def _holders(self) -> list[VirtualKeys]:
        # A walk through all modules would take as long as a short text's arithmetic.
        parts = (part for one in self.attentions for part in vars(one)["_modules"].values())
        return [part for part in parts if isinstance(part, VirtualKeys)]


def attentions_of(backbone: nn.Module, table: NameTable) -> tuple[nn.Module, ...]:
    """Return the modules of a stock model with one stack whose parts make keys."""
    parents = [raw.rpartition(".")[0] for raw, site in table.pairs if _KEYS.fullmatch(site)]
    names = dict.fromkeys(re.escape(parent).replace(r"\{i\}", r"\d+") for parent in parents)
    return tuple(
        module
        for name, module in backbone.named_modules()
        if any(re.fullmatch(pattern, name) for pattern in names)
    )


def real(features: Features, layout: Layout, place_T: Tensor) -> Features:
    """Return the features of real tokens, which lie at ``place_T`` among all, in their own ``layout``."""
    if features.places_T is not None:
        return replace(features, layout=layout, places_T=features.places_T[place_T])
    states_TD = features.flat_TD().index_select(0, place_T)
    return replace(
        features, layout=layout, states=states_TD if layout.is_packed else on_grid(states_TD, layout)
    )


def on(device: torch.device, numbers: Sequence[int]) -> Tensor:
    """Return ``numbers`` as a tensor there."""
    return int64(numbers).to(device, non_blocking=True)
