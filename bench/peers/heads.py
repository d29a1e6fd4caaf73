"""Sixteen classifications of one text by sixteen stock bf16 models, one after another."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from bench.order import Clock, Order, peak_mib, report
from bench.peers.sentences import minilm
from bench.peers.tasks import MAX_TOKENS
from bench.peers.trainer import Config
from bench.rates import BATCH, HEADS
from bench.rawfiles import rows_of

SINGLE = 200  # texts that are asked one at a time


def main() -> None:
    order = Order.read()
    clock, config = Clock(), Config(order.contestant)
    base = minilm(order)
    attention = "eager" if config is Config.TUNED else "sdpa"
    models = [
        AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=2, dtype=torch.bfloat16, attn_implementation=attention
        ).eval()
        for _ in range(HEADS)
    ]
    texts = [row["text"] for row in rows_of(order.files / "train.jsonl", order.rows)]
    grids = batches(base, texts, config)
    run(models[:1], grids[:1])
    clock.first()
    num_texts = sum(len(grid["input_ids"]) for grid in grids)
    single = batches(base, texts[:SINGLE], config, size=1)
    for words, asked, count in (("", grids, num_texts), (", one text", single, len(single))):
        for name, chosen in (("1 head", models[:1]), (f"{HEADS} heads", models)):
            run(chosen, asked[:1])
            clock.add(f"{name}{words}", run(chosen, asked), count)
    report(clock, [], peak=peak_mib())


def batches(base: str, texts: list[str], config: Config, size: int = BATCH) -> list[Any]:
    """Return tokenised, padded batches of ``size``; the tuned user's are sorted by length."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [tokenizer(text, truncation=True, max_length=MAX_TOKENS) for text in texts]
    if config is Config.TUNED:
        rows.sort(key=lambda row: len(row["input_ids"]))
    collate = DataCollatorWithPadding(tokenizer)
    return [collate(rows[at : at + size]) for at in range(0, len(rows), size)]


def run(models: list[Any], grids: list[Any]) -> float:
    """Return the seconds that every model takes to answer every batch."""
    start = time.perf_counter()
    with torch.inference_mode():
        for grid in grids:
            for model in models:
                model(**grid).logits.float().softmax(-1).tolist()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
