"""One batch in which every row passes through its own adapter.

A ``Routing`` says which row takes which adapter. Within ``routed`` the modules that hold adapters compute by it; how,
is theirs. They find their tokens by the shape of what they are given: states of tokens, packed or on a padded grid of
any width, or one state a row (a pooler).

Legend: B rows, N positions of one module's input, whatever its leading dimensions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from weft.core.batch import Batch
from weft.core.layout import Layout
from weft.errors import StrategyError, nearest

NONE = -1  # the adapter of a row that has none
BLOCKS = (64, 128, 256, 512, 1024)
"""Positions of a block that are worth a try."""

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring positions and the range of adapters that all of theirs lie in; ends are exclusive."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Routing:
    """Which adapter each row of one batch passes through.

    Attributes:
        adapters: names; a module that lacks one gives its rows the base's output. Adapters that are not named here
            act on every row, as they do without routing.
        rows: for each row of the batch a place in ``adapters``, or ``NONE`` for the base alone. Batches whose rows
            are in the order of their adapters are faster.
        lengths: tokens of each row; none where one row stands for all.
        is_packed: whether tokens lie end to end.
    """

    adapters: tuple[str, ...]
    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    is_packed: bool
    _made: dict[Hashable, Any] = field(default_factory=dict[Hashable, Any], compare=False, repr=False)

    @staticmethod
    def of(adapters: Sequence[str], rows: Sequence[int], layout: Layout) -> Routing:
        """Return the routing of a batch with ``layout``; call it before the batch goes to its device.

        Raises:
            StrategyError: an adapter twice, another number of rows than the layout's, or no such adapter.
        """
        if len(set(adapters)) != len(adapters):
            raise StrategyError(f"adapters: must be named once each, but are {', '.join(adapters)}.")
        if len(rows) != layout.num_rows:
            raise StrategyError(
                f"rows: must be one for each of {layout.num_rows} rows, but there are {len(rows)}."
            )
        wrong = [row for row in rows if not NONE <= row < len(adapters)]
        if wrong:
            raise StrategyError(
                f"rows: must be {NONE} or a place among {len(adapters)} adapters, but one is {wrong[0]}."
            )
        return Routing(tuple(adapters), tuple(rows), tuple(layout.lengths_B.tolist()), layout.is_packed)

    @staticmethod
    def uniform(adapters: Sequence[str], row: int) -> Routing:
        """Return the routing of any number of rows of any length that all take the adapter at ``row``."""
        return Routing(tuple(adapters), (row,), (), is_packed=False)

    @cached_property
    def present(self) -> tuple[str, ...]:
        """The adapters that some row takes, in the order of ``adapters``."""
        return tuple(self.adapters[place] for place in sorted(set(self.rows) - {NONE}))

    @cached_property
    def named(self) -> frozenset[str]:
        """``adapters`` as a set."""
        return frozenset(self.adapters)

    def once(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """Return what ``make`` gives, which is called once for each ``key``: most modules of a trunk ask the same."""
        if key not in self._made:
            self._made[key] = make()
        return cast(_Made, self._made[key])

    def index_N(self, leading: Sequence[int], names: Sequence[str], device: torch.device) -> Tensor:
        """Return each position's place in ``names``, ``NONE`` where it has none: int64, shape (N,).

        Args:
            leading: the dimensions of a module's input but the last.
            names: adapters of this module, in an order of its own.
            device: where the index is wanted.

        Raises:
            StrategyError: an input of this shape holds neither the batch's rows nor its tokens.
        """
        places = self._places(names)
        sizes = self._sizes(tuple(leading))
        index_N = torch.tensor([*places, NONE]).repeat_interleave(torch.tensor(sizes))
        return index_N.to(device, non_blocking=True)

    def blocks(self, leading: Sequence[int], names: Sequence[str], *, overhead: int) -> tuple[Block, ...]:
        """Return a cut of the positions into blocks such that little is multiplied in vain.

        A block is computed densely: each of its positions with each adapter in its range. ``overhead`` is what one
        block more costs, in products of one position with one adapter. Blocks without any adapter are left out.
        """
        sizes = self._sizes(tuple(leading))
        ends = [*accumulate(sizes)]
        places = self._places(names)
        total = ends[-1]
        cuts = [
            _cut(places, ends, size=size, total=total, count=len(names)) for size in (*BLOCKS, max(total, 1))
        ]
        return min(cuts, key=lambda cut: sum((b.stop - b.start) * (b.last - b.first) + overhead for b in cut))

    def _places(self, names: Sequence[str]) -> list[int]:
        local = {name: place for place, name in enumerate(names)}
        table = [local.get(name, NONE) for name in self.adapters]
        return [NONE if row == NONE else table[row] for row in self.rows]

    def _sizes(self, leading: tuple[int, ...]) -> list[int]:
        """Return how many neighbouring positions belong to each row, and how many after them to none."""
        num_rows, total = len(self.rows), 1
        for size in leading:
            total *= size
        if not self.lengths:
            return [total, 0]
        if leading and leading[0] == num_rows:
            return [total // num_rows] * num_rows + [0]
        if leading == (1,):
            # A stock model pools what it takes for one row, the packed batch; nobody reads that.
            return [0] * num_rows + [1]
        num_tokens = sum(self.lengths)
        if self.is_packed and total >= num_tokens:
            return [*self.lengths, total - num_tokens]
        raise StrategyError(
            f"routing: a module with adapters must be given the states of {num_rows} rows or {num_tokens} tokens, but got "
            f"{leading}. Leave the adapters off this module."
        )


def names_in(routes: Mapping[str, str]) -> tuple[str, ...]:
    """Return the adapters of ``routes`` in the order in which a batch's rows should have them."""
    return tuple(sorted(set(routes.values())))


