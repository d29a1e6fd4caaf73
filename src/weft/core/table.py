"""The ParamTable: every parameter once, its role and why. The only source for freeze, optimizer and checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a stage does with a parameter."""

    FROZEN = "frozen"
    TRAINED = "trained"


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
    """

    path: str
    shape: tuple[int, ...]
    role: Role
    owner: str
    why: str
    lr: float = 0.0
    decay: bool = False

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
