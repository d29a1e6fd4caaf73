"""How a task looks as a stock model of the transformers library."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StockForm(StrEnum):
    """Which family of stock classes a task fits."""

    SEQUENCE = "sequence"  # AutoModelForSequenceClassification: one vector of logits a row
    TOKENS = "tokens"  # AutoModelForTokenClassification: one vector of logits a token
    CAUSAL = "causal"  # AutoModelForCausalLM: the trunk with its own output embedding


@dataclass(frozen=True, slots=True)
class Stock:
    """What a stock model's configuration says of a task.

    Attributes:
        form: the family of classes.
        labels: names of the outputs in their order; empty for causal models.
        problem_type: ``single_label_classification``, ``multi_label_classification``, ``regression`` or None.
        pipeline: the Hub's name for what such models do.
    """

    form: StockForm
    labels: tuple[str, ...]
    problem_type: str | None
    pipeline: str
