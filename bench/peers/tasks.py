"""Three task families for the Trainer: a text or a pair to a label, to a number, and words to tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from bench.judge import accuracy, pearson, span_f1
from bench.order import Score

Row = dict[str, Any]
MAX_TOKENS = 128


class Job(Protocol):
    """A task as a Trainer user writes it down."""

    def model(self, base: str, options: dict[str, Any]) -> Any: ...

    def encode(self, rows: Sequence[Row]) -> list[Row]: ...

    def collator(self, options: dict[str, Any]) -> Callable[[list[Any]], Any]: ...

    def score(self, outputs: Any, label_ids: Any, name: str) -> Score: ...


class Labels:
    """A text, or a pair, to one of the labels that the training rows have."""

    def __init__(self, tokenizer: Any, train: Sequence[Row], max_tokens: int = MAX_TOKENS) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.labels = sorted({row["label"] for row in train})

    def model(self, base: str, options: dict[str, Any]) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=len(self.labels), **options
        )

    def encode(self, rows: Sequence[Row]) -> list[Row]:
        pieces = pieces_of(self.tokenizer, rows, self.max_tokens)
        return [
            {**piece, "labels": self.labels.index(row["label"])}
            for piece, row in zip(pieces, rows, strict=True)
        ]

    def collator(self, options: dict[str, Any]) -> Callable[[list[Any]], Any]:
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(self.tokenizer, **options)

    def score(self, outputs: Any, label_ids: Any, name: str) -> Score:
        gold = [self.labels[index] for index in label_ids]
        return accuracy(name, gold, [self.labels[index] for index in outputs.argmax(-1)])


class Numbers:
    """A text, or a pair, to a number; trained on values scaled to mean 0 and variance 1 of the training rows."""

    def __init__(self, tokenizer: Any, train: Sequence[Row], max_tokens: int = MAX_TOKENS) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        scores = np.array([row["score"] for row in train])
        self.mean, self.spread = float(scores.mean()), float(scores.std())

    def model(self, base: str, options: dict[str, Any]) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=1, problem_type="regression", **options
        )

    def encode(self, rows: Sequence[Row]) -> list[Row]:
        pieces = pieces_of(self.tokenizer, rows, self.max_tokens)
        return [
            {**piece, "labels": (row["score"] - self.mean) / self.spread}
            for piece, row in zip(pieces, rows, strict=True)
        ]

    def collator(self, options: dict[str, Any]) -> Callable[[list[Any]], Any]:
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(self.tokenizer, **options)

    def score(self, outputs: Any, label_ids: Any, name: str) -> Score:
        return pearson(name, np.ravel(label_ids).tolist(), np.ravel(outputs).tolist())


class Tags:
    """Words to tags, learnt and answered at each word's first piece."""

    def __init__(self, tokenizer: Any, train: Sequence[Row], max_tokens: int = MAX_TOKENS) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.tags = sorted({tag for row in train for tag in row["tags"]})

    def model(self, base: str, options: dict[str, Any]) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification.from_pretrained(base, num_labels=len(self.tags), **options)

    def encode(self, rows: Sequence[Row]) -> list[Row]:
        words = [list(row["tokens"]) for row in rows]
        found = self.tokenizer(words, is_split_into_words=True, truncation=True, max_length=self.max_tokens)
        encoded: list[Row] = []
        for index, row in enumerate(rows):
            places = found.word_ids(index)
            labels = [
                self.tags.index(row["tags"][word]) if word is not None and word != before else -100
                for word, before in zip(places, [None, *places], strict=False)
            ]
            encoded.append({name: values[index] for name, values in found.items()} | {"labels": labels})
        return encoded

    def collator(self, options: dict[str, Any]) -> Callable[[list[Any]], Any]:
        from transformers import DataCollatorForTokenClassification

        return DataCollatorForTokenClassification(self.tokenizer, **options)

    def score(self, outputs: Any, label_ids: Any, name: str) -> Score:
        guesses, keep = outputs.argmax(-1), [np.flatnonzero(row != -100) for row in label_ids]
        gold = [[self.tags[label_ids[i, j]] for j in places] for i, places in enumerate(keep)]
        said = [[self.tags[guesses[i, j]] for j in places] for i, places in enumerate(keep)]
        return span_f1(name, gold, said)


KINDS: dict[str, Callable[[Any, Sequence[Row]], Job]] = {
    "classification": Labels,
    "regression": Numbers,
    "tagging": Tags,
}


def pieces_of(tokenizer: Any, rows: Sequence[Row], max_tokens: int) -> list[Row]:
    """Return the pieces of each row's text, or of its pair, without padding."""
    first = [row["text"] if "text" in row else row["text1"] for row in rows]
    pairs = {} if "text" in rows[0] else {"text_pair": [row["text2"] for row in rows]}
    found = tokenizer(first, truncation=True, max_length=max_tokens, **pairs)
    return [{name: values[index] for name, values in found.items()} for index in range(len(rows))]
