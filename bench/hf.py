"""One contestant: the Hugging Face Trainer, common or tuned (``--config common|tuned``)."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from bench.job import BATCH, MAX_TOKENS, RANK, Job, parse, report, sentences


def main() -> None:
    job, rest = parse()
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", choices=["common", "tuned"], required=True)
    tuned = parser.parse_args(rest).config == "tuned"
    torch.set_num_threads(job.threads)
    from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer

    from weft.model.folder import locate

    base = str(locate("minilm", None, root=job.work).path)
    tokenizer = AutoTokenizer.from_pretrained(base)
    train, dev = (encoded(tokenizer, job, name) for name in ("train", "dev"))
    trainer = Trainer(
        model=network(job, base, tuned=tuned),
        args=arguments(job, tuned=tuned),
        train_dataset=train,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    seconds = trainer.train().metrics["train_runtime"]
    found: Any = trainer.predict(dev)  # grouping by length reorders these rows too, so labels come from here
    correct = (found.predictions.argmax(-1) == found.label_ids).tolist()
    report(seconds=seconds, examples=len(train), correct=correct)


def encoded(tokenizer: Any, job: Job, split: str) -> Any:
    """Return the split as a ``datasets`` table, without padding, as the Trainer's guides do it."""
    from datasets import Dataset

    rows = sentences(job.data / f"{split}.jsonl", job.rows if split == "train" else None)
    pieces = tokenizer([row["text"] for row in rows], truncation=True, max_length=MAX_TOKENS)
    labels = [int(row["label"] == "positive") for row in rows]
    return Dataset.from_dict(
        {**pieces, "labels": labels, "length": [len(ids) for ids in pieces["input_ids"]]}
    )


def network(job: Job, base: str, *, tuned: bool) -> Any:
    """Return the stock classification model, under PEFT's LoRA on all linear layers where that is the method."""
    from transformers import AutoModelForSequenceClassification

    choices: dict[str, Any] = {"num_labels": 2}
    if tuned:
        choices |= {
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "attn_implementation": "eager",
        }
    model = AutoModelForSequenceClassification.from_pretrained(base, **choices)
    if job.method == "full":
        return model
    from peft import LoraConfig, TaskType, get_peft_model

    linear = r"bert\.encoder\.layer\.\d+\.(attention\.self\.(query|key|value)|(attention\.)?output\.dense|intermediate\.dense)"
    return get_peft_model(
        model, LoraConfig(task_type=TaskType.SEQ_CLS, r=RANK, lora_alpha=2 * RANK, target_modules=linear)
    )


def arguments(job: Job, *, tuned: bool) -> Any:
    """Return the training arguments; what is not named is the Trainer's default (fused AdamW in version 5)."""
    from transformers import TrainingArguments

    choices: dict[str, Any] = {"train_sampling_strategy": "group_by_length"} if tuned else {}
    return TrainingArguments(
        output_dir=str(job.work),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=64,
        learning_rate=job.rate,
        num_train_epochs=1,
        warmup_steps=0.06,
        weight_decay=0.01,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        seed=job.seed,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **choices,
    )


if __name__ == "__main__":
    main()
