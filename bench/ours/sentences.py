"""Full training, LoRA, the top two layers or the head alone, on whole sentences."""

from __future__ import annotations

from bench.order import Clock, Order, peak_mib, report
from bench.ours.runs import epochs_of, recipe, run, sst2
from bench.rates import BATCH, RATES

STRATEGIES = {"full": "full", "lora": "lora", "top2": "top 2", "head": "head"}


def main() -> None:
    order, clock = Order.read(), Clock()
    stage = f"strategy: {STRATEGIES[order.job]}, lr: {RATES[order.job]}, batch: {BATCH}, {epochs_of(order)}"
    ran = run(recipe([sst2(order)], stage, order), order, clock)
    for epoch, seconds in ran.epochs.items():
        clock.add(f"epoch {epoch}", seconds, order.rows)
    report(clock, ran.scores(), peak=peak_mib())


if __name__ == "__main__":
    main()