def routing_of(batch: Batch, routes: Mapping[str, str]) -> Routing:
    """Return the routing of ``batch``: each row takes the adapter of the tasks that ask something of it.

    Args:
        batch: as ``make_batch`` made it with the same ``routes``, so that no two adapters meet in a row.
        routes: adapter by task; rows of other tasks take none.

    Raises:
        StrategyError: a row is asked by tasks with different adapters.
    """
    adapters = names_in(routes)
    rows: list[int | None] = [None] * batch.layout.num_rows
    for task, target in batch.targets.items():
        place = adapters.index(routes[task]) if task in routes else NONE
        for row in target.rows_R.tolist():
            if rows[row] not in (None, place):
                raise StrategyError(
                    f"{batch.ids[row]}: a row must take one adapter, but tasks with different ones share it. "
                    f"Keep their rows apart."
                )
            rows[row] = place
    return Routing.of(adapters, [NONE if row is None else row for row in rows], batch.layout)


def _cut(
    places: Sequence[int], ends: Sequence[int], *, size: int, total: int, count: int
) -> tuple[Block, ...]:
    """Return blocks of ``size`` positions each with the range of adapters found there.

    Ranges grow to powers of two: each new shape of a bf16 product makes oneDNN build and keep new primitives.
    """
    blocks: list[Block] = []
    row = 0
    for start in range(0, total, size):
        stop = min(total, start + size)
        while ends[row] <= start:
            row += 1
        last_row = bisect_left(ends, stop)
        found = [place for place in places[row : last_row + 1] if place != NONE]
        if not found:
            continue
        first, last = min(found), max(found) + 1
        width = min(count, 1 << (last - first - 1).bit_length())
        first = min(first, count - width)
        blocks.append(Block(start, stop, first, first + width))
    return tuple(blocks)


class Routable(nn.Module):
    """A module that holds adapters by name and heeds ``routing`` where it is set."""

    routing: Routing | None = None

    @property
    def adapter_names(self) -> Iterable[str]:
        """The adapters that this module holds."""
        raise NotImplementedError


@contextmanager
def routed(modules: nn.Module | Iterable[nn.Module], routing: Routing) -> Generator[None]:
    """Let all modules with adapters in ``modules`` compute by ``routing`` within the block.

    A backward pass that recomputes (activation checkpointing) belongs into the block too. Heads are no part of it:
    give the trunk, for the rows that a head reads are not the batch's.

    Args:
        modules: a module with all its parts, or the modules with adapters themselves, found once for many batches.
        routing: of the batch that passes.

    Raises:
        StrategyError: no module holds an adapter that ``routing`` names.
    """
    parts = modules.modules() if isinstance(modules, nn.Module) else modules
    sites = [part for part in parts if isinstance(part, Routable)]
    held = {name for site in sites for name in site.adapter_names}
    missing = [name for name in routing.adapters if name not in held]
    if missing:
        raise StrategyError(
            f"{missing[0]}: must be an adapter of this network, but is not. {nearest(missing[0], held)}"
        )
    before = [site.routing for site in sites]
    try:
        for site in sites:
            vars(site)["routing"] = routing  # nn.Module's own way looks through all its tables first
        yield
    finally:
        for site, old in zip(sites, before, strict=True):
            vars(site)["routing"] = old
