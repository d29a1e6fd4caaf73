"""Similarity of sentence pairs as a regression: both texts are read together."""

from __future__ import annotations

from bench.order import Clock, Order, peak_mib, report
from bench.ours.runs import epochs_of, recipe, run
from bench.rates import BATCH, RATES


def main() -> None:
    order, clock = Order.read(), Clock()
    task = f"stsb: {{kind: regression, train: 'train.jsonl[:{order.rows}]', dev: dev.jsonl}}"
    stage = f"strategy: full, lr: {RATES['pairs']}, batch: {BATCH}, {epochs_of(order)}"
    ran = run(recipe([task], stage, order), order, clock)
    clock.add("epoch 1", ran.seconds, order.rows)
    report(clock, ran.scores(), peak=peak_mib())


if __name__ == "__main__":
    main()
