"""Which rows make up which step of an epoch: a pure function of the mixture, the epoch and the rows' texts.

Legend: R rows of a task, N draws of an epoch or of one task in it, S steps, U runs of equal texts in a window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.core.example import Encoded
from weft.core.seeds import fold
from weft.data.mixture import Mixture, mixed
from weft.recipe.spec import MixtureKind

Ints = NDArray[np.int64]

LENGTH_NOISE = 0.1  # share of a length, at most, that chance adds before rows are sorted
WINDOW_STEPS = 16  # rows of so many steps are sorted by length together: little padding, order still random


class Draw(NamedTuple):
    """One row of one task in a step."""

    task: str
    row: int


Step = tuple[Draw, ...]


@dataclass(frozen=True, slots=True)
class Texts:
    """What grouping needs to know of one task's rows.

    Attributes:
        lengths_R: tokens of each row, int64.
        keys_R: equal for equal tokens and segments, whatever the task, uint64.
    """

    lengths_R: Ints
    keys_R: NDArray[np.uint64]

    @staticmethod
    def of(rows: Sequence[Encoded]) -> Texts:
        """Return lengths and keys of encoded rows."""
        return Texts(
            lengths_R=np.fromiter((row.num_tokens for row in rows), np.int64, len(rows)),
            keys_R=np.fromiter((text_key(row) for row in rows), np.uint64, len(rows)),
        )


def text_key(row: Encoded) -> int:
    """Return 64 bits of a digest over tokens and segments: rows with equal keys share a trunk pass."""
    return row.identity


@dataclass(frozen=True)
class EpochOrder:
    """The steps of every epoch of a stage.

    The draws of ``window`` steps are put in random order, or sorted by length where batches are padded, and cut into
    steps of ``batch`` draws; the steps of the whole epoch are shuffled, a step that is short comes last. Rows of one
    text in a window come into one step, where they cost one trunk pass, as far as full steps allow it; but a row of a
    stratum that is drawn again and again is spread over the steps, or a step would hold little else.

    Args:
        mixture: the draws.
        texts: by task, for every drawn task.
        batch: examples in a full step.
        homogeneous: whether a step holds rows of one task only. The rows of each task are then cut by themselves, so
            each task may have a short step, anywhere.
        window: in steps.
        by_length: whether rows of like length meet in a step: for trunks that compute padding.
    """

    mixture: Mixture
    texts: Mapping[str, Texts]
    batch: int
    homogeneous: bool = False
    window: int = WINDOW_STEPS
    by_length: bool = True

    @property
    def epoch_size(self) -> int:
        """Draws in an epoch."""
        return self.mixture.epoch_size

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch."""
        sizes = self.mixture.quotas().values() if self.homogeneous else (self.epoch_size,)
        return sum(math.ceil(size / self.batch) for size in sizes)

    def steps(self, epoch: int) -> list[Step]:
        """Return the steps of ``epoch`` in order, each its draws."""
        drawn = self._drawn(epoch)
        if not self.homogeneous:
            return self._steps(drawn, epoch, "")
        queues = [
            self._steps(drawn.only(index), epoch, task) for index, task in enumerate(self.mixture.tasks)
        ]
        if self.mixture.kind is MixtureKind.ROUND_ROBIN:
            longest = max(len(queue) for queue in queues)
            return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
        whose = np.repeat(np.arange(len(queues)), [len(queue) for queue in queues])
        turns = self._random(epoch, "tasks").permutation(whose)
        rest = [iter(queue) for queue in queues]
        return [next(rest[turn]) for turn in turns]

    @cached_property
    def _named(self) -> list[Draw]:
        """Every row of every task: made once, for an epoch of new objects keeps the garbage collector busy."""
        return [Draw(name, row) for name in self.mixture.tasks for row in range(len(self.mixture.keys[name]))]

    def _drawn(self, epoch: int) -> _Drawn:
        names = self.mixture.tasks
        tasks_N = self.mixture.draws(epoch)
        numbers_N = np.empty_like(tasks_N)
        first = 0
        for index, name in enumerate(names):
            numbers_N[tasks_N == index] = self.mixture.rows(name, epoch) + first
            first += len(self.mixture.keys[name])
        lengths = np.concatenate([self.texts[name].lengths_R for name in names])
        keys_N = np.concatenate([self.texts[name].keys_R for name in names])[numbers_N]
        for index in (at for at, name in enumerate(names) if name in self.mixture.strata):
            own_N = tasks_N == index
            times = repeats(numbers_N[own_N]).astype(np.uint64)
            keys_N[own_N] = np.where(times > 0, mixed(keys_N[own_N] ^ times), keys_N[own_N])
        return _Drawn(tasks_N, numbers_N, lengths[numbers_N], keys_N)

    def _steps(self, drawn: _Drawn, epoch: int, task: str) -> list[Step]:
        """Return ``drawn`` cut into steps, the full ones in random order, then the short one."""
        order_N = self._sorted(drawn, epoch)
        sizes = self._sizes(len(order_N), epoch, task)
        ends_S = np.cumsum(sizes)
        self._keep_texts(order_N, drawn.keys_N[order_N], ends_S)
        draws = list(map(self._named.__getitem__, drawn.numbers_N[order_N].tolist()))
        ends = ends_S.tolist()
        steps = [tuple(draws[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
        full = [step for step in steps if len(step) == self.batch]
        turns = self._random(epoch, "steps", task).permutation(len(full)).tolist()
        return [full[turn] for turn in turns] + [step for step in steps if len(step) < self.batch]

    def _sorted(self, drawn: _Drawn, epoch: int) -> Ints:
        """Return the positions of draws, those of each window by chance, or by length, about; equal texts together.

        Lengths are taken a little too long by chance, anew in every epoch: otherwise rows that a window holds again
        would meet the same rows in their step again, and small data, one window, would have the same steps for ever.
        """
        salt = np.uint64(fold(self.mixture.seed, self.mixture.stage, "lengths", epoch))
        chance_N = mixed(drawn.keys_N ^ salt) / 2.0**64
        if self.by_length:
            chance_N = drawn.lengths_N * (1 + LENGTH_NOISE * chance_N)
        windows_N = np.arange(len(chance_N)) // (self.window * self.batch)
        return np.lexsort((drawn.keys_N, chance_N, windows_N))

    def _sizes(self, num_draws: int, epoch: int, task: str) -> list[int]:
        """Return the draws of each step before the full ones are shuffled; one of the last window may be short."""
        sizes = [self.batch] * (num_draws // self.batch)
        if short := num_draws % self.batch:
            number = num_draws // (self.window * self.batch)
            first = number * self.window
            # Anywhere in the order of lengths: otherwise the longest rows would always be the ones that count most.
            place = self._random(epoch, "short", task, number).integers(len(sizes) - first + 1)
            sizes.insert(first + int(place), short)
        return sizes

    def _keep_texts(self, order_N: Ints, keys_N: NDArray[np.uint64], ends_S: Ints) -> None:
        """Change the order within windows so that steps that end at ``ends_S`` part no text that may stay whole.

        Args:
            order_N: changed in place; the draws of one text lie together in each window.
            keys_N: in this order.
            ends_S: of all steps.
        """
        width = self.window * self.batch
        inner_S = ends_S[ends_S % width > 0]
        inner_S = inner_S[inner_S < len(keys_N)]
        for number in np.unique(inner_S[keys_N[inner_S] == keys_N[inner_S - 1]] // width).tolist():
            window = slice(number * width, min((number + 1) * width, len(keys_N)))
            starts_U = np.flatnonzero(np.diff(keys_N[window], prepend=~keys_N[window.start]))
            ends = ends_S[(ends_S > window.start) & (ends_S <= window.stop)]
            units = [unit.tolist() for unit in np.split(order_N[window], starts_U[1:])]
            order_N[window] = _filled(units, np.diff(ends, prepend=window.start).tolist())

    def _random(self, epoch: int, *keys: int | str) -> np.random.Generator:
        return np.random.default_rng(fold(self.mixture.seed, self.mixture.stage, "order", epoch, *keys))


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The draws of an epoch, or of one task in it, in drawing order.

    Attributes:
        tasks_N: index of each draw's task.
        numbers_N: its row, counted on through all tasks.
        lengths_N: the row's tokens.
        keys_N: the row's text.
    """

    tasks_N: Ints
    numbers_N: Ints
    lengths_N: Ints
    keys_N: NDArray[np.uint64]

    def only(self, task: int) -> _Drawn:
        """Return the draws of one task."""
        own = self.tasks_N == task
        return _Drawn(self.tasks_N[own], self.numbers_N[own], self.lengths_N[own], self.keys_N[own])


def repeats(numbers_N: Ints) -> Ints:
    """Return how often each number occurs before its place, shape (N,).

    Example:
        >>> repeats(np.array([7, 3, 7, 7])).tolist()
        [0, 0, 1, 2]
    """
    order_N = np.argsort(numbers_N, kind="stable")
    places_N = np.arange(len(numbers_N))
    is_first_N = np.diff(numbers_N[order_N], prepend=-1) != 0
    found_N = np.empty_like(numbers_N)
    found_N[order_N] = places_N - np.maximum.accumulate(np.where(is_first_N, places_N, 0))
    return found_N


def _filled(units: list[list[int]], sizes: Sequence[int]) -> list[int]:
    """Return the members of ``units`` in an order that, cut into steps of ``sizes``, parts few units.

    Steps are filled with units in order. One that no longer fits waits for the next step while later, smaller ones
    fill this one; it is parted only when nothing smaller is left.
    """
    order: list[int] = []
    for size in sizes:
        room = size
        passed: list[list[int]] = []
        seen = 0
        for unit in units:
            if not room:
                break
            seen += 1
            if len(unit) <= room:
                order += unit
                room -= len(unit)
            else:
                passed.append(unit)
        units = passed + units[seen:]
        if room:
            order += units[0][:room]
            units[0] = units[0][room:]
    return order
