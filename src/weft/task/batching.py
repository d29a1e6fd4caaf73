"""From examples of any tasks to one batch: equal texts share a row, so that they cost one trunk pass.

An example has one text or several; ``Task.collate`` is told the row of each, in the order of the examples. Examples with
a reply address what the decoder reads: for them ``Task.collate`` is told the place of each reply among the replies.

Legend: B rows, L padded length, T real tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from weft.core.batch import Batch, Replies, Target
from weft.core.example import Encoded, Text
from weft.core.layout import Layout
from weft.core.routing import Routes
from weft.core.tensors import int64
from weft.task.base import Divides, Task

NO_ROUTES: Routes = MappingProxyType({})


def make_batch(
    items: Sequence[tuple[str, Encoded]],
    tasks: Mapping[str, Task],
    *,
    pad: int,
    packed: bool = False,
    routes: Routes = NO_ROUTES,
) -> Batch:
    """Return one batch of ``items``, rows in order of first appearance, targets in the order of ``tasks``.

    A target keeps its task's items in their order, also where two of them share a row.

    Args:
        items: (task name, example); at least one.
        tasks: by name; every name in ``items``.
        pad: token id that fills padded rows.
        packed: rows laid end to end instead of padded to the longest.
        routes: adapters by task (``Network.routes``); tasks with different ones never share a row.
    """
    names, examples = {name for name, _ in items}, [example for _, example in items]
    if len(names) == 1 and are_distinct(examples):
        name = names.pop()
        return make_plain_batch(name, tasks[name], examples, pad=pad, packed=packed)
    row_of: dict[tuple[int, tuple[str, ...]], int] = {}
    texts: list[Text] = []
    ids: list[str] = []
    owned: dict[str, tuple[list[Encoded], list[int]]] = {name: ([], []) for name in names}
    for name, example in items:
        own_examples, own_rows = owned[name]
        own_examples.append(example)
        for text in example.texts:
            row = row_of.setdefault((text.key, routes.get(name, ())), len(texts))
            if row == len(texts):
                texts.append(text)
                ids.append(example.where)
            own_rows.append(row)
    ordered = {name: owned[name] for name in tasks if name in owned}
    return _batch(texts, ids, tasks, ordered, pad=pad, packed=packed)


def are_distinct(examples: Sequence[Encoded]) -> bool:
    """Return whether no two of all the examples' texts are equal."""
    texts = all_texts(examples)
    return len({text.digest for text in texts}) == len(texts)


def all_texts(examples: Sequence[Encoded]) -> Sequence[Text]:
    """Return the texts of all ``examples``, in order."""
    if any(example.more for example in examples):
        return [text for example in examples for text in example.texts]
    return examples


def make_plain_batch(
    name: str, task: Task, examples: Sequence[Encoded], *, pad: int, packed: bool = False
) -> Batch:
    """Return what ``make_batch`` makes of distinct examples of one task, without looking for texts to share.

    Args:
        name: of the task.
        task: of all examples.
        examples: at least one, no two of their texts equal.
        pad: token id that fills padded rows.
        packed: rows laid end to end instead of padded to the longest.
    """
    texts = all_texts(examples)
    ids = [example.where for example in examples for _ in range(1 + len(example.more))]
    owned = {name: (examples, list(range(len(texts))))}
    return _batch(texts, ids, {name: task}, owned, pad=pad, packed=packed)


def cut_apart(task: Task, example: Encoded) -> Sequence[Encoded]:
    """Return the parts of an example to learn that need not pass together: its texts, or the whole of it."""
    return task.divided(example) if example.more and isinstance(task, Divides) else (example,)


