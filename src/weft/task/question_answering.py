"""Extractive question answering: the answer is a piece of the context, found by the scores of its first and last token.

A context that is longer than a row becomes strided windows, each behind the question; an example is all its windows
(``Encoded.more``). Loss and scores are those of transformers' question answering models and its run_qa script.

Legend: R windows, M tokens of all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from weft.core.batch import Target
from weft.core.example import Answer, Dropped, Encoded, Purpose, Row, Text
from weft.core.layout import Layout
from weft.core.loss import Loss
from weft.core.network import Inference, TrunkInfo
from weft.core.stock import Stock, StockForm
from weft.core.tensors import int64
from weft.data import columns as known
from weft.data.columns import Role, resolve
from weft.errors import DataError
from weft.metric.base import Metric
from weft.metric.question_answering import best, f1, qa_metrics
from weft.objective.losses import span_cross_entropy
from weft.recipe.spec import TaskSpec
from weft.report.details import Block
from weft.task.base import Tokenizer, Windows
from weft.task.heads import TokenHead, new_linear
from weft.task.references import References, references
from weft.task.sequence import Columns, text_in
from weft.task.several import apart
from weft.task.shown import answer_blocks
from weft.task.windows import FIRST, Reading, best_spans, token_spans

NUM_BEST = 20  # spans that share the probability, as in the official scripts
MOST_WINDOWS = 256  # of one context; all windows of an example are answered in one batch
_HUGE = 1e9  # stands for an infinite logit of a network that has diverged
_BEST, _NO_ANSWER = "best", "no_answer"  # names in an answer's ``extra``


class QuestionAnsweringSpec(TaskSpec):
    """A recipe's extractive question answering task."""

    kind: Literal["qa"]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Task family."""
    stride: int = Field(128, ge=0, le=100_000)
    """Tokens that neighbouring windows of a long context share; at most half of what a window has of the context."""
    max_answer_tokens: int = Field(30, ge=1, le=10_000)
    """Longest answer that is given, in tokens."""


@dataclass(frozen=True, slots=True)
class Spans:
    """The target of one row.

    Attributes:
        spans: first and last token of the answer in each window's row; None without gold.
        reading: to read answers back; None where the row is only learnt from.
    """

    spans: tuple[tuple[int, int], ...] | None
    reading: Reading | None


@dataclass(frozen=True, slots=True)
class _Asked:
    question: str
    context: str
    references: References | None


@dataclass(frozen=True, slots=True)
class QuestionAnswering:
    """A fitted question answering task.

    Attributes:
        name: of the task.
        columns: by role.
        stride: tokens that neighbouring windows share.
        max_answer_tokens: longest answer.
        unanswerable: whether some training questions have no answer: then none may be given.
        threshold: none is given when the score of no answer is above the best answer's by more than this; fitted to dev.
    """

    kind: ClassVar[str] = "qa"
    spec_type: ClassVar[type[TaskSpec]] = QuestionAnsweringSpec
    wants_lm_head: ClassVar[bool] = False

    name: str
    columns: Columns
    stride: int = 128
    max_answer_tokens: int = 30
    unanswerable: bool = False
    threshold: float = 0.0

    @classmethod
    def fit(cls, name: str, spec: TaskSpec, rows: Sequence[Row]) -> Self:
        """Return the task with the columns of ``rows``, which also say whether a question may have no answer."""
        spec = cast(QuestionAnsweringSpec, spec)
        roles = (
            Role("context", known.CONTEXT),
            Role("question", known.QUESTION, is_text=True),
            Role("answers", known.ANSWERS),
            Role("answer_start", known.ANSWER_START, required=False),
            Role("impossible", known.IMPOSSIBLE, required=False),
        )
        columns = resolve(rows, roles, spec.columns, what=f"tasks.{name}")
        read = [references(row, text_in(row, columns["context"]), columns) for row in rows]
        found = [one for one in read if isinstance(one, References)]
        if not any(one.texts for one in found):
            reasons = Counter(one for one in read if isinstance(one, str))
            raise DataError(
                f"tasks.{name}: column {columns['answers']!r} must hold answers that are pieces of the context, but holds "
                f"none in {len(rows)} rows ({', '.join(reasons) or 'all are empty'}). Give the right columns under "
                f"columns: {{context: ..., question: ..., answers: ...}}, or use kind: generation for free answers."
            )
        unanswerable = not all(one.texts for one in found)
        return cls(name, columns, spec.stride, spec.max_answer_tokens, unanswerable)

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> Self:
        """Return the task that ``config()`` described."""
        options = (config["stride"], config["max_answer_tokens"], config["unanswerable"], config["threshold"])
        return cls(name, dict(config["columns"]), *options)

    def config(self) -> dict[str, Any]:
        """Return columns, options and what was fitted as JSON values."""
        return {
            "columns": dict(self.columns),
            "stride": self.stride,
            "max_answer_tokens": self.max_answer_tokens,
            "unanswerable": self.unanswerable,
            "threshold": self.threshold,
        }

    def ask(self, text: str, pair: str | None = None) -> Row:
        """Return the row that asks the question ``text`` of the context ``pair``."""
        if pair is None:
            raise DataError(
                f"{self.name}: the task takes a question and its context, but one text was given. Give both."
            )
        return Row({str(self.columns["question"]): text, str(self.columns["context"]): pair}, "question")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of the question and the context."""
        return (str(self.columns["question"]), str(self.columns["context"]))

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, purpose: Purpose) -> list[Encoded | Dropped]:
        """Return each row as its windows with its target, or why it is not used."""
        read = [self._read(row, purpose) for row in rows]
        asked = [one for one in read if isinstance(one, _Asked)]
        questions, contexts = [one.question for one in asked], [one.context for one in asked]
        windows = iter(tokenizer.windows(questions, contexts, overlap=self.stride) if asked else ())
        return [
            one if isinstance(one, Dropped) else _encoded(row, one, next(windows), purpose)
            for row, one in zip(rows, read, strict=True)
        ]

    def _read(self, row: Row, purpose: Purpose) -> _Asked | Dropped:
        question, context = (text_in(row, self.columns[role]) for role in ("question", "context"))
        if not question or not context:
            return Dropped(row.where, "empty text")
        found = references(row, context, self.columns)
        if isinstance(found, str):
            return Dropped(row.where, found)
        if found is None and purpose is Purpose.LEARN:
            return Dropped(row.where, "no answers")
        return _Asked(question, context, found)

    def collate(self, encoded: Sequence[Encoded], rows: Sequence[int], layout: Layout) -> Target:
        """Return the target: ``positions`` (M,) of all tokens, window by window, the window of each in ``windows`` (M,).

        ``labels`` (R, 2) are the answer's first and last token as places among the M; the weight is R windows.
        """
        rows_R = int64(rows)
        lengths_R, starts_R = layout.lengths_B[rows_R], layout.starts_B[rows_R]
        firsts_R = lengths_R.cumsum(0) - lengths_R
        windows_M = torch.arange(len(rows_R)).repeat_interleave(lengths_R)
        positions_M = torch.arange(len(windows_M)) + (starts_R - firsts_R)[windows_M]
        values = {"positions": positions_M, "windows": windows_M}
        spans = [cast(Spans, example.target).spans for example in encoded]
        has_gold = all(one is not None for one in spans)
        if has_gold:
            own = [span for one in spans for span in one or ()]
            values["labels"] = torch.tensor(own, dtype=torch.int64).view(-1, 2) + firsts_R[:, None]
        weight = float(len(rows_R)) if has_gold else 0.0
        return Target(rows_R, values, weight, num_examples=len(encoded))

    def divided(self, example: Encoded) -> list[Encoded]:
        """Return each window as an example of its own: each is learnt by itself."""
        return apart(example, [Spans((span,), None) for span in cast(Spans, example.target).spans or ()])

    def head(self, info: TrunkInfo, *, dropout: float, seed: int) -> TokenHead:
        """Return a new head with two outputs a token: of being the answer's first, and its last."""
        return TokenHead(new_linear(info, 2, has_bias=True, seed=seed), dropout=dropout)

    def loss(self, outputs: Tensor, target: Target) -> Loss:
        """Return the mean of the cross entropies of the first and the last token, summed over windows."""
        return span_cross_entropy(outputs, target.values["windows"], target.values["labels"])

    def answers(self, inference: Inference, encoded: Sequence[Encoded]) -> list[Answer]:
        """Return the best piece of each context as ``text``, or no text where that is likelier.

        ``extra`` has its ``start`` and ``end`` in the context, in characters, and its ``score``: its probability among
        the 20 best. Where a question may have no answer, that one is among them, ``best`` is the answer that would be
        given and ``no_answer`` by how much the score of none is above its own.
        """
        logits = inference.outputs(self.name).detach().float().cpu().nan_to_num(0.0, _HUGE, -_HUGE).numpy()
        return [
            self._answer(cast(Reading, cast(Spans, example.target).reading), own)
            for example, own in zip(encoded, _by_example(logits, encoded), strict=True)
        ]

    def _answer(self, reading: Reading, logits: Sequence[NDArray[np.float32]]) -> Answer:
        none = min(float(scores[FIRST[0]].sum()) for scores in logits)
        spans = best_spans(reading, logits, most_tokens=self.max_answer_tokens, number=NUM_BEST)
        scores = [span.score for span in spans] + ([none] if self.unanswerable else [])
        span = spans[0]
        text = reading.context[span.start : span.end]
        weights = np.exp(np.array(scores) - max(scores))
        score = float(weights[0] / weights.sum())
        extra: dict[str, Any] = {"start": span.start, "end": span.end, "score": score}
        if self.unanswerable:
            extra |= {_BEST: text, _NO_ANSWER: none - span.score}
        return self._settled(Answer(text=text, extra=extra))

    def _settled(self, answer: Answer) -> Answer:
        """Return ``answer`` with its best text, or none, by the threshold."""
        if not self.unanswerable:
            return answer
        return replace(answer, text="" if answer.extra[_NO_ANSWER] > self.threshold else answer.extra[_BEST])

    def calibrated(self, golds: Sequence[Any], answers: Sequence[Answer]) -> tuple[Self, list[Answer]]:
        """Return the task with the threshold of the highest F1 on these rows, and its answers to them.

        Where all of them have an answer, or none has, there is nothing to choose by.
        """
        if not self.unanswerable or all(golds) or not any(golds):
            return self, list(answers)
        gains = [_gain(gold, answer) for gold, answer in zip(golds, answers, strict=True)]
        above = [float(answer.extra[_NO_ANSWER]) for answer in answers]
        task = replace(self, threshold=best_threshold(above, gains))
        return task, [task._settled(answer) for answer in answers]

    def shown(self, golds: Sequence[Any], answers: Sequence[Answer]) -> tuple[Block, ...]:
        """Return how answers are wrong."""
        return answer_blocks(golds, answers)

    def baseline(self, golds: Sequence[Any], num_answers: int) -> list[Answer]:
        """Return the most frequent answer for every row, which may be none; of equals the one seen first."""
        common = Counter(gold[0] if gold else "" for gold in golds).most_common(1)
        return [Answer(text=common[0][0] if common else "")] * num_answers

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """F1 first."""
        return qa_metrics(has_unanswerable=self.unanswerable)

    def describe(self, golds: Sequence[Any]) -> dict[str, int]:
        """Return the number of questions with an answer, without one, and with several references."""
        counts = {
            "with an answer": sum(bool(gold) for gold in golds),
            "without": sum(not gold for gold in golds),
            "with several references": sum(len(gold) > 1 for gold in golds),
        }
        return {name: count for name, count in counts.items() if count}

    def stock(self) -> Stock:
        """Return what a stock transformers model would say of this task, for export."""
        return Stock(StockForm.SPAN, ("start", "end"), None, "question-answering")

    def same_head(self, config: Mapping[str, Any]) -> str | None:  # noqa: ARG002
        """Return None: the two outputs mean the same whatever the data."""
        return None


