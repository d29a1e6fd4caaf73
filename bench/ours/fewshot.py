"""Few-shot classification at Weft's defaults, end to end."""

from __future__ import annotations

from bench.order import Clock, Order, peak_mib, report, since_birth
from bench.ours.runs import recipe, run
from bench.rawfiles import rows_of


def main() -> None:
    order, clock = Order.read(), Clock()
    num_rows = len(rows_of(order.files / "train.jsonl"))
    task = "sst2: {kind: classification, train: train.jsonl, dev: dev.jsonl}"
    ran = run(recipe([task], "strategy: full", order, model="minilm"), order, clock)
    clock.add("training", ran.seconds, num_rows)
    clock.add("whole", since_birth(), num_rows)
    report(clock, ran.scores(), peak=peak_mib())


if __name__ == "__main__":
    main()
