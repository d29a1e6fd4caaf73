"""How a task looks as a stock model of the transformers library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from weft.core.decoding import Decoding

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


class StockForm(StrEnum):
    """Which family of stock classes a task fits."""

    SEQUENCE = "sequence"  # AutoModelForSequenceClassification: one vector of logits a row
    TOKENS = "tokens"  # AutoModelForTokenClassification: one vector of logits a token
    CHOICE = "choice"  # AutoModelForMultipleChoice: one logit a row, some rows to choose from
    SPAN = "span"  # AutoModelForQuestionAnswering: a logit a token to be the first, one to be the last
    CAUSAL = "causal"  # AutoModelForCausalLM: the trunk with its own output embedding
    REPLIES = "replies"  # AutoModelForSeq2SeqLM: what such a task is on an encoder-decoder


@dataclass(frozen=True, slots=True)
class Stock:
    """What a stock model's configuration says of a task.

    Attributes:
        form: the family of classes.
        labels: names of the outputs in their order; empty where outputs have none: causal models, choices.
        problem_type: what sequence classification means here; None for the other forms.
        pipeline: the Hub's name for what such models do.
        windows: how a text beyond the model's limit is divided and its windows' logits become one (the recipe's keys):
            a stock model answers one window. None where such a text is cut.
    """

    form: StockForm
    labels: tuple[str, ...]
    problem_type: ProblemType | None
    pipeline: str
    windows: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class StockText:
    """How a stock model that generates text is asked, and how it answers.

    Attributes:
        decoding: of its answers, with the tokens that end one and the language that all begin with.
        chat_template: in Jinja; None where the tokenizer's own, or none, is what the task uses.
        languages: codes of what is read and of what is written, for translators between many languages.
        source: token of the first of them; that of the second is ``decoding.first``.
    """

    decoding: Decoding
    chat_template: str | None = None
    languages: tuple[str, str] | None = None
    source: int | None = None
