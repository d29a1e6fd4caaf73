"""Eight candidate strategies of one job by eight Trainer runs, one after another."""

from __future__ import annotations

from transformers import AutoTokenizer

from bench.candidates import CANDIDATES
from bench.order import Clock, Order, Score, peak_mib, report, since_birth
from bench.peers.sentences import fit, judged, minilm, only, with_lora
from bench.peers.tasks import Labels
from bench.peers.trainer import Config, Plan, model_options
from bench.rates import BATCH
from bench.rawfiles import rows_of


def main() -> None:
    order = Order.read()
    clock, config, scores = Clock(), Config(order.contestant), list[Score]()
    base = minilm(order)
    rows, dev = rows_of(order.files / "train.jsonl", order.rows), rows_of(order.files / "dev.jsonl")
    job = Labels(AutoTokenizer.from_pretrained(base), rows)
    for number, (name, candidate) in enumerate(CANDIDATES.items()):
        model = job.model(base, model_options(config))
        model = with_lora(model, candidate.lora) if candidate.lora else only(model, candidate.trained)
        folder = order.work / str(number)
        plan = Plan(config, candidate.rate, BATCH, order.epochs, order.seed, folder, ("training",))
        scores.append(judged(job, fit(job, model, plan, rows, clock=clock), dev, name))
    clock.add("whole", since_birth(), len(rows) * order.epochs * len(CANDIDATES))
    report(clock, scores, peak=peak_mib())


if __name__ == "__main__":
    main()
