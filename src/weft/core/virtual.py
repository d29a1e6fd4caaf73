"""Virtual positions: what methods put in front of each row's own tokens, and how many of them a row has.

A table of virtual positions belongs to an adapter. Which tables a row gets follows from the routing, here and nowhere
else: adapters that act on all rows, and the one that the row takes, in the order in which they came. The tables in use
are laid end to end in a stack, so that a row's positions are places in it.

Legend: B rows, T tokens of all rows, X positions of all rows once they have grown, N positions of the stack, P virtual
positions of one row, W width of all heads' keys.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate, chain

import torch
from torch import Tensor, nn

from weft.core.batch import Batch
from weft.core.layout import Layout
from weft.core.routing import NONE, Routable, Routing, routed
from weft.core.tensors import int64


class VirtualTokens(Routable):
    """A table of embeddings that answers token ids at or above its vocabulary V: V + n means place n of its stack."""

    def virtual_tokens(self) -> Mapping[str, int]:
        """Return the number of tokens of each adapter, in the order in which they stand."""
        raise NotImplementedError


class VirtualKeys(Routable):
    """A module that makes keys, values or both, and holds some that stand in front of each row's own.

    An adapter with a gate takes no position: its keys have a softmax of their own.
    """

    def virtual_keys(self) -> Mapping[str, int]:
        """Return the number of keys of each adapter without a gate, in the order in which they stand."""
        raise NotImplementedError

    def gated_keys(self) -> tuple[str, ...]:
        """Return the adapters with a gate."""
        raise NotImplementedError

    def key_PW(self, name: str) -> Tensor | None:
        """Return the keys of one adapter, None where this module has its values only."""
        raise NotImplementedError

    def value_PW(self, name: str) -> Tensor | None:
        """Return the values of one adapter, None where this module has its keys only."""
        raise NotImplementedError

    def gate(self, name: str) -> Tensor | None:
        """Return the gate of one adapter, shape (1,); None where it has none, or the values' module has it."""
        raise NotImplementedError

    def take_row_gates(self) -> Mapping[str, Tensor]:
        """Return what each row multiplies the keys and values of an adapter with, (B,), 1 where it is not named.

        It follows from what the module was given last, and is given out once.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Stack:
    """Which virtual positions each row has.

    Attributes:
        names: adapters whose tables are stacked, in this order. Those of rows that are not in the batch are left out, so
            that they get no gradient at all.
        rows: for each row, its places in the stack.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Virtual positions of each row."""
        return tuple(map(len, self.rows))

    @property
    def most(self) -> int:
        """Virtual positions of the row that has most."""
        return max(self.counts, default=0)


def stacked(lengths: Mapping[str, int], routing: Routing | None, num_rows: int) -> Stack:
    """Return the stack of tables of ``lengths`` positions by adapter, for ``num_rows`` rows routed by ``routing``.

    Example:
        >>> stacked({"shared": 2, "own": 1, "other": 4}, Routing((("own",), ("other",)), (0, -1), (), False), 2)
        Stack(names=('shared', 'own'), rows=((0, 1, 2), (0, 1)))
    """
    if routing is None:
        return Stack(tuple(lengths), (tuple(range(sum(lengths.values()))),) * num_rows)
    names = tuple(name for name in lengths if name not in routing.named or name in routing.present)
    starts = dict(zip(names, accumulate((lengths[name] for name in names), initial=0), strict=False))

    def of(place: int) -> tuple[int, ...]:
        own = () if place == NONE else routing.groups[place]
        taken = (name for name in names if name not in routing.named or name in own)
        return tuple(chain.from_iterable(range(starts[name], starts[name] + lengths[name]) for name in taken))

    by_place = {place: of(place) for place in set(routing.rows)}
    rows = tuple(by_place[place] for place in routing.rows)
    return Stack(names, rows if len(rows) == num_rows else rows * num_rows)


def longest(lengths: Mapping[str, int], groups: Iterable[Sequence[str]]) -> int:
    """Return the most positions that any row can have, where it takes at most one of ``groups`` of adapters."""
    own = tuple(groups)
    named = {name for group in own for name in group}
    shared = sum(count for name, count in lengths.items() if name not in named)
    return shared + max((sum(lengths.get(name, 0) for name in group) for group in own), default=0)


@dataclass(frozen=True, slots=True)
class Grown:
    """Packed rows with their virtual positions in front.

    Attributes:
        place_T: where each token lies among the X positions, int64.
        source_X: what stands at each: t for token t, T + n for place n of the stack, int64.
        starts: where each row starts and the last one ends, int32, (B + 1,).
        max_length: no row is longer.
    """

    place_T: Tensor
    source_X: Tensor
    starts: Tensor
    max_length: int

    def by_row(self, values_BN: Tensor) -> Tensor:
        """Return each row's values (B, N) of the stack where its virtual positions are, 1 at tokens: shape (X,)."""
        at_X = torch.arange(len(self.source_X), device=self.source_X.device)
        row_X = torch.searchsorted(self.starts[1:].long().contiguous(), at_X, right=True)
        place_X = self.source_X - len(self.place_T)
        own_X = values_BN[row_X.clamp(max=len(values_BN) - 1), place_X.clamp(min=0)]
        return torch.where(place_X >= 0, own_X, torch.ones_like(own_X))

    def with_virtual(self, values_T: Tensor, virtual_N: Tensor) -> Tensor:
        """Return values (X, ...) of tokens (T, ...) and of the stack (N, ...)."""
        return torch.cat([values_T, virtual_N]).index_select(0, self.source_X)


