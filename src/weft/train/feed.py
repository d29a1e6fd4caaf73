"""From the draws of a step to the micro-batches that the engine takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from weft.core.batch import Batch
from weft.core.example import Encoded
from weft.task.base import Task
from weft.task.batching import group_by_length, make_batch
from weft.train.order import Step


@dataclass(frozen=True, slots=True)
class Feed:
    """Makes the batches of steps.

    Attributes:
        tasks: fitted tasks by name.
        rows: encoded training rows by task.
        pad: the token that fills padded batches.
        budget: most tokens, padding included, in one batch.
        packed: whether rows are laid end to end rather than padded.
    """

    tasks: Mapping[str, Task]
    rows: Mapping[str, Sequence[Encoded]]
    pad: int
    budget: int
    packed: bool = False

    def __call__(self, step: Step) -> list[Batch]:
        """Return the step as batches of at most ``budget`` tokens; rows of one text come into one batch."""
        by_text: dict[int, list[tuple[str, Encoded]]] = {}
        for draw in step:
            row = self.rows[draw.task][draw.row]
            by_text.setdefault(row.key, []).append((draw.task, row))
        units = list(by_text.values())
        lengths = [len(unit[0][1].tokens) for unit in units]
        cut = filled if self.packed else partial(group_by_length, in_order=False)
        groups = cut(lengths, budget=self.budget)
        return [
            make_batch(
                [item for index in group for item in units[index]],
                self.tasks,
                pad=self.pad,
                packed=self.packed,
            )
            for group in groups
        ]


def filled(lengths: Sequence[int], *, budget: int) -> list[list[int]]:
    """Return the positions of ``lengths`` in order, cut where the tokens of a group would exceed ``budget``.

    Example:
        >>> filled([3, 9, 3, 3], budget=12)
        [[0, 1], [2, 3]]
    """
    groups: list[list[int]] = []
    room = 0
    for index, length in enumerate(lengths):
        if not groups or length > room:
            groups.append([])
            room = budget
        groups[-1].append(index)
        room -= length
    return groups
