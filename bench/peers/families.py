"""One set of ``bench.families`` under the Hugging Face Trainer, as its own examples do it; the job's name is the set's."""

from __future__ import annotations

from transformers import AutoTokenizer

from bench.families import SETS
from bench.order import Clock, Order, peak_mib, report
from bench.peers.reading import Choices, ManyLabels, Questions
from bench.peers.sentences import judged, minilm
from bench.peers.tasks import Labels, Tags
from bench.peers.trainer import Config, Plan, model_options, padding, table, train
from bench.rawfiles import rows_of

JOBS = {"classification": Labels, "tagging": Tags, "qa": Questions, "choice": Choices}


def main() -> None:
    order, clock = Order.read(), Clock()
    about = SETS[order.job]
    base, rows = minilm(order), rows_of(order.files / "train.jsonl", order.rows)
    family = ManyLabels if "multi_label" in about.options else JOBS[about.kind]
    job = family(AutoTokenizer.from_pretrained(base), rows, about.max_tokens)
    model = job.model(base, model_options(Config.TUNED))
    plan = Plan(
        Config.TUNED, float(about.rate), about.batch, order.epochs, order.seed, order.work, ("training",)
    )
    collate = job.collator(padding(plan.config, about.max_tokens))
    trainer = train(model, plan, table(job.encode(rows)), collate, clock=clock)
    peak = peak_mib()
    test = rows_of(order.files / "test.jsonl")
    answer = getattr(job, "answered", None)
    score = judged(job, trainer, test, order.job) if answer is None else answer(trainer, test, order.job)
    report(clock, [score], peak=peak)


if __name__ == "__main__":
    main()
