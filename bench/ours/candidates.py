"""Eight candidate strategies of one job: eight recipes, one after another."""

from __future__ import annotations

from dataclasses import replace

from bench.candidates import CANDIDATES
from bench.order import Clock, Order, Score, peak_mib, report, since_birth
from bench.ours.runs import epochs_of, recipe, run, sst2
from bench.rates import BATCH


def main() -> None:
    order, clock, scores = Order.read(), Clock(), list[Score]()
    for number, (name, candidate) in enumerate(CANDIDATES.items()):
        stage = f"strategy: {candidate.weft}, lr: {candidate.rate}, batch: {BATCH}, {epochs_of(order)}"
        ran = run(recipe([sst2(order)], stage, order), order, clock, name=f"run{number}")
        clock.add("training", ran.seconds, order.rows * order.epochs)
        scores.append(replace(ran.scores()[0], task=name))
    clock.add("whole", since_birth(), order.rows * order.epochs * len(CANDIDATES))
    report(clock, scores, peak=peak_mib())


if __name__ == "__main__":
    main()
