"""What methods have put in front of the rows of a trunk: found in its modules each time, for methods come and go."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from weft.core.features import Features
from weft.core.layout import Layout
from weft.core.tensors import int64
from weft.core.virtual import Stack, VirtualKeys, VirtualTokens, longest, on_grid, stacked
from weft.model.attention import TAKES_KEYS, register_virtual, used
from weft.model.names import NameTable
from weft.model.positions import behind

_NONE = Stack((), ())
_KEYS = re.compile(r"(?P<place>(?:encoder\.|decoder\.)?layers\.\{i\}\.\w+)\.(?:key|kv|qkv)")
OWN, CROSSING = "attention", "cross_attention"


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """Virtual keys of one stack.

    Attributes:
        stack: of transformers; its configuration says how attention is looked up.
        attentions: whose parts may hold keys in front of the stack's own tokens; none where attention is not looked up.
        crossing: likewise in front of what a decoder sees of its encoder, where no position is counted.
    """

    stack: nn.Module
    attentions: Sequence[nn.Module]
    crossing: Sequence[nn.Module] = ()

    def most(self, groups: Iterable[Sequence[str]]) -> int:
        """Return the most positions that they take from a row that takes one of ``groups`` of adapters."""
        own = tuple(groups)
        return max((longest(part.virtual_keys(), own) for part in _holders(self.attentions)), default=0)

    def shifts(self, num_rows: int) -> tuple[int, ...]:
        """Return how far the positions of each row's tokens move; nothing where nobody holds keys."""
        kinds = {tuple(part.virtual_keys().items()): part.routing for part in _holders(self.attentions)}
        counts = [stacked(dict(kind), routing, num_rows).counts for kind, routing in kinds.items()]
        if not counts:
            return (0,) * num_rows if _holders(self.crossing) else ()
        return tuple(map(max, zip(*counts, strict=True)))

    @contextmanager
    def seen(self, shifts: Sequence[int]) -> Generator[None]:
        """Let the stack see its keys on a padded grid within the block.

        Args:
            shifts: of the rows, as ``shifts`` returns them.
        """
        if not shifts:
            yield
            return
        with used(self.stack, register_virtual()), behind(self.stack, self.attentions, shifts):
            yield


@dataclass(frozen=True, slots=True, eq=False)
class Virtual:
    """Virtual positions of one trunk.

    Attributes:
        words: what looks token ids up; None where a backbone has no such module.
        read: keys of the stack that rows pass.
        written: keys of a decoder beside it.
    """

    words: nn.Module | None
    read: Keys
    written: Keys | None = None

    @property
    def vocabulary(self) -> int:
        """V: ids from here on are virtual tokens."""
        assert isinstance(self.words, nn.Embedding)
        return self.words.num_embeddings

    def most(self, groups: Iterable[Sequence[str]]) -> int:
        """Return the most positions that they take from a row, or a reply, that takes one of ``groups`` of adapters."""
        own = tuple(groups)
        tokens = longest(self.words.virtual_tokens(), own) if isinstance(self.words, VirtualTokens) else 0
        return max(tokens + self.read.most(own), 0 if self.written is None else self.written.most(own))

    def tokens(self, num_rows: int) -> Stack:
        """Return the virtual tokens of each row of a batch."""
        if not isinstance(self.words, VirtualTokens):
            return _NONE
        return stacked(self.words.virtual_tokens(), self.words.routing, num_rows)

    def ids(self) -> list[int]:
        """Return the ids of the virtual tokens of every row, where all rows have the same."""
        return [self.vocabulary + place for row in self.tokens(1).rows for place in row]


def keys_of(backbone: nn.Module, table: NameTable) -> tuple[Keys, Keys | None]:
    """Return the keys of what rows pass and of a decoder beside it, None where there is none.

    Args:
        backbone: a stock model without its output embedding.
        table: of its names.
    """
    takes = table.architecture in TAKES_KEYS

    def of(stack: nn.Module, prefix: str) -> Keys:
        own, crossing = (
            attentions_of(backbone, table, f"{prefix}layers.{{i}}.{kind}") if takes else ()
            for kind in (OWN, CROSSING)
        )
        return Keys(stack, own, crossing)

    # Not what the configuration says, for T5's encoder alone denies that it is half of two.
    if not any(site.startswith("encoder.layers.") for _, site in table.pairs):
        return of(backbone, ""), None
    stock: Any = backbone
    decoder = getattr(stock, "decoder", None)
    return of(stock.get_encoder(), "encoder."), None if decoder is None else of(decoder, "decoder.")


def _holders(attentions: Iterable[nn.Module]) -> list[VirtualKeys]:
    # A walk through all modules would take as long as a short text's arithmetic.
    parts = (part for one in attentions for part in vars(one)["_modules"].values())
    return [part for part in parts if isinstance(part, VirtualKeys)]


def attentions_of(backbone: nn.Module, table: NameTable, place: str) -> tuple[nn.Module, ...]:
    """Return the modules of a stock model whose parts make keys, at the canonical ``place`` (``layers.{i}.attention``)."""
    keys = ((raw, _KEYS.fullmatch(site)) for raw, site in table.pairs)
    parents = [raw.rpartition(".")[0] for raw, match in keys if match is not None and match["place"] == place]
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
