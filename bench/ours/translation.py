"""A small encoder-decoder from scratch by Weft; the order's rows are minutes."""

from __future__ import annotations

from bench.judge import of_task
from bench.order import Clock, Order, peak_mib, report
from bench.ours.runs import run
from bench.translation import BATCH, DROPOUT, MAX_TOKENS, NEW_TOKENS, RATE

RECIPE = """\
seed: {seed}
model: {{path: model, init: random, max_tokens: {max_tokens}}}
tasks:
  translate: {{kind: generation, train: train.jsonl, dev: dev.jsonl, test: test.jsonl, metrics: [bleu],
              template: "{{instruction}}", max_new_tokens: {new_tokens}}}
stages:
  - {{name: only, strategy: full, lr: {rate}, batch: {batch}, dropout: {dropout}, schedule: constant, reuse: false,
     length: {minutes} minutes, evaluate: {minutes} minutes, save: {minutes} minutes}}
"""


def main() -> None:
    order, clock = Order.read(), Clock()
    text = RECIPE.format(
        seed=order.seed,
        max_tokens=MAX_TOKENS,
        new_tokens=NEW_TOKENS,
        rate=RATE,
        batch=BATCH,
        dropout=DROPOUT,
        minutes=order.rows,
    )
    ran = run(text, order, clock)
    steps = ran.report.stages[-1].steps
    clock.add("training", ran.seconds, steps * BATCH)
    report(clock, [of_task(ran.report.final[0].tasks[0])], peak=peak_mib(), facts={"steps": steps})


if __name__ == "__main__":
    main()
