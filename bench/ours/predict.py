"""Prediction by an opened bundle: from texts to labels and probabilities."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.judge import accuracy
from bench.order import Clock, Order, peak_mib, report
from bench.rates import BATCH, SINGLES
from bench.rawfiles import rows_of

TASK = "sentiment"
BUDGET = 8192  # tokens of a pass, as ``weft predict`` has it
LEARN = 512  # rows that make a classifier worth comparing
RECIPE = """\
model: {{path: minilm, max_tokens: 128}}
tasks:
  sentiment: {{kind: classification, train: 'train.jsonl[:{rows}]', dev: dev.jsonl}}
stages:
  - {{name: only, strategy: full, lr: 1e-4, length: 1 epoch}}
"""


def make(home: Path, about: dict[str, float]) -> dict[str, float]:
    """Train a classifier on the sentences in ``home``; write its bundle and its plain folder there."""
    from weft.build.catalogue import open_recipe
    from weft.export.bundle import open_bundle
    from weft.export.plain import export_plain
    from weft.recipe.spec import Precision
    from weft.run.folder import RunFolder
    from weft.run.session import train

    path = home / "recipe.yaml"
    path.write_text(RECIPE.format(rows=LEARN), encoding="utf-8")
    for _ in train(open_recipe(path), RunFolder(home / "run"), root=home, overwrite=True):
        pass
    export_plain(open_bundle(home / "run", precision=Precision.FP32), home / "plain", tasks=(TASK,))
    return about


class Answerer:
    """An opened bundle."""

    def __init__(self, home: Path) -> None:
        from weft.export.bundle import open_bundle

        self.bundle = open_bundle(home)

    def answer(self, texts: Sequence[str]) -> list[Any]:
        """Return the answer to each text."""
        from weft.evaluate.ask import ask, from_texts

        opened = self.bundle
        rows = from_texts(opened.tasks, texts, None).rows
        asked = ask(opened.network, opened.tasks, opened.tokenizer, rows, budget=BUDGET, dtype=opened.dtype)
        return [one[TASK] for one in asked]


def main() -> None:
    order, clock = Order.read(), Clock()
    texts = [row["text"] for row in rows_of(order.files / "train.jsonl", order.rows)]
    model = Answerer(order.files / "run")
    model.answer(texts[:1])
    clock.first()
    model.answer(texts[:BATCH])
    start = time.perf_counter()
    for at in range(0, len(texts), BATCH):
        model.answer(texts[at : at + BATCH])
    clock.add("batch 32", time.perf_counter() - start, len(texts))
    start = time.perf_counter()
    for text in texts[:SINGLES]:
        model.answer([text])
    clock.add("one at a time", time.perf_counter() - start, len(texts[:SINGLES]))
    peak = peak_mib()
    dev = rows_of(order.files / "dev.jsonl")
    said = [str(answer.label) for answer in model.answer([row["text"] for row in dev])]
    report(clock, [accuracy("sst2", [row["label"] for row in dev], said)], peak=peak)


if __name__ == "__main__":
    main()
