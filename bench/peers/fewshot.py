"""Few-shot classification by SetFit at its defaults, end to end."""

from __future__ import annotations

import time
from typing import Any

from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments

from bench.judge import accuracy
from bench.order import Clock, Order, peak_mib, report, since_birth
from bench.peers.sentences import minilm
from bench.rawfiles import rows_of


def main() -> None:
    order = Order.read()
    clock = Clock()
    rows, dev = rows_of(order.files / "train.jsonl"), rows_of(order.files / "dev.jsonl")
    labels = sorted({row["label"] for row in rows})
    model = SetFitModel.from_pretrained(minilm(order), labels=labels, device="cpu")
    table = Dataset.from_list([{"text": row["text"], "label": labels.index(row["label"])} for row in rows])
    arguments = TrainingArguments(
        output_dir=str(order.work),
        seed=order.seed,
        save_strategy="no",
        report_to="none",
        show_progress_bar=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=table)
    start = time.perf_counter()
    trainer.train()
    clock.add("training", time.perf_counter() - start, len(rows))
    answers: Any = model.predict([row["text"] for row in dev])
    said = [str(label) for label in answers]
    clock.add("whole", since_birth(), len(rows))
    report(clock, [accuracy("sst2", [row["label"] for row in dev], said)], peak=peak_mib())


if __name__ == "__main__":
    main()
