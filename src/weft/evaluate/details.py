"""What a task's answers look like: what the task itself shows, scores by length, and rows to read with their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from weft.core.example import Answer, Encoded, Row
from weft.core.seeds import fold
from weft.data.joined import is_joined
from weft.evaluate.compare import distance
from weft.metric.base import Metric
from weft.metric.bootstrap import interval
from weft.metric.calibration import confidence
from weft.metric.tagging import spans
from weft.report.details import Block, Example, Examples, Part, Slice, Slices, TaskDetail
from weft.task.base import Shows, Task
from weft.task.labels import plain
from weft.task.sequence import text_in
from weft.task.shown import spread
from weft.task.words import listed, text_of, words_like

NUM_WORST = 10
NUM_SAMPLES = 6
NUM_SLICES = 4
LEAST_ROWS = 5
"""Rows of a slice, at least."""
MOST_SIGNS = 320
"""Characters of a text that an example shows."""


def detail(
    task: Task,
    encoded: Sequence[Encoded],
    answers: Sequence[Answer],
    rows: Mapping[str, Row],
    *,
    split: str,
    resamples: int,
    seed: int,
) -> TaskDetail:
    """Return what the answers of ``task`` look like, over the rows that have a gold answer.

    Args:
        task: the fitted task.
        encoded: its rows.
        answers: one a row, in the same order.
        rows: as read, by where they stand, for their texts.
        split: dev, test or held-out.
        resamples: bootstrap resamples behind each interval.
        seed: of the resampling.
    """
    judged = [pair for pair in zip(encoded, answers, strict=True) if pair[0].gold is not None]
    golds, found = [one.gold for one, _ in judged], [answer for _, answer in judged]
    blocks: list[Block] = list(task.shown(golds, found)) if isinstance(task, Shows) and golds else []
    blocks += _by_length(
        task.metrics[0],
        [one.num_tokens for one, _ in judged],
        golds,
        found,
        resamples=resamples,
        seed=fold(seed, "length", task.name, split),
    )
    texts = [rows[one.where] for one, _ in judged]
    blocks += _samples(task, golds, found, texts) if _is_text(found) else _worst(task, golds, found, texts)
    return TaskDetail(task=task.name, kind=task.kind, split=split, blocks=tuple(blocks))


def _is_text(answers: Sequence[Answer]) -> bool:
    return any(answer.text is not None and answer.label is None for answer in answers)


def _by_length(
    metric: Metric,
    lengths: Sequence[int],
    golds: Sequence[Any],
    answers: Sequence[Answer],
    *,
    resamples: int,
    seed: int,
) -> list[Block]:
    """Return ``metric`` on quarters of the rows, shortest first; none where there are too few rows or lengths."""
    groups = quarters(lengths)
    if len(groups) < 2 or min(map(len, groups)) < LEAST_ROWS:
        return []
    slices: list[Slice] = []
    for number, group in enumerate(groups):
        own = [golds[at] for at in group], [answers[at] for at in group]
        slices.append(
            Slice(
                low=min(lengths[at] for at in group),
                high=max(lengths[at] for at in group),
                value=float(metric.value(*own)),
                interval=interval(metric, *own, resamples=resamples, seed=fold(seed, number)),
                n=len(group),
            )
        )
    return [
        Slices(
            metric=metric.name,
            best=metric.best,
            higher_is_better=metric.higher_is_better,
            slices=tuple(slices),
        )
    ]


def quarters(lengths: Sequence[int]) -> list[list[int]]:
    """Return the positions of ``lengths`` in four groups of like size, shortest first; equal lengths stay together.

    Example:
        >>> quarters([5, 1, 1, 9, 7, 3])
        [[1, 2], [5], [0], [4, 3]]
    """
    if not lengths:
        return []
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    cuts = [lengths[order[number * len(order) // NUM_SLICES]] for number in range(1, NUM_SLICES)]
    group_of = np.searchsorted(cuts, [lengths[at] for at in order], side="right")
    groups = [[at for at, own in zip(order, group_of, strict=True) if own == number] for number in range(4)]
    return [group for group in groups if group]


def _worst(task: Task, golds: Sequence[Any], answers: Sequence[Answer], rows: Sequence[Row]) -> list[Block]:
    """Return the rows that are furthest from gold, of equals those whose answer was surest."""
    far = [distance(gold, answer) for gold, answer in zip(golds, answers, strict=True)]
    sure = [_confidence(answer) or 0.0 for answer in answers]
    order = sorted((at for at in range(len(far)) if far[at] > 0), key=lambda at: (-far[at], -sure[at], at))
    found = [_example(task, golds[at], answers[at], rows[at]) for at in order[:NUM_WORST]]
    return [Examples(part=Part.WORST, examples=tuple(found))] if found else []


def _samples(task: Task, golds: Sequence[Any], answers: Sequence[Answer], rows: Sequence[Row]) -> list[Block]:
    """Return rows from all over the split, none chosen for its answer."""
    places = spread(len(golds), NUM_SAMPLES)
    found = [_example(task, golds[at], answers[at], rows[at]) for at in places]
    return [Examples(part=Part.SAMPLES, examples=tuple(found))]


def _example(task: Task, gold: Any, answer: Answer, row: Row) -> Example:
    words = _words(task, row, len(gold)) if answer.tags is not None else None
    return Example(
        where=row.where,
        text=cut(words.part(0, len(words.words)) if words else question(row, task.inputs, gold)),
        gold=cut(_tagged(gold, words) if words else _said(gold)),
        answer=cut(_tagged(answer.tags or (), words) if words else _said(_decided(answer))),
        confidence=_confidence(answer),
    )


def _confidence(answer: Answer) -> float | None:
    is_known = answer.probabilities is not None and isinstance(answer.label, str)
    return confidence(answer) if is_known else None


# -------------------------------------------------------------------------------------------------- texts
def question(row: Row, columns: Sequence[str], gold: Any = None) -> str:
    """Return what stands in ``columns`` of a row as one text; the answer that ends a conversation is left out."""
    texts = [
        text_in(row, column) if is_joined(column, row.values) else _text(plain(row.values.get(column)), gold)
        for column in columns
    ]
    return "\n".join(text for text in texts if text)


def _text(value: Any, gold: Any) -> str:
    if isinstance(value, list | tuple):
        turns = [one for one in value if isinstance(one, Mapping)]
        if turns and len(turns) == len(value):
            lines = [_turn(turn) for turn in turns]
            references = (gold,) if isinstance(gold, str) else gold or ()
            is_answer = len(lines) > 1 and lines[-1][1] in references
            return "\n".join(": ".join(line) for line in (lines[:-1] if is_answer else lines))
        return "\n".join(map(str, value))
    return "" if value is None else str(value).strip()


def _turn(turn: Mapping[str, Any]) -> tuple[str, str]:
    who = turn.get("role", turn.get("from", ""))
    said = turn.get("content", turn.get("value", ""))
    return str(who), str(said).strip()


class _Words(NamedTuple):
    """The words that tags stand for, and where they stand in the text of a row that has one."""

    words: tuple[str, ...]
    text: str
    bounds: tuple[tuple[int, int], ...]

    def part(self, start: int, end: int) -> str:
        """Return the words from ``start`` to before ``end`` as text, sign for sign where they stand in one."""
        places = self.bounds[start:end]
        return self.text[places[0][0] : places[-1][1]] if places else text_of(self.words[start:end])


def _words(task: Task, row: Row, num_tags: int) -> _Words | None:
    """Return the words that tags stand for, None where they cannot be told."""
    value = listed(row.values.get(task.inputs[0])) if task.inputs else None
    words = words_like(value, num_tags) if value else ()
    if not words or len(words) != num_tags:
        return None
    text = value if isinstance(value, str) else ""
    bounds: list[tuple[int, int]] = []
    for word in words if text else ():
        start = text.index(word, bounds[-1][1] if bounds else 0)
        bounds.append((start, start + len(word)))
    return _Words(words, text, tuple(bounds))


def _tagged(tags: Sequence[str], words: _Words) -> str:
    """Return the spans with their texts; where tags mark none, each word with its tag."""
    if any(tag[1:2] == "-" for tag in tags) or set(tags) <= {"O"}:
        found = [f"{kind}: {words.part(start, end)}" for kind, start, end in spans(tags)]
        return " · ".join(found) or "–"
    return " ".join(f"{word}/{tag}" for word, tag in zip(words.words, tags, strict=False))


def _decided(answer: Answer) -> Any:
    given = (answer.label, answer.text, answer.value, answer.tags)
    return next((value for value in given if value is not None), "")


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, set | frozenset | list | tuple):
        items = sorted(map(str, value)) if isinstance(value, set | frozenset) else map(str, value)
        return ", ".join(items) or "–"
    return str(value).strip() or "–"


def cut(text: str, most: int = MOST_SIGNS) -> str:
    """Return ``text`` with at most about ``most`` characters: two thirds of them its start, the rest its end."""
    if len(text) <= most:
        return text
    tail = most // 3
    return f"{text[: most - tail].rstrip()} … {text[-tail:].lstrip()}"
