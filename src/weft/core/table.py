"""The ParamTable: every parameter once, its role and why. The only source for freeze, optimizer and checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from weft.core.seeds import fold


class Role(StrEnum):
    """What a stage does with a parameter."""

    FROZEN = "frozen"
    TRAINED = "trained"


@dataclass(frozen=True, slots=True)
class Draw:
    """A group of parameters that move by turns: every so often some of all groups are drawn.

    Attributes:
        group: this one's name.
        take: groups that move at a time.
        every: steps until the next draw.
    """

    group: str
    take: int
    every: int


@dataclass(frozen=True, slots=True)
class ParamRow:
    """One parameter of the network during one stage.

    Attributes:
        path: canonical path.
        shape: as stored.
        role: frozen or trained.
        owner: who brought it in: ``trunk``, ``head:<task>`` or ``adapter:<name>``.
        why: the rule that decided, in words (``rule 2: layers[4:10].attention -> lora``).
        lr: peak learning rate; 0.0 for frozen rows.
        decay: whether weight decay applies (matrices yes; biases, norms and other vectors no).
        since: share of the stage after which it begins to move.
        draw: for parameters that move by turns.
    """

    path: str
    shape: tuple[int, ...]
    role: Role
    owner: str
    why: str
    lr: float = 0.0
    decay: bool = False
    since: float = 0.0
    draw: Draw | None = None

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class ParamTable:
    """Rows in network order, one for each distinct parameter (aliases of tied weights have none).

    Raises:
        ValueError: the same path twice, or a trained row without a positive learning rate.
    """

    rows: tuple[ParamRow, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for row in self.rows:
            if row.path in seen:
                raise ValueError(f"{row.path}: every parameter has one row, but it has two.")
            seen.add(row.path)
            if (row.role is Role.TRAINED) != (row.lr > 0):
                raise ValueError(
                    f"{row.path}: {row.role} needs lr {'> 0' if row.lr <= 0 else '0'}, but lr is {row.lr}."
                )

    def __iter__(self) -> Iterator[ParamRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def trained(self) -> tuple[ParamRow, ...]:
        """Return the rows that move."""
        return tuple(row for row in self.rows if row.role is Role.TRAINED)

    @property
    def is_constant(self) -> bool:
        """Whether the same parameters move from the first step to the last."""
        return all(row.since == 0 and row.draw is None for row in self.rows)

    def moving(self, *, step: int, fraction: float, seed: int) -> frozenset[str]:
        """Return the paths that move in one step: a pure function, so that a resumed stage needs no memory of it.

        Args:
            step: number of the step within the stage, from 0.
            fraction: share of the stage that is done before it.
            seed: of the draws.
        """
        trained = self.trained()
        kinds = {(row.draw.take, row.draw.every) for row in trained if row.draw is not None}
        drawn = {kind: self._drawn(*kind, turn=step // kind[1], seed=seed) for kind in kinds}
        return frozenset(
            row.path
            for row in trained
            if row.since <= fraction
            and (row.draw is None or row.draw.group in drawn[row.draw.take, row.draw.every])
        )

    def _drawn(self, take: int, every: int, *, turn: int, seed: int) -> set[str]:
        """Return the groups that are drawn for one turn."""
        rows = (row.draw for row in self.trained() if row.draw is not None)
        groups = sorted({draw.group for draw in rows if (draw.take, draw.every) == (take, every)})
        return set(Random(fold(seed, "draw", take, every, turn)).sample(groups, min(take, len(groups))))

    def groups(self) -> dict[tuple[float, bool], tuple[ParamRow, ...]]:
        """Return the optimizer groups: trained rows by (learning rate, decay). Their union is ``trained()``."""
        groups: dict[tuple[float, bool], list[ParamRow]] = {}
        for row in self.trained():
            groups.setdefault((row.lr, row.decay), []).append(row)
        return {key: tuple(rows) for key, rows in groups.items()}

    def num_trained(self) -> int:
        """Return the number of trained values."""
        return sum(row.size for row in self.trained())

    def num_values(self) -> int:
        """Return the number of values in all rows."""
        return sum(row.size for row in self.rows)
