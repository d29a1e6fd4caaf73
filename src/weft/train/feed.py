"""From the draws of a step to the micro-batches that the engine takes, one step ahead of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from weft.core.batch import Batch
from weft.core.example import Encoded
from weft.task.base import Task
from weft.task.batching import group_by_length, make_batch
from weft.train.order import Step, text_key

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Feed:
    """Makes the batches of steps.

    Attributes:
        tasks: fitted tasks by name.
        rows: encoded training rows by task.
        pad: the token that fills padded batches.
        budget: most tokens, padding included, in one batch.
        packed: whether batches are packed rather than padded.
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
            by_text.setdefault(text_key(row), []).append((draw.task, row))
        units = list(by_text.values())
        lengths = [len(unit[0][1].tokens) for unit in units]
        groups = group_by_length(lengths, budget=self.budget, in_order=False)
        return [
            make_batch(
                [item for index in group for item in units[index]], self.tasks, pad=self.pad, packed=self.packed
            )
            for group in groups
        ]


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield ``items``, each next one made in a background thread while the consumer works on the one before.

    What making an item raises is raised where the item would have come. Closing waits for the item being made.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="weft-feed") as pool:
        future = pool.submit(next, items, end)
        while (item := future.result()) is not end:
            future = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
