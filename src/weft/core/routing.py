"""One batch in which every row passes through its own adapters.

A ``Routing`` says which row takes which adapters. Within ``routed`` the modules that hold adapters compute by it; how,
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

Routes = Mapping[str, tuple[str, ...]]
"""By task the adapters that its rows pass through, besides those that act on all rows."""

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
    """Which adapters each row of one batch passes through.

    Attributes:
        groups: adapters that rows take together, by name; a module that lacks one gives its rows the base's output.
            Adapters that are not named here act on every row, as they do without routing.
        rows: for each row of the batch a place in ``groups``, or ``NONE`` for the base alone. Batches whose rows
            are in the order of their groups are faster.
        lengths: tokens of each row; none where one row stands for all.
        is_packed: whether tokens lie end to end.
    """

    groups: tuple[tuple[str, ...], ...]
    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    is_packed: bool
    _made: dict[Hashable, Any] = field(default_factory=dict[Hashable, Any], compare=False, repr=False)

    @staticmethod
    def of(groups: Sequence[str | tuple[str, ...]], rows: Sequence[int], layout: Layout) -> Routing:
        """Return the routing of a batch with ``layout``; call it before the batch goes to its device.

        Args:
            groups: each one adapter, or several that act together.
            rows: a place in ``groups`` for each row.
            layout: of the batch.

        Raises:
            StrategyError: a group twice, another number of rows than the layout's, or no such group.
        """
        known = _groups(groups)
        if len(set(known)) != len(known):
            words = ", ".join(" + ".join(group) for group in known)
            raise StrategyError(f"adapters: must be named once each, but are {words}.")
        if len(rows) != layout.num_rows:
            raise StrategyError(
                f"rows: must be one for each of {layout.num_rows} rows, but there are {len(rows)}."
            )
        wrong = [row for row in rows if not NONE <= row < len(known)]
        if wrong:
            raise StrategyError(
                f"rows: must be {NONE} or a place among {len(known)} adapters, but one is {wrong[0]}."
            )
        return Routing(known, tuple(rows), tuple(layout.lengths_B.tolist()), layout.is_packed)

    @staticmethod
    def uniform(groups: Sequence[str | tuple[str, ...]], row: int) -> Routing:
        """Return the routing of any number of rows of any length that all take the group at ``row``."""
        return Routing(_groups(groups), (row,), (), is_packed=False)

    def at(self, positions_M: Tensor) -> Routing:
        """Return the routing of the tokens at flat ``positions_M`` alone, ascending, laid end to end.

        Rows stay in it of which no token does: their adapters get the gradients that they get otherwise, if only zeros.
        """
        if not self.lengths:
            return self
        ends = torch.tensor([0, *accumulate(self.lengths)])
        counts = torch.searchsorted(positions_M.cpu(), ends).diff().tolist()
        return Routing(self.groups, self.rows, tuple(counts), is_packed=True)

    @cached_property
    def adapters(self) -> tuple[str, ...]:
        """The adapters of all groups."""
        return tuple(dict.fromkeys(name for group in self.groups for name in group))

    @cached_property
    def present(self) -> tuple[str, ...]:
        """The adapters that some row takes, in the order of ``adapters``."""
        places = sorted(set(self.rows) - {NONE})
        return tuple(dict.fromkeys(name for place in places for name in self.groups[place]))

    @cached_property
    def named(self) -> frozenset[str]:
        """``adapters`` as a set."""
        return frozenset(self.adapters)

    def once(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """Return what ``make`` gives, which is called once for each ``key``: most modules of a trunk ask the same."""
        if key not in self._made:
            self._made[key] = make()
        return cast(_Made, self._made[key])

    def lanes(self, names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """Return ``names`` in lanes of which no row takes two: one where each row takes at most one of them."""
        return self.once(("lanes", names), lambda: self._lanes(names))

    def _lanes(self, names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        lanes: list[list[str]] = []
        for name in names:
            mates = {other for group in self.groups if name in group for other in group}
            lane = next((lane for lane in lanes if mates.isdisjoint(lane)), None)
            if lane is None:
                lanes.append([name])
            else:
                lane.append(name)
        return tuple(map(tuple, lanes))

    def index_N(self, leading: Sequence[int], names: Sequence[str], device: torch.device) -> Tensor:
        """Return each position's place in ``names``, ``NONE`` where it has none: int64, shape (N,).

        Args:
            leading: the dimensions of a module's input but the last.
            names: adapters of this module, in an order of its own, all of one lane.
            device: where the index is wanted.

        Raises:
            StrategyError: an input of this shape holds neither the batch's rows nor its tokens.
        """
        places = self._places(names)
        sizes = self._sizes(tuple(leading))
        index_N = torch.tensor([*places, NONE]).repeat_interleave(torch.tensor(sizes))
        return index_N.to(device, non_blocking=True)

    def positions(self, leading: Sequence[int], name: str, device: torch.device) -> Tensor:
        """Return the flat positions that adapter ``name`` acts on, int64: made once for all modules of one shape."""

        def make() -> Tensor:
            index_N = self.index_N(leading, [name], torch.device("cpu"))
            return (index_N == 0).nonzero()[:, 0].to(device, non_blocking=True)

        return self.once(("positions", tuple(leading), name, device), make)

    def rows_N(self, leading: Sequence[int], device: torch.device) -> Tensor:
        """Return each position's row, B where it is padding: int64, shape (N,), made once for all modules of one shape."""

        def make() -> Tensor:
            *sizes, rest = self._sizes(tuple(leading))
            own = [min(pair) for pair in zip(sizes, self.lengths, strict=True)] if self.lengths else sizes
            none = len(sizes)
            owners = [owner for row in range(none) for owner in (row, none)]
            spans = [span for size, real in zip(sizes, own, strict=True) for span in (real, size - real)]
            found_N = torch.tensor([*owners, none]).repeat_interleave(torch.tensor([*spans, rest]))
            return found_N.to(device, non_blocking=True)

        return self.once(("rows", tuple(leading), device), make)

    def runs(self, leading: Sequence[int], names: Sequence[str]) -> tuple[Block, ...]:
        """Return blocks of one adapter each: the positions of neighbouring rows that take the same one."""
        runs: list[Block] = []
        stop = 0
        for place, size in zip(self._places(names), self._sizes(tuple(leading)), strict=False):
            start, stop = stop, stop + size
            if place == NONE or not size:
                continue
            if runs and (runs[-1].stop, runs[-1].first) == (start, place):
                start = runs.pop().start
            runs.append(Block(start, stop, place, place + 1))
        return tuple(runs)

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
        table = [next((local[name] for name in group if name in local), NONE) for group in self.groups]
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


