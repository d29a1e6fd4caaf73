"""Six tasks in one run on one trunk; everything below the top third is frozen."""

from __future__ import annotations

from bench.order import Clock, Order, peak_mib, report, since_birth
from bench.ours.runs import epochs_of, recipe, run
from bench.rates import BATCH, RATES
from bench.rawfiles import rows_of
from bench.six import KINDS


def main() -> None:
    order, clock = Order.read(), Clock()
    tasks = [
        f"{name}: {{kind: {kind}, train: {name}.train.jsonl, dev: {name}.dev.jsonl}}"
        for name, kind in KINDS.items()
    ]
    rules = "[{sites: all, train: none}, {sites: top 2, train: full}]"
    stage = f"strategy: {rules}, lr: {RATES['six']}, batch: {BATCH}, {epochs_of(order)}"
    ran = run(recipe(tasks, stage, order), order, clock)
    num_rows = sum(len(rows_of(order.files / f"{name}.train.jsonl")) for name in KINDS) * order.epochs
    clock.add("training", ran.seconds, num_rows)
    clock.add("whole", since_birth(), num_rows)
    report(clock, ran.scores(), peak=peak_mib())


if __name__ == "__main__":
    main()
