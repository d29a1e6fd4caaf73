"""The same encoder-decoder from scratch under transformers' Seq2SeqTrainer; the order's rows are minutes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)

from bench.judge import bleu
from bench.order import Clock, Order, peak_mib, report
from bench.peers.trainer import fastest_attention, table
from bench.rawfiles import rows_of
from bench.translation import BATCH, MAX_TOKENS, NEW_TOKENS, RATE


class Until(TrainerCallback):
    """Stops training after so many seconds of its loop."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self.seconds, self.clock, self.start, self.spent = seconds, clock, 0.0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.clock.first()
        self.spent = time.perf_counter() - self.start
        control.should_training_stop = self.spent >= self.seconds


def main() -> None:
    order, clock = Order.read(), Clock()
    tokenizer: Any = AutoTokenizer.from_pretrained(order.files / "model")
    torch.manual_seed(order.seed)
    config = BartConfig.from_pretrained(order.files / "model")
    model: Any = AutoModelForSeq2SeqLM.from_config(config, attn_implementation=fastest_attention())
    until = Until(60.0 * order.rows, clock)
    trainer: Any = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=str(order.work),
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=200,
            weight_decay=0.01,
            num_train_epochs=1000,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            seed=order.seed,
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_steps=1000,
        ),
        train_dataset=table(encoded(tokenizer, rows_of(order.files / "train.jsonl"))),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        callbacks=[until],
    )
    trainer.train()
    peak, steps = peak_mib(), trainer.state.global_step
    clock.add("training", until.spent, steps * BATCH)
    test = rows_of(order.files / "test.jsonl")
    said = translated(model, tokenizer, [row["source"] for row in test])
    report(
        clock, [bleu("translate", [row["target"] for row in test], said)], peak=peak, facts={"steps": steps}
    )


def encoded(tokenizer: Any, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return sources with their targets as labels."""
    sources = tokenizer([row["source"] for row in rows], truncation=True, max_length=MAX_TOKENS)["input_ids"]
    targets = tokenizer([row["target"] for row in rows], truncation=True, max_length=MAX_TOKENS)["input_ids"]
    return [{"input_ids": a, "labels": b} for a, b in zip(sources, targets, strict=True)]


def translated(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Return greedy translations."""
    model.eval()
    said: list[str] = []
    for start in range(0, len(texts), 64):
        inputs = tokenizer(
            list(texts[start : start + 64]),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
        ).to(model.device)
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=NEW_TOKENS, num_beams=1, do_sample=False)
        said += [text.strip() for text in tokenizer.batch_decode(out, skip_special_tokens=True)]
    return said


if __name__ == "__main__":
    main()
