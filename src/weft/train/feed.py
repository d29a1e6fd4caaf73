"""From the draws of a step to the micro-batches that the engine takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weft.core.batch import Batch
from weft.core.example import Encoded
from weft.core.routing import Routes
from weft.task.base import Task
from weft.task.batching import are_distinct, group_by_length, make_batch, make_plain_batch
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
        routes: adapters by task (``Network.routes``); rows of the same ones lie beside one another in a batch.
    """

    tasks: Mapping[str, Task]
    rows: Mapping[str, Sequence[Encoded]]
    pad: int
    budget: int
    packed: bool = False
    routes: Routes = field(default_factory=dict[str, tuple[str, ...]])

    def __call__(self, step: Step) -> list[Batch]:
        """Return the step as batches of at most ``budget`` tokens; rows of one text come into one batch."""
        names = {task for task, _ in step}
        if len(names) == 1:
            name = names.pop()
            own = self.rows[name]
            rows = [own[row] for _, row in step]
            if are_distinct(rows):
                return self._plain(name, rows)
        by_text: dict[tuple[tuple[str, ...], int], list[tuple[str, Encoded]]] = {}
        for task, number in step:
            row = self.rows[task][number]
            by_text.setdefault((self.routes.get(task, ()), row.identity), []).append((task, row))
        units = [
            by_text[key] for key in (sorted(by_text, key=lambda key: key[0]) if self.routes else by_text)
        ]
        return [
            make_batch(
                [item for index in group for item in units[index]],
                self.tasks,
                pad=self.pad,
                packed=self.packed,
                routes=self.routes,
            )
            for group in self._cut([unit[0][1] for unit in units])
        ]

    def _plain(self, name: str, rows: Sequence[Encoded]) -> list[Batch]:
        """Return the batches of distinct rows of one task: what ``__call__`` does in general, in half the time."""
        return [
            make_plain_batch(
                name, self.tasks[name], [rows[index] for index in group], pad=self.pad, packed=self.packed
            )
            for group in self._cut(rows)
        ]

    def _cut(self, texts: Sequence[Encoded]) -> list[list[int]]:
        """Return the positions of ``texts`` by batch."""
        if self.packed:
            return filled([text.num_tokens for text in texts], budget=self.budget)
        return group_by_length(
            [text.longest for text in texts],
            budget=self.budget,
            in_order=False,
            rows=[1 + len(text.more) for text in texts],
        )


def filled(lengths: Sequence[int], *, budget: int) -> list[list[int]]:
    """Return the positions of ``lengths`` in order, cut where the tokens of a group would exceed ``budget``.

    Example:
        >>> filled([3, 9, 3, 3], budget=12)
        [[0, 1], [2, 3]]
    """
    if sum(lengths) <= budget:
        return [list(range(len(lengths)))] if lengths else []
    groups: list[list[int]] = []
    room = 0
    for index, length in enumerate(lengths):
        if not groups or length > room:
            groups.append([])
            room = budget
        groups[-1].append(index)
        room -= length
    return groups
