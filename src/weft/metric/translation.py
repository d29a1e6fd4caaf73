"""BLEU and chrF of a corpus, as sacrebleu has them, from 0 to 100; the way of counting is told beside each score.

Legend: N rows, K statistics, O orders of n-grams.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from weft.core.example import Answer
from weft.metric.base import FloatArray, Metric, ratio
from weft.metric.text import references

_ORDERS = 4  # of BLEU
_CHRF_ORDERS = 6
_BETA_SQUARED = 4  # chrF2: recall counts twice
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_LETTER = re.compile(r"[^\W\d_]")
_MOSTLY = 0.3  # of the letters: a Chinese character stands for about two letters more


def bleu() -> Metric:
    """Return corpus BLEU (Papineni et al. 2002; arXiv:1804.08771), tokenized by the language of the references."""
    return Metric(
        "bleu",
        _bleu,
        _bleu_statistics,
        _bleu_of_sums,
        best=100.0,
        signature=lambda golds: _scored_by(_bleu_scorer(golds), golds),
    )


def chrf() -> Metric:
    """Return corpus chrF2 (Popović 2015): characters, so that no tokenizer is chosen."""
    return Metric(
        "chrf",
        _chrf,
        _chrf_statistics,
        _chrf_of_sums,
        best=100.0,
        signature=lambda golds: _scored_by(_chrf_scorer(), golds),
    )


def tokenizer_for(golds: Sequence[Any]) -> str:
    """Return sacrebleu's tokenizer for the language of ``golds``: ``zh``, ``char`` (Japanese) or ``13a`` (others).

    Example:
        >>> tokenizer_for(["这是一本书。", "hello"]), tokenizer_for(["これは本です"]), tokenizer_for(["a book"])
        ('zh', 'char', '13a')
    """
    text = "".join(reference for gold in golds for reference in references(gold))
    han, kana, letters = (len(kind.findall(text)) for kind in (_HAN, _KANA, _LETTER))
    if han + kana <= _MOSTLY * letters or not letters:
        return "13a"
    return "char" if kana > _MOSTLY * (han + kana) else "zh"


def _bleu_scorer(golds: Sequence[Any], *, per_row: bool = False) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    # `force`: no advice on stderr about answers that look tokenized. `effective_order`: none about single rows.
    return BLEU(tokenize=tokenizer_for(golds), force=True, effective_order=per_row)


def _chrf_scorer() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _scored(scorer: Any, golds: Sequence[Any], answers: Sequence[Answer]) -> float:
    most = max(len(references(gold)) for gold in golds)
    streams = [[_or_none(references(gold), at) for gold in golds] for at in range(most)]
    return float(scorer.corpus_score([answer.text or "" for answer in answers], streams).score)


def _or_none(texts: Sequence[str], at: int) -> str | None:
    return texts[at] if at < len(texts) else None


def _scored_by(scorer: Any, golds: Sequence[Any]) -> str:
    _scored(scorer, golds, [Answer(text="")] * len(golds))  # it counts references while it scores
    return str(scorer.get_signature())


def _bleu(golds: Sequence[Any], answers: Sequence[Answer]) -> float:
    return _scored(_bleu_scorer(golds), golds, answers)


def _bleu_statistics(golds: Sequence[Any], answers: Sequence[Answer]) -> FloatArray:
    """Return both lengths, matches of each order and n-grams of each order, (N, 2 + 2 O)."""
    scorer = _bleu_scorer(golds, per_row=True)
    rows: list[list[float]] = []
    for gold, answer in zip(golds, answers, strict=True):
        score = scorer.sentence_score(answer.text or "", list(references(gold)))
        rows.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    return np.array(rows, dtype=np.float64)


def _bleu_of_sums(sums: FloatArray) -> FloatArray:
    """Return BLEU of summed statistics (..., 2 + 2 O), with sacrebleu's default smoothing (``exp``).

    Source: Chen and Cherry 2014, smoothing 3: the n-th order without a match counts as 2^-n matches.
    """
    length, wanted = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2 : 2 + _ORDERS], sums[..., 2 + _ORDERS :]
    is_missed = (matches == 0) & (totals > 0)
    smoothed = np.where(is_missed, 0.5 ** np.cumsum(is_missed, axis=-1), matches)
    precisions = 100 * ratio(smoothed, totals)
    is_scored = (precisions > 0).all(axis=-1) & (matches > 0).any(axis=-1)
    logs = np.log(np.where(precisions > 0, precisions, 1.0)).mean(axis=-1)
    brevity = np.minimum(0.0, 1 - ratio(wanted, length))
    return np.where(is_scored, np.exp(logs + brevity), 0.0)


def _chrf(golds: Sequence[Any], answers: Sequence[Answer]) -> float:
    return _scored(_chrf_scorer(), golds, answers)


def _chrf_statistics(golds: Sequence[Any], answers: Sequence[Answer]) -> FloatArray:
    """Return n-grams of the answer, of the reference and of both, order by order, (N, 3 O)."""
    rows: list[FloatArray] = []
    for gold, answer in zip(golds, answers, strict=True):
        found = _runs(answer.text or "")
        counts = [_counts(found, _runs(reference)) for reference in references(gold)]
        candidates = np.array(counts, dtype=np.float64)
        rows.append(candidates[np.argmax(_chrf_of_sums(candidates))])
    return np.array(rows)


def _runs(text: str) -> list[Counter[str]]:
    """Return the runs of 1 to 6 characters of ``text`` without its blanks."""
    joined = "".join(text.split())
    return [
        Counter(joined[start : start + size] for start in range(len(joined) - size + 1))
        for size in range(1, _CHRF_ORDERS + 1)
    ]


def _counts(found: Sequence[Counter[str]], wanted: Sequence[Counter[str]]) -> list[float]:
    counts: list[float] = []
    for own, reference in zip(found, wanted, strict=True):
        # As the library does: where the reference is too short to have any, the answer's are not counted either.
        counts += [own.total() if reference else 0, reference.total(), (own & reference).total()]
    return counts


def _chrf_of_sums(sums: FloatArray) -> FloatArray:
    """Return chrF2 of summed statistics (..., 3 O): the F of mean precision and mean recall of the orders both have."""
    found, wanted, both = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    has_order = (found > 0) & (wanted > 0)
    num_orders = has_order.sum(axis=-1).astype(np.float64)
    precision = ratio((ratio(both, found) * has_order).sum(axis=-1), num_orders)
    recall = ratio((ratio(both, wanted) * has_order).sum(axis=-1), num_orders)
    return 100 * ratio((1 + _BETA_SQUARED) * precision * recall, _BETA_SQUARED * precision + recall)
