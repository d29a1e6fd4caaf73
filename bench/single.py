"""One task alone under the Hugging Face Trainer (+PEFT): LoRA for three passes, then, if asked, merged and fully trained."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from weft.core.example import Row
from weft.data.sources import read
from weft.model.folder import locate

RATES = {"lora": 5e-4, "full": 5e-5}
PASSES = {"lora": 3, "full": 1}
FILES = {"sst2": ("sst2.csv", "sst2.dev.csv"), "conll": ("conll.conll", "conll.dev.conll")}
LINEAR = r"bert\.encoder\.layer\.\d+\.(attention\.self\.(query|key|value)|(attention\.)?output\.dense|intermediate\.dense)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--name", choices=sorted(FILES), required=True)
    parser.add_argument("--stages", nargs="+", choices=sorted(RATES), required=True)
    parser.add_argument("--seed", type=int, default=0)
    choices = parser.parse_args()
    base = str(locate("minilm", None, root=choices.work).path)
    train, dev = (read(name, root=choices.work).rows for name in FILES[choices.name])
    job = Tagging(base, train) if choices.name == "conll" else Sentences(base, train)
    start = time.perf_counter()
    model, found = job.model(), {}
    for stage in choices.stages:
        model = run(model, job, stage, rows=train, work=choices.work, seed=choices.seed)
        found[stage] = job.score(model, dev)
    sys.stdout.write(json.dumps({"seconds": time.perf_counter() - start, "n": len(dev), **found}) + "\n")


class Sentences:
    """Single-sentence classification; scored by accuracy."""

    def __init__(self, base: str, train: tuple[Row, ...]) -> None:
        from transformers import AutoTokenizer, DataCollatorWithPadding

        self.base = base
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.collate = DataCollatorWithPadding(self.tokenizer)
        self.labels = sorted({row.values["label"] for row in train})

    def model(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_pretrained(self.base, num_labels=len(self.labels))

    def encode(self, row: Row) -> dict[str, Any]:
        pieces = self.tokenizer(row.values["text"], truncation=True, max_length=256)
        return {**pieces, "labels": self.labels.index(row.values["label"])}

    def score(self, model: Any, dev: tuple[Row, ...]) -> float:
        logits, labels = predict(model, self, dev)
        return float((logits.argmax(-1) == labels).mean())


class Tagging:
    """Word labels on first sub-words; scored by seqeval's span F1."""

    def __init__(self, base: str, train: tuple[Row, ...]) -> None:
        from transformers import AutoTokenizer, DataCollatorForTokenClassification

        self.base = base
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.collate = DataCollatorForTokenClassification(self.tokenizer)
        self.labels = sorted({tag for row in train for tag in row.values["tags"]})

    def model(self) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification.from_pretrained(self.base, num_labels=len(self.labels))

    def encode(self, row: Row) -> dict[str, Any]:
        pieces = self.tokenizer(
            list(row.values["tokens"]), is_split_into_words=True, truncation=True, max_length=256
        )
        words, tags = pieces.word_ids(), row.values["tags"]
        first = [
            word is not None and word != before for word, before in zip(words, [None, *words], strict=False)
        ]
        labels = [
            self.labels.index(tags[word]) if is_first else -100
            for word, is_first in zip(words, first, strict=True)
        ]
        return {**pieces, "labels": labels}

    def score(self, model: Any, dev: tuple[Row, ...]) -> float:
        from seqeval.metrics import f1_score

        logits, labels = predict(model, self, dev)
        guesses = logits.argmax(-1)
        keep = [np.flatnonzero(row != -100) for row in labels]
        gold = [[self.labels[labels[i, j]] for j in row] for i, row in enumerate(keep)]
        said = [[self.labels[guesses[i, j]] for j in row] for i, row in enumerate(keep)]
        return float(np.mean(f1_score(gold, said)))


def run(
    model: Any, job: Sentences | Tagging, stage: str, *, rows: tuple[Row, ...], work: Path, seed: int
) -> Any:
    """Return the model after one stage; LoRA is merged at its end."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import Trainer

    if stage == "lora":
        kind = TaskType.TOKEN_CLS if isinstance(job, Tagging) else TaskType.SEQ_CLS
        model = get_peft_model(model, LoraConfig(task_type=kind, r=8, lora_alpha=16, target_modules=LINEAR))
    settings = arguments(work / "trainer", rate=RATES[stage], passes=PASSES[stage], seed=seed)
    data: Any = [job.encode(row) for row in rows]
    Trainer(model=model, args=settings, train_dataset=data, data_collator=job.collate).train()
    return model.merge_and_unload() if stage == "lora" else model


def predict(model: Any, job: Sentences | Tagging, dev: tuple[Row, ...]) -> tuple[Any, Any]:
    """Return logits and label ids of the dev rows."""
    from transformers import Trainer

    settings = arguments(Path("unused"), rate=1.0, passes=1, seed=0)
    data: Any = [job.encode(row) for row in dev]
    found = Trainer(model=model, args=settings, data_collator=job.collate).predict(data)
    return found.predictions, found.label_ids


def arguments(folder: Path, *, rate: float, passes: int, seed: int) -> Any:
    """Return the Trainer's arguments: dynamic padding, bf16, the rest at its defaults."""
    import torch
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        learning_rate=rate,
        num_train_epochs=passes,
        warmup_steps=0.06,
        weight_decay=0.01,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


if __name__ == "__main__":
    main()
