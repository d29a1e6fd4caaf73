"""Scores with 95 % bootstrap intervals: the same reading of every contestant's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.order import Score

RESAMPLES = 1000


def accuracy(task: str, gold: Sequence[str], said: Sequence[str]) -> Score:
    """Return the share of equal labels."""
    from weft.core.example import Answer
    from weft.metric.classification import single_label_metrics

    return _score(task, single_label_metrics(), gold, [Answer(label=label) for label in said])


def pearson(task: str, gold: Sequence[float], said: Sequence[float]) -> Score:
    """Return the correlation."""
    from weft.core.example import Answer
    from weft.metric.regression import regression_metrics

    answers = [Answer(value=float(value)) for value in said]
    return _score(task, regression_metrics(), [float(value) for value in gold], answers)


def span_f1(task: str, gold: Sequence[Sequence[str]], said: Sequence[Sequence[str]]) -> Score:
    """Return seqeval's F1 of spans."""
    from weft.core.example import Answer
    from weft.metric.tagging import tagging_metrics

    return _score(task, tagging_metrics(), list(gold), [Answer(tags=tuple(tags)) for tags in said])


def micro_f1(task: str, gold: Sequence[Sequence[str]], said: Sequence[Sequence[str]]) -> Score:
    """Return the F1 of all labels of all rows together."""
    from weft.core.example import Answer
    from weft.metric.classification import multi_label_metrics

    answers = [Answer(label=list(labels)) for labels in said]
    return _score(task, multi_label_metrics(), [tuple(labels) for labels in gold], answers)


def question_f1(task: str, gold: Sequence[Sequence[str]], said: Sequence[str]) -> Score:
    """Return the F1 of the words (Chinese: characters) of spans against the best of the references."""
    from weft.core.example import Answer
    from weft.metric.question_answering import qa_metrics

    answers = [Answer(text=text) for text in said]
    return _score(task, qa_metrics(has_unanswerable=False), [tuple(texts) for texts in gold], answers)


def bleu(task: str, gold: Sequence[str], said: Sequence[str]) -> Score:
    """Return sacrebleu's corpus BLEU."""
    from weft.core.example import Answer
    from weft.metric.translation import bleu as corpus_bleu

    return _score(task, [corpus_bleu()], list(gold), [Answer(text=text) for text in said])


def mean_score(task: str, metric: str, totals: Sequence[float], weights: Sequence[float]) -> Score:
    """Return ``sum(totals) / sum(weights)``, its interval over rows."""
    generator = np.random.default_rng(0)
    total_N, weight_N = np.asarray(totals, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    draws_SN = generator.integers(len(total_N), size=(RESAMPLES, len(total_N)))
    values_S = total_N[draws_SN].sum(1) / weight_N[draws_SN].sum(1)
    low, high = np.quantile(values_S, [0.025, 0.975])
    return Score(task, metric, float(total_N.sum() / weight_N.sum()), float(low), float(high), len(total_N))


def of_task(report: Any) -> Score:
    """Return the primary score of one of Weft's task reports."""
    first = report.scores[0]
    return Score(report.task, first.metric, first.value, first.low, first.high, first.n)


def _score(task: str, metrics: Sequence[Any], gold: Sequence[Any], answers: Sequence[Any]) -> Score:
    from weft.metric.bootstrap import interval

    low, high = interval(metrics[0], gold, answers, resamples=RESAMPLES, seed=0)
    return Score(task, metrics[0].name, float(metrics[0].value(gold, answers)), low, high, len(gold))
