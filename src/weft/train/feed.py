"""From the draws of a step to the micro-batches that the engine takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from weft.core.batch import Batch
from weft.core.example import Encoded
from weft.core.routing import Routes
from weft.task.base import Divides, Task
from weft.task.batching import are_distinct, cut_apart, group_by_length, make_batch, make_plain_batch
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
        """Return the step as batches of at most ``budget`` tokens; rows of one text come into one batch.

        A batch is larger only where one text is, or an example whose texts have one answer together (``Divides``).
        """
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
        groups = self._cut([unit[0][1] for unit in units])
        return [
            batch for group in groups for batch in self._mixed([item for at in group for item in units[at]])
        ]

    def _plain(self, name: str, rows: Sequence[Encoded]) -> list[Batch]:
        """Return the batches of distinct rows of one task: what ``__call__`` does in general, in half the time."""
        task, batches = self.tasks[name], list[Batch]()
        for group in self._cut(rows):
            own = [rows[index] for index in group]
            if self._is_within(own[0]) or not isinstance(task, Divides):
                batches.append(make_plain_batch(name, task, own, pad=self.pad, packed=self.packed))
            else:
                batches += self._apart(name, own[0])
        return batches

    def _mixed(self, items: Sequence[tuple[str, Encoded]]) -> list[Batch]:
        """Return the items of a group as a batch; those of one text that is too large for it as several, where they can."""
        if self._is_within(items[0][1]):
            return [self._batch(items)]
        whole = [item for item in items if not isinstance(self.tasks[item[0]], Divides)]
        batches = [self._batch(whole)] if whole else []
        for name, example in items:
            if isinstance(self.tasks[name], Divides):
                batches += self._apart(name, example)
        return batches

    def _batch(self, items: Sequence[tuple[str, Encoded]]) -> Batch:
        return make_batch(items, self.tasks, pad=self.pad, packed=self.packed, routes=self.routes)

    def _apart(self, name: str, example: Encoded) -> list[Batch]:
        """Return the parts of an example as batches, of which the first counts it."""
        parts = cut_apart(self.tasks[name], example)
        batches = [self._batch([(name, parts[index]) for index in group]) for group in self._cut(parts)]
        return [_counting(batch, int(number == 0)) for number, batch in enumerate(batches)]

    def _is_within(self, example: Encoded) -> bool:
        """Return whether the texts of an example fit into a batch; one that is beyond it is a group of its own."""
        if not example.more:
            return True
        rows = 1 + len(example.more)
        return (example.num_tokens if self.packed else example.longest * rows) <= self.budget

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


def _counting(batch: Batch, num_examples: int) -> Batch:
    targets = {name: replace(target, num_examples=num_examples) for name, target in batch.targets.items()}
    return replace(batch, targets=targets)


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
