"""Prediction by a stock bf16 model and its fast tokenizer: from texts to labels and probabilities."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bench.judge import accuracy
from bench.order import Clock, Order, peak_mib, report
from bench.peers.tasks import MAX_TOKENS
from bench.peers.trainer import Config
from bench.rates import BATCH, SINGLES
from bench.rawfiles import rows_of


class Model:
    """A classifier as a user writes it."""

    def __init__(self, order: Order, config: Config) -> None:
        folder = order.files / "plain" / "sentiment"
        attention = "eager" if config is Config.TUNED else "sdpa"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        loaded = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.bfloat16, attn_implementation=attention
        )
        self.model: Any = loaded.eval()

    def answer(self, texts: Sequence[str]) -> list[tuple[str, list[float]]]:
        """Return label and probabilities of each text."""
        pieces = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        with torch.inference_mode():
            logits = self.model(**pieces).logits.float()
        shares = logits.softmax(-1).tolist()
        return [
            (self.model.config.id2label[max(range(len(row)), key=row.__getitem__)], row) for row in shares
        ]


def main() -> None:
    order = Order.read()
    clock, config = Clock(), Config(order.contestant)
    texts = [row["text"] for row in rows_of(order.files / "train.jsonl", order.rows)]
    model = Model(order, config)
    model.answer(texts[:1])
    clock.first()
    model.answer(texts[:BATCH])
    clock.add("batch 32", batches(model, texts, config), len(texts))
    start = time.perf_counter()
    for text in texts[:SINGLES]:
        model.answer([text])
    clock.add("one at a time", time.perf_counter() - start, len(texts[:SINGLES]))
    peak = peak_mib()
    dev = rows_of(order.files / "dev.jsonl")
    said = [model.answer([row["text"]])[0][0] for row in dev]
    report(clock, [accuracy("sst2", [row["label"] for row in dev], said)], peak=peak)


def batches(model: Model, texts: Sequence[str], config: Config) -> float:
    """Return the seconds for all ``texts`` in batches; the tuned user sorts them by length first."""
    start = time.perf_counter()
    if config is Config.TUNED:
        texts = sorted(texts, key=len)
    for at in range(0, len(texts), BATCH):
        model.answer(texts[at : at + BATCH])
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
