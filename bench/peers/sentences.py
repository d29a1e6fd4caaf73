"""Full training, LoRA, the top two layers or the head alone, by the Trainer: one task of whole sentences."""

from __future__ import annotations

import re
from typing import Any

from transformers import AutoTokenizer

from bench.candidates import HEAD, LINEAR
from bench.order import Clock, Order, peak_mib, report
from bench.peers.tasks import MAX_TOKENS, Job, Labels
from bench.peers.trainer import RANK, Config, Plan, model_options, padding, table, train
from bench.rates import BATCH, RATES
from bench.rawfiles import rows_of
from weft.model.folder import locate

TRAINED = {
    "full": "",
    "top2": rf"{HEAD}|bert\.encoder\.layer\.[45]\.",
    "head": HEAD,
}
EVERYWHERE = rf"bert\.encoder\.layer\.\d+\.{LINEAR}"


def main() -> None:
    order = Order.read()
    clock, config = Clock(), Config(order.contestant)
    base = minilm(order)
    train_rows, dev = rows_of(order.files / "train.jsonl", order.rows), rows_of(order.files / "dev.jsonl")
    job = Labels(AutoTokenizer.from_pretrained(base), train_rows)
    model = job.model(base, model_options(config))
    model = with_lora(model, EVERYWHERE) if order.job == "lora" else only(model, TRAINED[order.job])
    plan = Plan(config, RATES[order.job], BATCH, order.epochs, order.seed, order.work)
    trainer = fit(job, model, plan, train_rows, clock=clock)
    peak = peak_mib()
    report(clock, [judged(job, trainer, dev, "sst2")], peak=peak)


def minilm(order: Order) -> str:
    """Return the folder of the embedded MiniLM."""
    return str(locate("minilm", None, root=order.work).path)


def fit(job: Job, model: Any, plan: Plan, rows: list[dict[str, Any]], *, clock: Clock) -> Any:
    """Return the Trainer after training ``job`` on ``rows``."""
    collate = job.collator(padding(plan.config, MAX_TOKENS))
    return train(model, plan, table(job.encode(rows)), collate, clock=clock)


def judged(job: Job, trainer: Any, dev: list[dict[str, Any]], name: str) -> Any:
    """Return the score on ``dev``; grouping by length reorders these rows too, so labels come from where guesses do."""
    found: Any = trainer.predict(table(job.encode(dev)))
    return job.score(found.predictions, found.label_ids, name)


def only(model: Any, pattern: str) -> Any:
    """Return ``model`` with everything frozen whose name does not match ``pattern``; an empty one freezes nothing."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not pattern or re.search(pattern, name) is not None
    return model


def with_lora(model: Any, pattern: str) -> Any:
    """Return ``model`` under PEFT's LoRA on the modules that match; the classifier is trained too."""
    from peft import LoraConfig, TaskType, get_peft_model

    return get_peft_model(
        model, LoraConfig(task_type=TaskType.SEQ_CLS, r=RANK, lora_alpha=2 * RANK, target_modules=pattern)
    )


if __name__ == "__main__":
    main()
