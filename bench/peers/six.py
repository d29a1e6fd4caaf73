"""Six tasks by six Trainer runs, one after another: everything below the top third is frozen."""

from __future__ import annotations

from transformers import AutoTokenizer

from bench.candidates import HEAD
from bench.order import Clock, Order, Score, peak_mib, report, since_birth
from bench.peers.sentences import fit, judged, minilm, only
from bench.peers.tasks import KINDS
from bench.peers.trainer import Config, Plan, model_options
from bench.rates import BATCH, RATES
from bench.rawfiles import rows_of
from bench.six import KINDS as TASKS


def main() -> None:
    order = Order.read()
    clock, config, scores, num_rows = Clock(), Config(order.contestant), list[Score](), 0
    base = minilm(order)
    tokenizer = AutoTokenizer.from_pretrained(base)
    for name, kind in TASKS.items():
        rows = rows_of(order.files / f"{name}.train.jsonl", order.rows)
        job = KINDS[kind](tokenizer, rows)
        model = only(job.model(base, model_options(config)), rf"{HEAD}|bert\.encoder\.layer\.[45]\.")
        plan = Plan(config, RATES["six"], BATCH, order.epochs, order.seed, order.work / name, ("training",))
        trainer = fit(job, model, plan, rows, clock=clock)
        scores.append(judged(job, trainer, rows_of(order.files / f"{name}.dev.jsonl"), name))
        num_rows += len(rows) * order.epochs
    clock.add("whole", since_birth(), num_rows)
    report(clock, scores, peak=peak_mib())


if __name__ == "__main__":
    main()