def best_threshold(above: Sequence[float], gains: Sequence[float]) -> float:
    """Return the threshold between rows at which answering those not above it gains most.

    It lies half way between two rows, so that rows like them fall on the same side.

    Args:
        above: by how much the score of no answer is above the best answer's, a row each; at least one.
        gains: what answering adds to a row's score.

    Example:
        >>> best_threshold([-4.0, 1.0, -2.0, 3.0], [1.0, 0.5, 1.0, -1.0]), best_threshold([0.0, 2.0], [-1.0, -1.0])
        (2.0, -1.0)
    """
    order = np.argsort(above, kind="stable")
    places = np.array(above, dtype=np.float64)[order]
    sums = np.concatenate([[0.0], np.cumsum(np.array(gains, dtype=np.float64)[order])])
    cuts = np.concatenate([[True], places[1:] > places[:-1], [True]])  # rows of one place stay together
    number = int(np.argmax(np.where(cuts, sums, -np.inf)))
    ends = np.concatenate([[places[0] - 2.0], places, [places[-1] + 2.0]])
    low, high = float(ends[number]), float(ends[number + 1])
    middle = (low + high) / 2
    return middle if middle < high else low


def _gain(gold: Any, answer: Answer) -> float:
    answered = best(f1, gold, replace(answer, text=answer.extra[_BEST]))
    return answered - best(f1, gold, replace(answer, text=""))


