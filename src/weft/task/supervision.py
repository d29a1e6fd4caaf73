"""The targets of generation: which tokens of a text, or of the reply to it, are learnt, and how much each counts.

Legend: M learnt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from weft.core.batch import Target
from weft.core.example import Encoded, Text
from weft.core.layout import Layout
from weft.core.tensors import int64
from weft.task.several import apart
from weft.task.writing import Span, Written


@dataclass(frozen=True, slots=True)
class Supervised:
    """The target of an example to learn: what is learnt of each of its texts, or of its reply."""

    texts: tuple[tuple[Span, ...], ...]

    @classmethod
    def since(cls, start: int, end: int) -> Supervised:
        """Return the target of one text whose tokens from ``start`` on, before ``end``, are learnt alike."""
        return cls(((Span(start, end, 1.0),),))


def learnt(texts: Sequence[Written], gold: Any, where: str, *, part: int = 0) -> Encoded:
    """Return an example of one or more written texts.

    Args:
        texts: with what is learnt of each.
        gold: the answer.
        where: the row.
        part: number of the example among those of its row.
    """
    first, *others = texts
    return Encoded(
        first.tokens,
        None,
        Supervised(tuple(text.spans for text in texts)),
        gold,
        where,
        num_cut=sum(text.num_cut for text in texts),
        more=tuple(Text(text.tokens, None) for text in others),
        part=part,
    )


def has_loss(texts: Sequence[Written]) -> bool:
    """Return whether any token is learnt: one that has another before it."""
    return any(is_learnt(text.spans) for text in texts)


def is_learnt(spans: Sequence[Span]) -> bool:
    """Return whether any token of ``spans`` is learnt."""
    return any(span.end > max(1, span.start) for span in spans)


def parts_of(example: Encoded) -> list[Encoded]:
    """Return each text of which something is learnt as an example of its own."""
    target: Supervised = example.target
    alone = apart(example, [Supervised((spans,)) for spans in target.texts])
    return [one for one, spans in zip(alone, target.texts, strict=True) if is_learnt(spans)]


def collate_tokens(encoded: Sequence[Encoded], rows: Sequence[int], layout: Layout) -> Target:
    """Return the target: ``positions`` is (M,), the flat places whose states predict ``labels`` (M,).

    ``weights`` (M,) is there only if not every token counts 1; the target's weight is their sum.

    Args:
        encoded: examples.
        rows: of their texts; of their replies, where they have some.
        layout: of these rows.
    """
    rows_R = int64(rows)
    if not all(isinstance(example.target, Supervised) for example in encoded):
        return Target(rows_R, {}, weight=0.0, num_examples=len(encoded))
    starts = layout.starts_B.tolist()
    positions: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    places = iter(rows)
    for example in encoded:
        texts = example.texts if example.reply is None else (example.reply,)
        for text, spans in zip(texts, example.target.texts, strict=True):
            start = starts[next(places)]
            for span in spans:
                first = max(1, span.start)  # no state predicts a row's first token
                positions += range(start + first - 1, start + span.end - 1)
                labels += text.tokens[first : span.end]
                weights += [span.weight] * max(0, span.end - first)
    values = {"positions": int64(positions), "labels": int64(labels)}
    if any(weight != 1.0 for weight in weights):
        values["weights"] = torch.tensor(weights, dtype=torch.float32)
    return Target(rows_R, values, weight=sum(weights), num_examples=len(encoded))