def _groups(groups: Sequence[str | tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple((group,) if isinstance(group, str) else group for group in groups)


def groups_in(routes: Routes) -> tuple[tuple[str, ...], ...]:
    """Return the groups of adapters in ``routes`` in the order in which a batch's rows should have them."""
    return tuple(sorted(set(routes.values())))


def routes_of(adapters: Iterable[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return the routes that those to single adapters, each by task, come to."""
    routes: dict[str, tuple[str, ...]] = {}
    for own in adapters:
        for task, route in own.items():
            routes[task] = (*routes.get(task, ()), route)
    return routes


def routing_of(batch: Batch, routes: Routes) -> Routing:
    """Return the routing of ``batch``: each row takes the adapters of the tasks that ask something of it.

    Args:
        batch: as ``make_batch`` made it with the same ``routes``, so that no two groups meet in a row.
        routes: adapters by task; rows of other tasks take none.

    Raises:
        StrategyError: a row is asked by tasks with different adapters.
    """
    groups = groups_in(routes)
    rows: list[int | None] = [None] * batch.layout.num_rows
    for task, target in batch.targets.items():
        place = groups.index(routes[task]) if task in routes else NONE
        for row in target.rows_R.tolist():
            if rows[row] not in (None, place):
                raise StrategyError(
                    f"{batch.ids[row]}: a row must take the adapters of one task, but tasks with different ones share it. "
                    f"Keep their rows apart."
                )
            rows[row] = place
    return Routing.of(groups, [NONE if row is None else row for row in rows], batch.layout)


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
    with standing(sites, routing):
        yield


@contextmanager
def standing(sites: Sequence[Routable], routing: Routing | None) -> Generator[None]:
    """Let ``sites`` compute by ``routing`` within the block, whether or not they hold what it names."""
    before = [site.routing for site in sites]
    try:
        for site in sites:
            vars(site)["routing"] = routing  # nn.Module's own way looks through all its tables first
        yield
    finally:
        for site, old in zip(sites, before, strict=True):
            vars(site)["routing"] = old


@contextmanager
def with_rows(modules: Iterable[nn.Module], lengths: Sequence[int]) -> Generator[None]:
    """Let modules that compute alike for all rows, routed or not, know within the block which tokens are one row's.

    Args:
        modules: that are given rows of ``lengths`` tokens each on a grid.
        lengths: tokens of each row.
    """
    sites = [part for part in modules if isinstance(part, Routable)]
    routing = next((site.routing for site in sites if site.routing is not None), None)
    groups, place = ((), NONE) if routing is None else (routing.groups, routing.rows[0])
    with standing(sites, Routing(groups, (place,) * len(lengths), tuple(lengths), is_packed=False)):
        yield


@contextmanager
def routed_as(modules: nn.Module, rows: Sequence[int], *, width: int) -> Generator[None]:
    """Let modules that are routed compute within the block for other rows, each with the adapters of one of the batch's.

    Args:
        modules: a module with all its parts.
        rows: for each row of the block the row of the batch whose adapters it takes.
        width: of the grid that the rows of the block stand on.
    """
    sites = [part for part in modules.modules() if isinstance(part, Routable)]
    routing = next((site.routing for site in sites if site.routing is not None), None)
    if routing is None or not routing.lengths:
        yield
        return
    places = tuple(routing.rows[row] for row in rows)
    other = Routing(routing.groups, places, (width,) * len(places), is_packed=False)
    try:
        for site in sites:
            vars(site)["routing"] = other
        yield
    finally:
        for site in sites:
            vars(site)["routing"] = routing