def group_by_length(
    lengths: Sequence[int], *, budget: int, in_order: bool = True, rows: Sequence[int] | None = None
) -> list[list[int]]:
    """Return the positions of ``lengths`` cut into groups whose padded size stays within ``budget`` tokens.

    The padded size is rows times the longest row. A single one longer than the budget is a group of its own.

    Args:
        lengths: tokens of the longest row of each.
        budget: most tokens of a group, padding included.
        in_order: keep the order given; else rows are sorted by length first (equals stay in order), which leaves
            fewer groups and less padding.
        rows: of each; default: one.

    Example:
        >>> group_by_length([3, 9, 3, 3], budget=10)
        [[0], [1], [2, 3]]
        >>> group_by_length([3, 9, 3, 3], budget=10, in_order=False)
        [[0, 2, 3], [1]]
    """
    order = range(len(lengths)) if in_order else sorted(range(len(lengths)), key=lengths.__getitem__)
    groups: list[list[int]] = []
    longest = height = 0
    for index in order:
        own = 1 if rows is None else rows[index]
        longest, height = max(longest, lengths[index]), height + own
        if groups and longest * height <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
            longest, height = lengths[index], own
    return groups


Owned = Mapping[str, tuple[Sequence[Encoded], Sequence[int]]]
"""Examples by task, and the rows of their texts."""


def _layout(texts: Sequence[Text], *, packed: bool) -> Layout:
    lengths = [len(text.tokens) for text in texts]
    return Layout.packed(lengths) if packed else Layout.padded(lengths)


def _batch(
    texts: Sequence[Text],
    ids: Sequence[str],
    tasks: Mapping[str, Task],
    owned: Owned,
    *,
    pad: int,
    packed: bool,
) -> Batch:
    layout = _layout(texts, packed=packed)
    replies, places = _replies(owned, pad=pad)
    targets: dict[str, Target] = {}
    for name, (examples, rows) in owned.items():
        if replies is None or name not in places:
            targets[name] = tasks[name].collate(examples, rows, layout)
        else:
            target = tasks[name].collate(examples, places[name], replies.layout)
            targets[name] = replace(target, rows_R=int64(rows))
    return Batch(
        tokens=_laid_out([text.token_bytes for text in texts], layout, fill=pad),
        segments=_segments(texts, layout),
        layout=layout,
        targets=targets,
        ids=tuple(ids),
        digests=tuple([text.digest for text in texts]),
        replies=replies,
    )


def _replies(owned: Owned, *, pad: int) -> tuple[Replies | None, dict[str, list[int]]]:
    """Return what the decoder reads, and by task the place of each example's reply in it; equal ones to a row share it."""
    places: dict[str, list[int]] = {}
    place_of: dict[tuple[int, bytes], int] = {}
    texts: list[Text] = []
    for name, (examples, rows) in owned.items():
        if examples[0].reply is None:
            continue
        places[name] = []
        for example, row in zip(examples, rows, strict=True):
            assert example.reply is not None, "the examples of a task all have a reply, or none has"
            place = place_of.setdefault((row, example.reply.digest), len(texts))
            if place == len(texts):
                texts.append(example.reply)
            places[name].append(place)
    if not texts:
        return None, places
    layout = _layout(texts, packed=False)
    tokens_RL = _laid_out([text.token_bytes for text in texts], layout, fill=pad)
    return Replies(tokens_RL, layout, tuple(row for row, _ in place_of)), places


def _segments(texts: Sequence[Text], layout: Layout) -> Tensor | None:
    if not any(text.segment_bytes for text in texts):
        return None
    rows = [text.segment_bytes or bytes(len(text.token_bytes)) for text in texts]
    return _laid_out(rows, layout, fill=0)


def _laid_out(rows: Sequence[bytes], layout: Layout, *, fill: int) -> Tensor:
    """Return ``rows`` of int64 as (B, L) padded with ``fill``, or (T,) packed."""
    if layout.width is None:
        return torch.frombuffer(bytearray().join(rows), dtype=torch.int64)
    filler = array("q", [fill]).tobytes() * layout.width
    pieces = [piece for row in rows for piece in (row, filler[len(row) :])]
    return torch.frombuffer(bytearray().join(pieces), dtype=torch.int64).view(len(rows), layout.width)
