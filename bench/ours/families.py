"""One set of ``bench.families`` by Weft: the job's name is the set's."""

from __future__ import annotations

from bench.families import SETS
from bench.judge import of_task
from bench.order import Clock, Order, peak_mib, report
from bench.ours.runs import recipe, run


def main() -> None:
    order, clock = Order.read(), Clock()
    about = SETS[order.job]
    options = f", {about.options}" if about.options else ""
    task = f"task: {{kind: {about.kind}, train: train.jsonl, dev: dev.jsonl, test: test.jsonl{options}}}"
    length = f"length: {order.epochs} epochs, evaluate: {order.epochs} epochs"
    stage = f"strategy: full, lr: {about.rate}, batch: {about.batch // about.windows}, {length}"
    model = f"{{path: minilm, max_tokens: {about.max_tokens}}}"
    ran = run(recipe([task], stage, order, model=model), order, clock)
    clock.add("training", ran.seconds, order.rows * order.epochs)
    report(clock, [of_task(ran.report.final[0].tasks[0])], peak=peak_mib())


if __name__ == "__main__":
    main()