def _encoded(row: Row, asked: _Asked, windows: Windows, purpose: Purpose) -> Encoded | Dropped:
    places = zip(windows.starts, windows.ends, strict=True)
    if not any(asked.context[start:end].strip() for start, end in places):
        return Dropped(row.where, "context has no token")
    if len(windows.bounds) > MOST_WINDOWS:
        return Dropped(row.where, f"context of more than {MOST_WINDOWS} windows")
    spans = None
    if asked.references is not None:
        spans = token_spans(windows, asked.references.span)
        if spans is None:
            return Dropped(row.where, "answer has no token")
    reading = None
    if purpose is Purpose.ANSWER:
        reading = Reading(asked.context, windows.at, windows.bounds, windows.starts, windows.ends)
    first, *others = windows.pieces
    return Encoded(
        first.tokens,
        first.segments,
        Spans(spans, reading),
        None if asked.references is None else asked.references.texts,
        row.where,
        num_cut=first.num_cut,
        more=tuple(Text(piece.tokens, piece.segments) for piece in others),
    )


def _by_example(
    logits: NDArray[np.float32], encoded: Sequence[Encoded]
) -> Iterator[list[NDArray[np.float32]]]:
    """Yield the logits of each example's windows, (tokens, 2) each."""
    at = 0
    for example in encoded:
        own: list[NDArray[np.float32]] = []
        for text in example.texts:
            own.append(logits[at : at + len(text.tokens)])
            at += len(text.tokens)
        yield own
