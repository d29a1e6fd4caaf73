"""Further families for the Trainer, each as transformers' own examples do it: spans in contexts, choices, many labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from bench.judge import accuracy, micro_f1, question_f1
from bench.order import Score
from bench.peers.tasks import Labels, Row, pieces_of

STRIDE, BEST, LONGEST = 128, 20, 30
ASKED = {"cause": "What was the cause?", "effect": "What happened as a result?"}


class ManyLabels(Labels):
    """A text to any number of labels."""

    def __init__(self, tokenizer: Any, train: Sequence[Row], max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.labels = sorted({label for row in train for label in row["labels"]})

    def model(self, base: str, options: dict[str, Any]) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=len(self.labels), problem_type="multi_label_classification", **options
        )

    def encode(self, rows: Sequence[Row]) -> list[Row]:
        pieces = pieces_of(self.tokenizer, rows, self.max_tokens)
        return [
            {**piece, "labels": [float(label in row["labels"]) for label in self.labels]}
            for piece, row in zip(pieces, rows, strict=True)
        ]

    def score(self, outputs: Any, label_ids: Any, name: str) -> Score:
        gold = [self._named(row > 0.5) for row in label_ids]
        return micro_f1(name, gold, [self._named(row > 0) for row in outputs])

    def _named(self, chosen: Any) -> list[str]:
        return [label for label, is_chosen in zip(self.labels, chosen, strict=True) if is_chosen]


class Choices:
    """A premise and a question to one of several choices."""

    def __init__(self, tokenizer: Any, train: Sequence[Row], max_tokens: int) -> None:  # noqa: ARG002
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    def model(self, base: str, options: dict[str, Any]) -> Any:
        from transformers import AutoModelForMultipleChoice

        return AutoModelForMultipleChoice.from_pretrained(base, **options)

    def encode(self, rows: Sequence[Row]) -> list[Row]:
        encoded: list[Row] = []
        for row in rows:
            asked = ASKED.get(row["question"], row["question"])
            first, second = (
                [row["premise"]] * len(row["choices"]),
                [f"{asked} {one}" for one in row["choices"]],
            )
            found = self.tokenizer(first, second, truncation=True, max_length=self.max_tokens)
            encoded.append({**found, "labels": row["label"]})
        return encoded

    def collator(self, options: dict[str, Any]) -> Callable[[list[Any]], Any]:  # noqa: ARG002
        from transformers import DataCollatorForMultipleChoice

        return DataCollatorForMultipleChoice(self.tokenizer)

    def score(self, outputs: Any, label_ids: Any, name: str) -> Score:
        gold = [str(index) for index in np.ravel(label_ids)]
        return accuracy(name, gold, [str(index) for index in outputs.argmax(-1)])


class Questions:
    """A question and a context to a span of it; long contexts in strided windows, each a row of its own."""

    def __init__(self, tokenizer: Any, train: Sequence[Row], max_tokens: int) -> None:  # noqa: ARG002
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    def model(self, base: str, options: dict[str, Any]) -> Any:
        from transformers import AutoModelForQuestionAnswering

        return AutoModelForQuestionAnswering.from_pretrained(base, **options)

    def windows(self, rows: Sequence[Row]) -> Any:
        """Return the windows of all rows, with the row of each and the place of each piece in the context."""
        return self.tokenizer(
            [row["question"].strip() for row in rows],
            [row["context"] for row in rows],
            truncation="only_second",
            max_length=self.max_tokens,
            stride=min(STRIDE, self.max_tokens // 2),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )

    def encode(self, rows: Sequence[Row]) -> list[Row]:
        found = self.windows(rows)
        names = [name for name in found if name not in ("overflow_to_sample_mapping", "offset_mapping")]
        encoded: list[Row] = []
        for index, source in enumerate(found["overflow_to_sample_mapping"]):
            start, end = self._span(found, index, rows[source])
            piece = {name: found[name][index] for name in names}
            encoded.append({**piece, "start_positions": start, "end_positions": end})
        return encoded

    def _span(self, found: Any, index: int, row: Row) -> tuple[int, int]:
        """Return the pieces that the answer begins and ends with, (0, 0) where the window does not hold it all."""
        if not row["answers"]["text"]:
            return 0, 0
        first = row["answers"]["answer_start"][0]
        last = first + len(row["answers"]["text"][0])
        places = [
            (at, offset)
            for at, (offset, part) in enumerate(
                zip(found["offset_mapping"][index], found.sequence_ids(index), strict=True)
            )
            if part == 1
        ]
        if not places or places[0][1][0] > first or places[-1][1][1] < last:
            return 0, 0
        start = max(at for at, (begin, _) in places if begin <= first)
        return start, min(at for at, (_, end) in places if end >= last)

    def collator(self, options: dict[str, Any]) -> Callable[[list[Any]], Any]:
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(self.tokenizer, **options)

    def answered(self, trainer: Any, rows: Sequence[Row], name: str) -> Score:
        """Return the F1 of the best spans over all windows of each row."""
        found = self.windows(rows)
        starts, ends = self._logits(trainer.model, found)
        best: dict[int, tuple[float, str]] = defaultdict(lambda: (-np.inf, ""))
        for index, source in enumerate(found["overflow_to_sample_mapping"]):
            context, offsets, parts = (
                rows[source]["context"],
                found["offset_mapping"][index],
                found.sequence_ids(index),
            )
            for i in np.argsort(starts[index])[-BEST:]:
                for j in np.argsort(ends[index])[-BEST:]:
                    if parts[i] == 1 and parts[j] == 1 and i <= j < i + LONGEST:
                        score = float(starts[index][i] + ends[index][j])
                        if score > best[source][0]:
                            best[source] = score, context[offsets[i][0] : offsets[j][1]]
        golds = [row["answers"]["text"] for row in rows]
        return question_f1(name, golds, [best[index][1] for index in range(len(rows))])

    def _logits(self, model: Any, found: Any) -> tuple[list[Any], list[Any]]:
        model.eval()
        starts: list[Any] = []
        ends: list[Any] = []
        names = [name for name in found if name not in ("overflow_to_sample_mapping", "offset_mapping")]
        for first in range(0, len(found["input_ids"]), 32):
            rows = [
                {name: found[name][index] for name in names}
                for index in range(first, min(first + 32, len(found["input_ids"])))
            ]
            inputs = self.tokenizer.pad(rows, return_tensors="pt")
            with torch.no_grad():
                out = model(**inputs)
            for row, start, end in zip(rows, out.start_logits.float(), out.end_logits.float(), strict=True):
                starts.append(start[: len(row["input_ids"])].numpy())
                ends.append(end[: len(row["input_ids"])].numpy())
        return starts, ends

    def score(self, outputs: Any, label_ids: Any, name: str) -> Score:
        raise NotImplementedError("several windows make one answer: see answered")
