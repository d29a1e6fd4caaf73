"""Which rows make up which step of an epoch: a pure function of the mixture, the epoch and the rows' texts.

Legend: R rows of a task, N draws of an epoch, W draws of a window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
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
            lengths_R=np.fromiter((len(row.tokens) for row in rows), np.int64, len(rows)),
            keys_R=np.fromiter((text_key(row) for row in rows), np.uint64, len(rows)),
        )


def text_key(row: Encoded) -> int:
    """Return 64 bits of a digest over tokens and segments: rows with equal keys share a trunk pass."""
    return row.key


@dataclass(frozen=True)
class EpochOrder:
    """The steps of every epoch of a stage.

    The draws of ``window`` steps are put in random order, or sorted by length where batches are padded, and cut into
    steps of ``batch`` draws; the steps of the whole epoch are shuffled, a step that is short comes last. Rows of one
    text in a window come into one step, where they cost one trunk pass, as far as full steps allow it.

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
        draws = self._draws(epoch)
        if not self.homogeneous:
            pieces = list(self._pieces(draws, epoch, ""))
            return self._shuffled(pieces, epoch)
        queues = [
            self._shuffled(
                list(self._pieces([draw for draw in draws if draw.task == task], epoch, task)), epoch, task
            )
            for task in self.mixture.tasks
        ]
        if self.mixture.kind is MixtureKind.ROUND_ROBIN:
            longest = max(len(queue) for queue in queues)
            return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
        whose = np.repeat(np.arange(len(queues)), [len(queue) for queue in queues])
        turns = self._random(epoch, "tasks").permutation(whose)
        rest = [iter(queue) for queue in queues]
        return [next(rest[turn]) for turn in turns]

    def _draws(self, epoch: int) -> list[Draw]:
        rows = {task: iter(self.mixture.rows(task, epoch).tolist()) for task in self.mixture.tasks}
        names = (self.mixture.tasks[index] for index in self.mixture.draws(epoch))
        return [Draw(name, next(rows[name])) for name in names]

    def _pieces(self, draws: Sequence[Draw], epoch: int, task: str) -> Iterator[Step]:
        """Yield ``draws`` cut into steps, window by window; one window may hold a short step."""
        for number, start in enumerate(range(0, len(draws), self.window * self.batch)):
            window = draws[start : start + self.window * self.batch]
            short = len(window) % self.batch
            sizes = [self.batch] * (len(window) // self.batch)
            if short:
                # Anywhere in the order of lengths: otherwise the longest rows would always be the ones that count most.
                sizes.insert(int(self._random(epoch, "short", task, number).integers(len(sizes) + 1)), short)
            yield from _cut(self._same_texts(window, epoch), sizes)

    def _same_texts(self, window: Sequence[Draw], epoch: int) -> list[list[Draw]]:
        """Return the draws of a window by chance, or by length, about; those of one text together.

        Lengths are taken a little too long by chance, anew in every epoch: otherwise rows that a window holds again
        would meet the same rows in their step again, and small data, one window, would have the same steps for ever.
        """
        keys_W = np.array([self.texts[draw.task].keys_R[draw.row] for draw in window])
        salt = np.uint64(fold(self.mixture.seed, self.mixture.stage, "lengths", epoch))
        chance_W = mixed(keys_W ^ salt) / 2.0**64
        if self.by_length:
            lengths_W = np.array([self.texts[draw.task].lengths_R[draw.row] for draw in window])
            chance_W = lengths_W * (1 + LENGTH_NOISE * chance_W)
        order = np.lexsort((keys_W, chance_W)).tolist()
        return [[window[i] for i in group] for _, group in groupby(order, key=lambda i: keys_W[i])]

    def _shuffled(self, steps: list[Step], epoch: int, task: str = "") -> list[Step]:
        """Return the full steps in random order, then the short one."""
        full = [step for step in steps if len(step) == self.batch]
        order = self._random(epoch, "steps", task).permutation(len(full))
        return [full[index] for index in order] + [step for step in steps if len(step) < self.batch]

    def _random(self, epoch: int, *keys: int | str) -> np.random.Generator:
        return np.random.default_rng(fold(self.mixture.seed, self.mixture.stage, "order", epoch, *keys))


def _cut(units: Sequence[Sequence[Draw]], sizes: Sequence[int]) -> Iterator[Step]:
    """Yield steps of exactly ``sizes`` draws, filled with ``units`` in order.

    A unit that no longer fits waits for the next step while later, smaller ones fill this one; it is split only when
    nothing smaller is left.
    """
    waiting = [list(unit) for unit in units]
    for size in sizes:
        step: list[Draw] = []
        while len(step) < size:
            room = size - len(step)
            index = next((i for i, unit in enumerate(waiting) if len(unit) <= room), None)
            if index is not None:
                step += waiting.pop(index)
            else:
                step += waiting[0][:room]
                waiting[0] = waiting[0][room:]
        yield tuple(step)
