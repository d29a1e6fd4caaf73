"""What a task's answers look like beyond their scores: small typed blocks of bounded size, for pages and JSON alike."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from weft.report.record import Record

MOST_CLASSES = 40
"""Classes that a block shows; the rest is folded or left out, and counted."""


class Part(StrEnum):
    """What a block shows; pages have a title and a sentence for each."""

    CONFUSION = "confusion"
    PAIRS = "pairs"
    CLASSES = "classes"
    RELIABILITY = "reliability"
    SPAN_TYPES = "span_types"
    SPAN_ERRORS = "span_errors"
    SCATTER = "scatter"
    RESIDUALS = "residuals"
    LENGTHS = "lengths"
    WORST = "worst"
    SAMPLES = "samples"


class Column(StrEnum):
    """What a column of a table holds, which decides how its cells are written."""

    CLASS = "label"
    GOLD = "gold"
    ANSWERED = "answered"
    PRECISION = "precision"
    RECALL = "recall"
    F1 = "f1"
    NUM_GOLD = "num_gold"
    NUM_ANSWERED = "num_answered"
    COUNT = "count"
    SHARE = "share"
    ERROR = "error"


class SpanError(StrEnum):
    """How a span is wrong."""

    TYPE = "wrong_type"
    BOUNDARY = "wrong_boundary"
    BOTH = "wrong_both"
    ELSEWHERE = "elsewhere"
    MISSED = "missed"
    SPURIOUS = "spurious"


class Matrix(Record):
    """Counts of each gold class (rows) answered as each class (columns)."""

    form: Literal["matrix"] = "matrix"
    part: Part
    labels: tuple[str, ...]
    """Of the rows and columns; where classes are folded, there is one row and column more, without a label."""
    counts: tuple[tuple[int, ...], ...]
    folded: int = 0
    """Classes that the last row and column stand for."""


class Table(Record):
    """Rows of cells; ``more`` counts those that are left out."""

    form: Literal["table"] = "table"
    part: Part
    columns: tuple[Column, ...]
    rows: tuple[tuple[str | int | float, ...], ...]
    more: int = 0


class Bin(Record):
    """Probabilities of about one size: their mean, the share that came true, and how many there are."""

    claimed: float
    true: float
    count: int


class Reliability(Record):
    """What probabilities claim and what comes true."""

    form: Literal["reliability"] = "reliability"
    part: Literal[Part.RELIABILITY] = Part.RELIABILITY
    num_bins: int
    """Of equal width between 0 and 1; those without probabilities are left out."""
    bins: tuple[Bin, ...]
    error: float
    """Expected calibration error."""
    before: float
    """The same without the temperature."""
    temperature: float = 1.0


class Points(Record):
    """Gold numbers against answered ones, some of them where there are many."""

    form: Literal["points"] = "points"
    part: Literal[Part.SCATTER] = Part.SCATTER
    points: tuple[tuple[float, float], ...]
    n: int


class Histogram(Record):
    """How many numbers lie in each of some ranges of equal width."""

    form: Literal["histogram"] = "histogram"
    part: Literal[Part.RESIDUALS] = Part.RESIDUALS
    low: float
    high: float
    counts: tuple[int, ...]


class Slice(Record):
    """The primary metric on some of the rows."""

    low: int
    high: int
    """Least and most tokens of these rows."""
    value: float
    interval: tuple[float, float]
    n: int


class Slices(Record):
    """The primary metric on rows of like length."""

    form: Literal["slices"] = "slices"
    part: Literal[Part.LENGTHS] = Part.LENGTHS
    metric: str
    best: float
    higher_is_better: bool
    slices: tuple[Slice, ...]


class Example(Record):
    """One row with its answer; texts are cut."""

    where: str
    text: str
    gold: str
    answer: str
    confidence: float | None = None


class Examples(Record):
    """Rows to read."""

    form: Literal["examples"] = "examples"
    part: Literal[Part.WORST, Part.SAMPLES]
    examples: tuple[Example, ...]


Block = Annotated[
    Matrix | Table | Reliability | Points | Histogram | Slices | Examples, Field(discriminator="form")
]


class TaskDetail(Record):
    """One task's answers to one split."""

    task: str
    kind: str
    split: str
    blocks: tuple[Block, ...]
