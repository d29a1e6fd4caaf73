"""What tasks show of their answers: who is taken for whom, which classes fail, how spans and numbers are wrong.

Legend: N rows, P probabilities, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from weft.core.example import Answer
from weft.metric.calibration import NUM_BINS, bins_of, claims, label_calibration, yes_calibration
from weft.metric.question_answering import best, exact_match, f1
from weft.metric.tagging import Span, aligned, spans
from weft.report.details import (
    MOST_CLASSES,
    Bin,
    Block,
    Column,
    Histogram,
    Matrix,
    Part,
    Points,
    Reliability,
    SpanError,
    Table,
)
from weft.task.temperature import Floats, table_of, tempered_choice, tempered_yes

MOST_POINTS = 400
MOST_PAIRS = 12
MANY_CLASSES = 8
"""From so many classes on, the pairs that are confused most are listed too."""
_NUM_RANGES = 21

Tempered = Callable[[Floats, float], Floats]
"""Probabilities (N, C) and a temperature to probabilities."""

Pairs = Sequence[tuple[str, str]]
"""Gold class and answered class."""


def label_blocks(
    golds: Sequence[str],
    answers: Sequence[Answer],
    labels: Sequence[str],
    *,
    temperature: float,
    tempered: Tempered = tempered_choice,
) -> tuple[Block, ...]:
    """Return confusion, scores of each class and reliability of answers with one label."""
    pairs = [(gold, str(answer.label)) for gold, answer in zip(golds, answers, strict=True)]
    return (*_confused(pairs, labels), *_reliability(golds, answers, temperature, tempered, several=False))


def set_blocks(
    golds: Sequence[Sequence[str]], answers: Sequence[Answer], *, temperature: float
) -> tuple[Block, ...]:
    """Return the scores of each class and the reliability of answers with any number of labels."""
    right: Counter[str] = Counter()
    for gold, answer in zip(golds, answers, strict=True):
        right.update(set(gold) & set(answer.label or ()))
    gold_counts = Counter(label for gold in golds for label in set(gold))
    answered = Counter(label for answer in answers for label in set(answer.label or ()))
    table = _class_table(right, answered, gold_counts, part=Part.CLASSES)
    return (table, *_reliability(golds, answers, temperature, tempered_yes, several=True))


def tag_blocks(golds: Sequence[Sequence[str]], answers: Sequence[Answer]) -> tuple[Block, ...]:
    """Return confusion and scores of each tag, over words, for tags that mark no spans."""
    pairs = [
        pair
        for gold, answer in zip(golds, answers, strict=True)
        for pair in zip(gold, aligned(gold, answer), strict=True)
    ]
    return _confused(pairs, sorted({label for pair in pairs for label in pair}))


def span_blocks(golds: Sequence[Sequence[str]], answers: Sequence[Answer]) -> tuple[Block, ...]:
    """Return the scores of each type of span, and the kinds of errors."""
    right: Counter[str] = Counter()
    gold_counts: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    errors: Counter[SpanError] = Counter()
    for gold, answer in zip(golds, answers, strict=True):
        wanted, given = set(spans(gold)), set(spans(aligned(gold, answer)))
        right.update(kind for kind, _, _ in wanted & given)
        gold_counts.update(kind for kind, _, _ in wanted)
        answered.update(kind for kind, _, _ in given)
        errors.update(_span_errors(wanted - given, given - wanted))
    return (_class_table(right, answered, gold_counts, part=Part.SPAN_TYPES), _error_table(errors))


def answer_blocks(golds: Sequence[Sequence[str]], answers: Sequence[Answer]) -> tuple[Block, ...]:
    """Return how answers that are pieces of a context are wrong: in their bounds, their place, or in being given at all."""
    kinds = (_answer_error(gold, answer) for gold, answer in zip(golds, answers, strict=True))
    return (_error_table(Counter(kind for kind in kinds if kind is not None)),)


def _answer_error(gold: Sequence[str], answer: Answer) -> SpanError | None:
    if best(exact_match, gold, answer):
        return None
    if not gold:
        return SpanError.SPURIOUS
    if not answer.text:
        return SpanError.MISSED
    return SpanError.BOUNDARY if best(f1, gold, answer) else SpanError.ELSEWHERE


def _error_table(errors: Counter[SpanError]) -> Table:
    found = [(kind, errors[kind]) for kind in SpanError if errors[kind]]
    total = errors.total()
    return Table(
        part=Part.SPAN_ERRORS,
        columns=(Column.ERROR, Column.COUNT, Column.SHARE),
        rows=tuple((str(kind), count, count / total) for kind, count in found),
    )


def value_blocks(golds: Sequence[float], answers: Sequence[Answer]) -> tuple[Block, ...]:
    """Return answered numbers against gold ones, and how far they are off."""
    points = [(float(gold), float(answer.value or 0)) for gold, answer in zip(golds, answers, strict=True)]
    residuals = np.array([answered - gold for gold, answered in points])
    reach = float(np.abs(residuals).max()) or 1.0  # zero lies in the middle of the middle range
    counts, _ = np.histogram(residuals, bins=_NUM_RANGES, range=(-reach, reach))
    return (
        Points(points=tuple(points[at] for at in spread(len(points), MOST_POINTS)), n=len(points)),
        Histogram(low=-reach, high=reach, counts=tuple(counts.tolist())),
    )


def spread(num: int, most: int) -> list[int]:
    """Return at most ``most`` of the numbers below ``num``, evenly apart.

    Example:
        >>> spread(9, 3), spread(2, 5)
        ([0, 3, 6], [0, 1])
    """
    return [at * num // most for at in range(most)] if num > most else list(range(num))


# ------------------------------------------------------------------------------------------------ classes
def _confused(pairs: Pairs, labels: Sequence[str]) -> tuple[Block, ...]:
    counts = Counter(pairs)
    gold_counts, answered = Counter(gold for gold, _ in pairs), Counter(answer for _, answer in pairs)
    right = Counter({label: counts[label, label] for label in labels if counts[label, label]})
    blocks: list[Block] = [_matrix(counts, gold_counts + answered, labels)]
    wrong = [(pair, count) for pair, count in counts.most_common() if pair[0] != pair[1]]
    if len(labels) > MANY_CLASSES and wrong:
        blocks.append(
            Table(
                part=Part.PAIRS,
                columns=(Column.GOLD, Column.ANSWERED, Column.COUNT, Column.SHARE),
                rows=tuple(
                    (gold, answer, count, count / gold_counts[gold])
                    for (gold, answer), count in wrong[:MOST_PAIRS]
                ),
                more=max(0, len(wrong) - MOST_PAIRS),
            )
        )
    return (*blocks, _class_table(right, answered, gold_counts, part=Part.CLASSES))


def _matrix(counts: Mapping[tuple[str, str], int], sizes: Counter[str], labels: Sequence[str]) -> Matrix:
    """Return the counts of the largest classes that occur, in the order of ``labels``; all others share a row and a column."""
    labels = [label for label in labels if sizes[label]]
    largest = {label for label, _ in sizes.most_common(MOST_CLASSES)}
    kept = [label for label in labels if label in largest]
    place = {label: at for at, label in enumerate(kept)}
    rest = len(kept)
    size = rest + (len(kept) < len(labels))
    grid_CC = np.zeros((size, size), dtype=np.int64)
    for (gold, answer), count in counts.items():
        grid_CC[place.get(gold, rest), place.get(answer, rest)] += count
    return Matrix(
        part=Part.CONFUSION,
        labels=tuple(kept),
        counts=tuple(tuple(row) for row in grid_CC.tolist()),
        folded=len(labels) - len(kept),
    )


def _class_table(
    right: Mapping[str, int], answered: Mapping[str, int], gold: Mapping[str, int], *, part: Part
) -> Table:
    """Return precision, recall and F1 of each class that occurs, lowest F1 first, of equals the one with more rows."""
    rows: list[tuple[str, float, float, float, int, int]] = []
    for label in dict.fromkeys((*gold, *answered)):
        hits, num_gold, num_answered = right.get(label, 0), gold.get(label, 0), answered.get(label, 0)
        precision = hits / num_answered if num_answered else 0.0
        recall = hits / num_gold if num_gold else 0.0
        f1 = 2 * hits / (num_gold + num_answered)
        rows.append((label, precision, recall, f1, num_gold, num_answered))
    rows.sort(key=lambda row: (row[3], -row[4], row[0]))
    return Table(
        part=part,
        columns=(
            Column.CLASS,
            Column.PRECISION,
            Column.RECALL,
            Column.F1,
            Column.NUM_GOLD,
            Column.NUM_ANSWERED,
        ),
        rows=tuple(rows[:MOST_CLASSES]),
        more=max(0, len(rows) - MOST_CLASSES),
    )


# ------------------------------------------------------------------------------------------ probabilities
def _reliability(
    golds: Sequence[Any],
    answers: Sequence[Answer],
    temperature: float,
    tempered: Tempered,
    *,
    several: bool,
) -> Iterable[Block]:
    if any(answer.probabilities is None for answer in answers):
        return
    _, claimed_P, true_P = claims(golds, answers, several=several)
    bins_P = bins_of(claimed_P)
    members = [bins_P == number for number in np.unique(bins_P)]
    metric = yes_calibration() if several else label_calibration()
    error = metric.value(golds, answers)
    untempered = _untempered(answers, temperature, tempered)
    yield Reliability(
        num_bins=NUM_BINS,
        bins=tuple(
            Bin(claimed=float(claimed_P[own].mean()), true=float(true_P[own].mean()), count=int(own.sum()))
            for own in members
        ),
        error=error,
        before=error if temperature == 1 else metric.value(golds, untempered),
        temperature=temperature,
    )


def _untempered(answers: Sequence[Answer], temperature: float, tempered: Tempered) -> list[Answer]:
    """Return the answers with the probabilities that they would have at temperature 1."""
    given_NC = table_of(answers)
    raw_NC = tempered(given_NC, 1 / temperature)
    return [
        Answer(label=answer.label, probabilities=dict(zip(answer.probabilities or (), row, strict=False)))
        for answer, row in zip(answers, raw_NC.tolist(), strict=True)
    ]


# -------------------------------------------------------------------------------------------------- spans
def _span_errors(missing: set[Span], extra: set[Span]) -> Iterable[SpanError]:
    """Yield an error for each gold span that was not answered, and each answered one that meets no such span."""
    met: set[Span] = set()
    for kind, start, end in sorted(missing):
        over = {one for one in extra if one[1] < end and start < one[2]}
        met |= over
        if not over:
            yield SpanError.MISSED
        elif any(one[1:] == (start, end) for one in over):
            yield SpanError.TYPE
        elif any(one[0] == kind for one in over):
            yield SpanError.BOUNDARY
        else:
            yield SpanError.BOTH
    yield from (SpanError.SPURIOUS for _ in extra - met)
