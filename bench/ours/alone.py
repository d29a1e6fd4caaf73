"""One of the six tasks in a run of its own, everything trained; the contestant's name is the task's."""

from __future__ import annotations

from bench.order import Clock, Order, peak_mib, report
from bench.ours.runs import epochs_of, recipe, run
from bench.rates import BATCH
from bench.six import KINDS

RATE = 1e-4


def main() -> None:
    order, clock = Order.read(), Clock()
    name = order.contestant
    task = f"{name}: {{kind: {KINDS[name]}, train: {name}.train.jsonl, dev: {name}.dev.jsonl}}"
    stage = f"strategy: full, lr: {RATE}, batch: {BATCH}, {epochs_of(order)}"
    ran = run(recipe([task], stage, order), order, clock)
    clock.add("training", ran.seconds, order.rows * order.epochs)
    report(clock, ran.scores(), peak=peak_mib())


if __name__ == "__main__":
    main()
