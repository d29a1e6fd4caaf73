"""From examples of any tasks to one batch: equal texts share a row, so that they cost one trunk pass.

Legend: B rows, L padded length, T real tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from weft.core.batch import Batch
from weft.core.example import Encoded
from weft.core.layout import Layout
from weft.task.base import Task


def make_batch(
    items: Sequence[tuple[str, Encoded]], tasks: Mapping[str, Task], *, pad: int, packed: bool = False
) -> Batch:
    """Return one batch of ``items``, rows in order of first appearance, targets in the order of ``tasks``.

    A target keeps its task's items in their order, also where two of them share a row.

    Args:
        items: (task name, example); at least one.
        tasks: by name; every name in ``items``.
        pad: token id that fills padded rows.
        packed: rows laid end to end instead of padded to the longest.
    """
    row_of: dict[tuple[tuple[int, ...], tuple[int, ...] | None], int] = {}
    rows = [row_of.setdefault((example.tokens, example.segments), len(row_of)) for _, example in items]
    ids = [""] * len(row_of)
    for row, (_, example) in reversed(list(zip(rows, items, strict=True))):
        ids[row] = example.where
    texts = [tokens for tokens, _ in row_of]
    layout = Layout.packed([*map(len, texts)]) if packed else Layout.padded([*map(len, texts)])
    segments = [given for _, given in row_of]
    targets = {}
    for name, task in tasks.items():
        own = [(example, row) for (owner, example), row in zip(items, rows, strict=True) if owner == name]
        if own:
            targets[name] = task.collate([example for example, _ in own], [row for _, row in own], layout)
    filled = [given or (0,) * len(tokens) for given, tokens in zip(segments, texts, strict=True)]
    return Batch(
        tokens=_laid_out(texts, layout, fill=pad),
        segments=_laid_out(filled, layout, fill=0) if any(segments) else None,
        layout=layout,
        targets=targets,
        ids=tuple(ids),
    )


def group_by_length(lengths: Sequence[int], *, budget: int, in_order: bool = True) -> list[list[int]]:
    """Return the positions of ``lengths`` cut into groups whose padded size stays within ``budget`` tokens.

    The padded size is rows times the longest row. A single row longer than the budget is a group of its own.

    Args:
        lengths: tokens of each row.
        budget: most tokens of a group, padding included.
        in_order: keep the order given; else rows are sorted by length first (equals stay in order), which leaves
            fewer groups and less padding.

    Example:
        >>> group_by_length([3, 9, 3, 3], budget=10)
        [[0], [1], [2, 3]]
        >>> group_by_length([3, 9, 3, 3], budget=10, in_order=False)
        [[0, 2, 3], [1]]
    """
    order = range(len(lengths)) if in_order else sorted(range(len(lengths)), key=lengths.__getitem__)
    groups: list[list[int]] = []
    longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        if groups and longest * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = lengths[index]
    return groups


def _laid_out(rows: Sequence[Sequence[int]], layout: Layout, *, fill: int) -> Tensor:
    """Return ``rows`` as (B, L) padded with ``fill``, or (T,) packed; int64."""
    flat_T = torch.tensor([value for row in rows for value in row], dtype=torch.int64)
    if layout.index_T is None or layout.width is None:
        return flat_T
    grid = torch.full((layout.num_rows * layout.width,), fill, dtype=torch.int64)
    grid[layout.index_T] = flat_T
    return grid.view(layout.num_rows, layout.width)
