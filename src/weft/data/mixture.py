"""Which task is drawn when, and which of its rows: pure functions of the seed and the epoch, without any state.

Legend: N draws of an epoch, Q draws of one task in an epoch, R training rows of one task or of one stratum of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from weft.core.seeds import fold
from weft.errors import DataError, RecipeError
from weft.recipe.spec import MixtureKind, MixtureSpec

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]


def shares(spec: MixtureSpec, sizes: Mapping[str, int], rates: Mapping[str, float]) -> dict[str, float]:
    """Return each task's share of the draws; the shares sum to 1 and a rate of 0 gives the share 0.

    Temperature is ``size ** (1 / T)``: 1 is proportional, infinity uniform (Raffel et al. 2020, T5, section 3.5.2).

    Args:
        spec: the kind of mixture and its temperature.
        sizes: training rows of each task of the stage.
        rates: by task; only the kind ``fixed`` reads more of them than whether they are 0. A task without one has 1.

    Raises:
        RecipeError: a rate is negative or not finite, or no task has a rate above 0.
        DataError: a task that is to be drawn has no training rows.

    Example:
        >>> shares(MixtureSpec(), {"a": 30, "b": 10, "c": 5}, {"c": 0})
        {'a': 0.75, 'b': 0.25, 'c': 0.0}
    """
    rate_of = {name: float(rates.get(name, 1.0)) for name in sizes}
    problems = [
        f"tasks.{name}: a rate must be 0 or more and finite, but is {rate}. Use a number such as 0.5."
        for name, rate in rate_of.items()
        if not 0 <= rate < math.inf
    ]
    if not problems and not any(rate_of.values()):
        problems = [
            f"tasks: one rate at least must be above 0, but {', '.join(rate_of) or 'no task'} has none."
        ]
    if problems:
        raise RecipeError(problems)
    for name, rate in rate_of.items():
        if rate > 0 and sizes[name] < 1:
            raise DataError(
                f"{name}: a task that is drawn needs training rows, but has none. Set its rate to 0."
            )
    raw = {name: _raw(spec, sizes[name], rate) if rate > 0 else 0.0 for name, rate in rate_of.items()}
    total = math.fsum(raw.values())
    return {name: value / total for name, value in raw.items()}


def _raw(spec: MixtureSpec, size: int, rate: float) -> float:
    match spec.kind:
        case MixtureKind.FIXED:
            return rate
        case MixtureKind.PROPORTIONAL:
            return float(size)
        case MixtureKind.TEMPERATURE:
            return size ** (1 / spec.temperature)
        case MixtureKind.UNIFORM | MixtureKind.ROUND_ROBIN:
            return 1.0


def row_keys(source: str, wheres: Sequence[str]) -> Keys:
    """Return one number a row that says which record of which source it is, uint64, shape (R,).

    Tasks that read the same records get the same numbers, whatever rows each of them dropped or held out, and
    wherever the file lies: of ``file:line`` only the file's own name counts.

    Args:
        source: what identifies the content, for example a digest of the file.
        wheres: ``Encoded.name`` of the task's training rows.
    """
    names = (f"{source}\x1f{where.replace(chr(92), '/').rpartition('/')[2]}" for where in wheres)
    digests = b"".join(hashlib.sha256(name.encode()).digest()[:8] for name in names)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


@dataclass(frozen=True)
class Mixture:
    """The draws of one stage.

    An epoch has as many draws as the drawn tasks have training rows together, in exact quotas. The draws of a task
    are spread evenly over the epoch with a random jitter, so that tasks which walk the same source stay side by side.
    A task with share 0 has no influence on any draw.

    A task draws from its strata strictly in turn, and walks through the rows of each in passes: with one stratum every
    pass holds every row once; with one a class, rows of all classes are drawn equally often.

    Args:
        seed: the recipe's seed.
        stage: the stage's name.
        kind: ``round_robin`` draws strictly in turn within an epoch; all others are jittered.
        shares: of the draws by task, as ``shares()`` returns them.
        keys: ``row_keys`` of each task's training rows.
        strata: number of each row's stratum, int64, shape (R,), for tasks that have more than one.

    Raises:
        DataError: a share is so small that an epoch would hold no draw of the task at all.
    """

    seed: int
    stage: str
    kind: MixtureKind
    shares: Mapping[str, float]
    keys: Mapping[str, Keys]
    strata: Mapping[str, Ints] = field(default_factory=dict[str, Ints])

    def __post_init__(self) -> None:
        for name, quota in self.quotas().items():
            if quota == 0:
                raise DataError(
                    f"{name}: a task that is drawn must be drawn once an epoch at least, but its share of "
                    f"{self.shares[name]:.2g} of {self.epoch_size} draws is less. Raise its rate or set it to 0."
                )

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that are drawn, in recipe order; ``draws`` returns indices into it."""
        return tuple(name for name, share in self.shares.items() if share > 0)

    @cached_property
    def epoch_size(self) -> int:
        """N: training rows of all drawn tasks."""
        return sum(len(self.keys[name]) for name in self.tasks)

    def quotas(self) -> dict[str, int]:
        """Return each drawn task's draws in an epoch by largest remainder; they sum to ``epoch_size``.

        Equal remainders are served in recipe order.
        """
        exact = {name: self.shares[name] * self.epoch_size for name in self.tasks}
        counts = {name: math.floor(value) for name, value in exact.items()}
        left = self.epoch_size - sum(counts.values())
        for name in sorted(exact, key=lambda name: counts[name] - exact[name])[:left]:
            counts[name] += 1
        return counts

    def draws(self, epoch: int) -> Ints:
        """Return the task of every draw of ``epoch`` as an index into ``tasks``, int64, shape (N,)."""
        if self.kind is MixtureKind.ROUND_ROBIN:
            return np.arange(self.epoch_size, dtype=np.int64) % len(self.tasks)
        quotas = self.quotas()
        places = [self._places(name, quotas[name], epoch) for name in self.tasks]
        task_of = np.repeat(np.arange(len(places), dtype=np.int64), [len(place) for place in places])
        return task_of[np.argsort(np.concatenate(places), kind="stable")]

    def _places(self, task: str, quota: int, epoch: int) -> NDArray[np.float64]:
        jitter = np.random.default_rng(fold(self.seed, self.stage, "mixture", epoch, task)).random(quota)
        return (np.arange(quota) + jitter) / quota

    def row(self, task: str, draw: int) -> int:
        """Return the row that draw number ``draw`` of ``task`` (counted from the stage's start) takes."""
        return int(self._rows(task, draw, draw + 1)[0])

    def rows(self, task: str, epoch: int) -> Ints:
        """Return the rows that ``task`` takes in ``epoch``, in drawing order, int64, shape (Q,)."""
        quota = self.quotas()[task]
        return self._rows(task, epoch * quota, (epoch + 1) * quota)

    def _rows(self, task: str, start: int, stop: int) -> Ints:
        members = self._members(task)
        rows = np.empty(stop - start, dtype=np.int64)
        for turn, own in enumerate(members):
            first, last = (-((turn - draw) // len(members)) for draw in (start, stop))
            if last > first:
                walked = self._walk(self.keys[task][own], first, last)
                rows[first * len(members) + turn - start :: len(members)] = own[walked]
        return rows

    def _members(self, task: str) -> list[Ints]:
        """Return the rows of each stratum of ``task``."""
        if task not in self.strata:
            return [np.arange(len(self.keys[task]), dtype=np.int64)]
        numbers = self.strata[task]
        return [np.flatnonzero(numbers == number) for number in np.unique(numbers)]

    def _walk(self, keys: Keys, start: int, stop: int) -> Ints:
        """Return the draws ``start`` to ``stop`` of passes over rows with ``keys``."""
        size = len(keys)
        passes = range(start // size, (stop - 1) // size + 1)
        order = np.concatenate([self._pass(keys, number) for number in passes])
        return order[start - passes.start * size : stop - passes.start * size]

    def _pass(self, keys: Keys, number: int) -> Ints:
        """Return the order of one pass over rows: sorted by a hash of pass and key, shape (R,)."""
        salt = np.uint64(fold(self.seed, self.stage, "rows", number))
        return np.argsort(mixed(keys ^ salt), kind="stable").astype(np.int64)


def mixed(values: Keys) -> Keys:
    """Return SplitMix64's finaliser of each value, a bijection (Steele, Lea & Flood 2014, section 4)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
