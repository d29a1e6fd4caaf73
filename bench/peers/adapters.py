"""Sixteen LoRA adapters of one classifier in one batch, by PEFT: mixed by ``adapter_names``, or switched one by one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from bench.judge import accuracy
from bench.order import Clock, Order, peak_mib, report
from bench.peers.tasks import MAX_TOKENS
from bench.peers.trainer import RANK
from bench.rates import ADAPTERS
from bench.rawfiles import rows_of
from weft.model.folder import locate

MIXED = 64
NAMES = [f"a{number}" for number in range(ADAPTERS)]
SPREAD = 0.02


def make(home: Path) -> None:
    """Write a classifier with a random head, and adapters on its queries and values with random factors."""
    from peft import LoraConfig, TaskType, get_peft_model

    source = str(locate("minilm", None, root=home).path)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(source, num_labels=2).save_pretrained(home / "base")
    AutoTokenizer.from_pretrained(source).save_pretrained(home / "base")
    for number, name in enumerate(NAMES):
        torch.manual_seed(number)
        base = AutoModelForSequenceClassification.from_pretrained(home / "base")
        settings = LoraConfig(
            task_type=TaskType.SEQ_CLS, r=RANK, lora_alpha=2 * RANK, target_modules=["query", "value"]
        )
        model = get_peft_model(base, settings, adapter_name=name)
        for path, parameter in model.named_parameters():
            if "lora_B" in path:
                torch.nn.init.normal_(parameter, std=SPREAD)
        model.save_pretrained(str(home / "adapters"))


def main() -> None:
    order = Order.read()
    clock = Clock()
    texts = [row["text"] for row in rows_of(order.files / "train.jsonl", order.rows)]
    tokenizer = AutoTokenizer.from_pretrained(order.files / "base")
    rows = [tokenizer(text, truncation=True, max_length=MAX_TOKENS) for text in texts]
    answer = Mixed(order.files, tokenizer, is_eager=order.contestant != "common", dtype=torch.bfloat16)
    how = {"common": answer.mixed, "tuned": answer.halves, "sequential": answer.switched}[order.contestant]
    names = [NAMES[index % ADAPTERS] for index in range(len(rows))]
    how(rows[:MIXED], names[:MIXED])
    clock.first()
    labels: list[str] = []
    start = time.perf_counter()
    for at in range(0, len(rows), MIXED):
        labels += how(rows[at : at + MIXED], names[at : at + MIXED])
    clock.add("batches", time.perf_counter() - start, len(rows))
    peak = peak_mib()
    right = reference(order.files, tokenizer, rows, names)
    report(clock, [accuracy("labels", right, labels)], peak=peak)


def reference(files: Path, tokenizer: Any, rows: Sequence[Any], names: Sequence[str]) -> list[str]:
    """Return the labels of the fp32 model with one adapter at a time."""
    answer = Mixed(files, tokenizer, is_eager=True, dtype=torch.float32)
    return answer.switched(rows, names)


class Mixed:
    """A classifier with all adapters loaded."""

    def __init__(self, files: Path, tokenizer: Any, *, is_eager: bool, dtype: torch.dtype) -> None:
        from peft import PeftModel

        base = AutoModelForSequenceClassification.from_pretrained(
            files / "base", attn_implementation="eager" if is_eager else "sdpa"
        )
        folder = files / "adapters"
        model = PeftModel.from_pretrained(base, str(folder / NAMES[0]), adapter_name=NAMES[0])
        for name in NAMES[1:]:
            model.load_adapter(str(folder / name), adapter_name=name)
        self.model: Any = model.to(dtype).eval()
        self.collate = DataCollatorWithPadding(tokenizer)

    def mixed(self, rows: Sequence[Any], names: Sequence[str]) -> list[str]:
        """Return labels from one padded batch with one adapter a row."""
        with torch.inference_mode():
            logits = self.model(**self.collate(list(rows)), adapter_names=list(names)).logits
        return [str(label) for label in logits.argmax(-1).tolist()]

    def halves(self, rows: Sequence[Any], names: Sequence[str]) -> list[str]:
        """Return the same from two batches, the shorter rows in the first."""
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
        labels = [""] * len(rows)
        for part in (order[: len(order) // 2], order[len(order) // 2 :]):
            found = self.mixed([rows[index] for index in part], [names[index] for index in part])
            for index, label in zip(part, found, strict=True):
                labels[index] = label
        return labels

    def switched(self, rows: Sequence[Any], names: Sequence[str]) -> list[str]:
        """Return the same by setting one adapter after another."""
        labels = [""] * len(rows)
        for name in dict.fromkeys(names):
            own = [index for index, other in enumerate(names) if other == name]
            self.model.set_adapter(name)
            with torch.inference_mode():
                logits = self.model(**self.collate([rows[index] for index in own])).logits
            for index, label in zip(own, logits.argmax(-1).tolist(), strict=True):
                labels[index] = str(label)
        return labels


if __name__ == "__main__":
    main()