def grow(starts: Tensor, num_tokens: int, max_length: int, rows: Sequence[Sequence[int]]) -> Grown:
    """Return where everything lies when the virtual positions ``rows`` stand in front of packed rows.

    Nothing waits for the device: what is known of virtual positions is known on the host.

    Args:
        starts: where each row starts and the last one ends, (B + 1,).
        num_tokens: T.
        max_length: of the longest row.
        rows: places in the stack by row; rows behind the last have none.
    """
    device, num_rows = starts.device, starts.shape[0] - 1
    counts = [len(row) for row in rows] + [0] * (num_rows - len(rows))
    before = torch.tensor([0, *accumulate(counts)])  # of all rows above, (B + 1,)
    total = int(before[-1])
    row_N = torch.arange(num_rows).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    offset_N = torch.arange(total) - before[row_N]
    before, row_N, offset_N = (one.to(device, non_blocking=True) for one in (before, row_N, offset_N))
    grown_starts = starts.long() + before
    tokens_T = torch.arange(num_tokens, device=device)
    row_T = torch.searchsorted(starts[1:].long().contiguous(), tokens_T, right=True)
    place_T = tokens_T + before[row_T + 1]
    places_N = grown_starts[row_N] + offset_N
    stack_N = int64([place for row in rows for place in row]).to(device, non_blocking=True)
    source_X = torch.empty(num_tokens + total, dtype=torch.int64, device=device)
    source_X[place_T] = tokens_T
    source_X[places_N] = stack_N + num_tokens
    return Grown(place_T, source_X, grown_starts.to(torch.int32), max_length + max(counts, default=0))


def with_tokens(
    batch: Batch, rows: Sequence[Sequence[int]], *, vocabulary: int, perturb: Tensor | None = None
) -> tuple[Batch, Tensor | None, Tensor]:
    """Return ``batch`` with virtual tokens in front of each row, ``perturb`` likewise, and where real tokens lie, (T,).

    Targets and ids stay behind: nobody reads them of the new batch. Places are flat ones of the new layout.

    Args:
        batch: padded or packed.
        rows: places in the stack by row.
        vocabulary: V; place n becomes the token V + n.
        perturb: added to the word embeddings of real tokens, of the batch's shape and the width.
    """
    layout, device = batch.layout, batch.tokens.device
    grown = grow(layout.cumulative(), layout.num_tokens, layout.max_length, rows)
    count = 1 + max((place for row in rows for place in row), default=-1)
    virtual_N = vocabulary + torch.arange(count, device=device)
    lengths_B = layout.lengths_B + torch.tensor([len(row) for row in rows]).to(device, non_blocking=True)
    wider = Layout(
        lengths_B=lengths_B,
        starts_B=grown.starts[:-1].long(),
        index_T=None,
        num_tokens=grown.source_X.shape[0],
        max_length=grown.max_length,
        width=None,
    )
    if not layout.is_packed:
        wider = replace(
            wider,
            width=grown.max_length,
            index_T=wider.row_T() * grown.max_length + wider.position_T(),
        )

    def laid(values: Tensor, virtual_N: Tensor) -> Tensor:
        flat_X = grown.with_virtual(flat(values, layout), virtual_N.to(values.dtype))
        return flat_X if wider.index_T is None else on_grid(flat_X, wider)

    segments, reads_M = batch.segments, batch.reads_M
    new = replace(
        batch,
        tokens=laid(batch.tokens, virtual_N),
        segments=None if segments is None else laid(segments, torch.zeros_like(virtual_N)),
        layout=wider,
        targets={},
        digests=(),
        reads_M=None if reads_M is None else grown.place_T[reads_M],
    )
    if perturb is not None:
        perturb = laid(perturb, perturb.new_zeros(count, perturb.shape[-1]))
    return new, perturb, grown.place_T


def flat(values: Tensor, layout: Layout) -> Tensor:
    """Return values (T, ...) of the real tokens of a padded or packed batch."""
    return values if layout.index_T is None else values.flatten(0, 1).index_select(0, layout.index_T)


def on_grid(values_T: Tensor, layout: Layout) -> Tensor:
    """Return values (B, L, ...) of a padded batch, zero where there is padding."""
    assert layout.width is not None, "only padded batches have a grid"
    assert layout.index_T is not None, "so have those"
    shape = (layout.num_rows * layout.width, *values_T.shape[1:])
    grid = values_T.new_zeros(shape).index_copy(0, layout.index_T, values_T)
    return grid.unflatten(0, (layout.num_rows, layout.width))


def positions_of(
    name: str, routing: Routing | None, leading: Sequence[int], device: torch.device
) -> Tensor | None:
    """Return the flat positions of an input of dimensions ``leading`` that adapter ``name`` acts on; None for all."""
    if routing is None or name not in routing.named:
        return None
    return routing.positions(leading, name, device)


@contextmanager
def rerouted(parts: Iterable[nn.Module], counts: Sequence[int]) -> Generator[None]:
    """Let modules that are routed know within the block that rows have grown by ``counts`` tokens."""
    sites = [part for part in parts if isinstance(part, Routable)]
    routing = next((site.routing for site in sites if site.routing is not None), None)
    if routing is None or not routing.lengths:
        context = nullcontext()
    else:
        lengths = tuple(own + more for own, more in zip(routing.lengths, counts, strict=True))
        context = routed(sites, Routing(routing.groups, routing.rows, lengths, routing.is_packed))
    with context:
        yield
