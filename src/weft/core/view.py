"""What a network looks like from outside: its sites and parameters under canonical names, without any weights.

A strategy plans on a view alone, so that ``weft plan`` needs no weights, and plans are pure functions.
Canonical paths (DESIGN section 4): ``embeddings.word``, ``layers.3.attention.query``, ``layers.3.norm.ffn``,
``final_norm``, ``pooler``, ``lm_head``; under ``encoder.`` / ``decoder.`` for encoder-decoders; ``heads.<task>``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class SiteKind(StrEnum):
    """What kind of module stands at a site."""

    LINEAR = "linear"  # weight (out, in)
    CONV1D = "conv1d"  # GPT-2's transposed linear, weight (in, out)
    EMBEDDING = "embedding"
    NORM = "norm"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class ParamInfo:
    """One parameter: canonical path ``<site>.<local name>``, shape, and whether it is another one's alias.

    ``is_fixed``: it is kept in few bits, so it can be neither trained nor replaced.

    ``tied_to`` names the canonical path that owns the storage (tied embeddings); None for owners.
    """

    path: str
    shape: tuple[int, ...]
    tied_to: str | None = None
    is_fixed: bool = False

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Site:
    """One module that owns parameters. ``raw`` is its module name in the transformers model (or head)."""

    path: str
    kind: SiteKind
    raw: str
    params: tuple[ParamInfo, ...]


@dataclass(frozen=True, slots=True)
class ModelView:
    """All sites of a network, in forward order where that is known, heads last.

    Attributes:
        architecture: transformers ``model_type`` (``bert``, ``llama``, ...).
        sites: every module with parameters of its own, each once.
        num_layers: layers per stack: ``{"": 6}``, or ``{"encoder.": 6, "decoder.": 6}``.
        has_table: False when the backbone has no name table and sites carry their raw names.
        words: path of the table that token ids are looked up in.
        unprefixed: why the attention of a layer cannot take keys from elsewhere, in words that end a sentence, by the path
            of its attention (``layers.3.attention``); under the empty path, why none of this model can.
        is_causal: whether tokens see only earlier ones.
        width: values of a token's state; 0 where that is not known.
    """

    architecture: str
    sites: tuple[Site, ...]
    num_layers: dict[str, int]
    has_table: bool = True
    words: str = "embeddings.word"
    unprefixed: Mapping[str, str] = field(default_factory=dict[str, str])
    is_causal: bool = False
    width: int = 0
