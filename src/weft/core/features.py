"""What the trunk hands to the heads.

Legend: B rows, L padded length, T real tokens, D width, V vocabulary, M any number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Protocol

from torch import Tensor, nn

from weft.core.layout import Layout


class Pooling(StrEnum):
    """How one vector is made of a row's tokens."""

    POOLER = "pooler"  # the trunk's own trained pooler on the first token
    CLS = "cls"  # the first token
    MEAN = "mean"
    LAST = "last"


class PoolMemory(Protocol):
    """Keeps the pooled vectors of texts that a frozen trunk has seen."""

    def pooled_BD(self, how: Pooling, make: Callable[[], Tensor], /) -> Tensor:
        """Return the vectors of a batch's rows: remembered ones, or what ``make`` returns."""
        ...


@dataclass(eq=False, slots=True)
class Features:
    """Last hidden states of one batch, whatever its layout.

    Attributes:
        states: (B, L, D) when the layout is padded, (T, D) when packed, or what makes them; ask for ``hidden``. A packed
            layout may come with the states of M tokens only, (M, D).
        layout: where the real tokens are.
        pooler: the trunk's own pooler, maps first-token states (B, D) to (B, D); None where it has none.
        project: the trunk's own output embedding, maps (M, D) to logits (M, V); None where it has none.
        memory: of pooled vectors, where the trunk is frozen.
        places_T: where the state of each flat position lies among M of them, beyond the end where it was not computed;
            None where all were.
        decoder: what the decoder of an encoder-decoder makes of the batch's replies; None without one, or without replies.
    """

    states: Tensor | Callable[[], Tensor]
    layout: Layout
    pooler: Callable[[Tensor], Tensor] | None = None
    project: nn.Module | None = None
    memory: PoolMemory | None = None
    places_T: Tensor | None = None
    decoder: Features | None = None
    _pooled: dict[Pooling, Tensor] = field(default_factory=dict[Pooling, Tensor], init=False, repr=False)

    @property
    def hidden(self) -> Tensor:
        """The states, shape (B, L, D) when the layout is padded, (T, D) when packed, (M, D) where a few were computed."""
        if not isinstance(self.states, Tensor):
            self.states = self.states()
        return self.states

    def flat_TD(self) -> Tensor:
        """Return the states of the real tokens in flat order, shape (T, D)."""
        self._check_all()
        if self.layout.index_T is None:
            return self.hidden
        return self.hidden.flatten(0, 1).index_select(0, self.layout.index_T)

    def at_MD(self, positions_M: Tensor) -> Tensor:
        """Return the states at flat ``positions_M``, shape (M, D), without copying the others.

        Raises:
            IndexError: a state was not computed, as nobody had said that it would be read.
        """
        if self.layout.index_T is not None:
            return self.hidden.flatten(0, 1).index_select(0, self.layout.index_T[positions_M])
        places_M = positions_M if self.places_T is None else self.places_T[positions_M]
        return self.hidden.index_select(0, places_M)

    def first_BD(self) -> Tensor:
        """Return each row's first state, shape (B, D)."""
        if not self.layout.is_packed:
            return self.hidden[:, 0]
        return self.at_MD(self.layout.starts_B)

    def last_BD(self) -> Tensor:
        """Return each row's last real state, shape (B, D)."""
        return self.at_MD(self.layout.starts_B + self.layout.lengths_B - 1)

    def mean_BD(self) -> Tensor:
        """Return the mean of each row's real states in fp32, shape (B, D)."""
        self._check_all()
        if self.layout.is_packed:
            flat_TD = self.hidden.float()
            sums_BD = flat_TD.new_zeros(self.layout.num_rows, flat_TD.shape[1])
            sums_BD = sums_BD.index_add(0, self.layout.row_T(), flat_TD)
        else:
            mask_BL1 = self.layout.mask_BL()[:, :, None]
            sums_BD = (self.hidden.float() * mask_BL1).sum(1)
        return sums_BD / self.layout.lengths_B[:, None]

    def pooled_BD(self, how: Pooling) -> Tensor:
        """Return one vector a row, shape (B, D): made once, whatever number of heads ask.

        Raises:
            ValueError: ``Pooling.POOLER`` on a trunk that has none.
        """
        if how not in self._pooled:
            make = partial(self._pool_BD, how)
            self._pooled[how] = make() if self.memory is None else self.memory.pooled_BD(how, make)
        return self._pooled[how]

    def _check_all(self) -> None:
        if self.places_T is not None:
            raise IndexError(
                "features: all states are asked for, but only those that were to be read are there."
            )

    def _pool_BD(self, how: Pooling) -> Tensor:
        match how:
            case Pooling.POOLER:
                if self.pooler is None:
                    raise ValueError("pooling: 'pooler' needs a trunk with a pooler, but this one has none.")
                return self.pooler(self.first_BD())
            case Pooling.CLS:
                return self.first_BD()
            case Pooling.MEAN:
                return self.mean_BD()
            case Pooling.LAST:
                return self.last_BD()


def pooled_positions(how: Pooling, layout: Layout) -> Tensor | None:
    """Return the flat position that the vector of each row is made from, int64, shape (B,); None where it is many."""
    match how:
        case Pooling.POOLER | Pooling.CLS:
            return layout.starts_B
        case Pooling.LAST:
            return layout.starts_B + layout.lengths_B - 1
        case Pooling.MEAN:
            return None
