"""Adapters of four tasks: trained together in mixed batches, each row through its own task's, or one task alone."""

from __future__ import annotations

from bench.judge import of_task
from bench.order import Clock, Order, peak_mib, report
from bench.ours.runs import epochs_of, recipe, run
from bench.pertask import TOGETHER
from bench.rates import BATCH
from bench.strategies import KINDS


def main() -> None:
    order, clock = Order.read(), Clock()
    is_joint = order.contestant == TOGETHER
    names = tuple(KINDS) if is_joint else (order.contestant,)
    tasks = [
        f"{name}: {{kind: {KINDS[name]}, train: {name}.train.jsonl, dev: {name}.dev.jsonl}}" for name in names
    ]
    # As many rows of each task in a step together as it has alone: the same number of steps.
    batch = BATCH * len(names)
    strategy = f"strategy: [{{train: lora, per_task: {str(is_joint).lower()}}}]"
    ran = run(recipe(tasks, f"{strategy}, batch: {batch}, {epochs_of(order)}", order), order, clock)
    clock.add("training", ran.seconds, order.rows * order.epochs * len(names))
    scores = [of_task(task) for task in ran.report.stages[-1].evaluations[-1].tasks]
    report(clock, scores, peak=peak_mib())


if __name__ == "__main__":
    main()
