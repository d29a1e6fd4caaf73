"""The Hugging Face Trainer in three configurations, with the laps it needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from bench.order import Clock

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
RANK = 8


class Config(StrEnum):
    """How a user sets it up."""

    TUTORIAL = "tutorial"  # pad to max_length, fp32
    COMMON = "common"  # dynamic padding, bf16
    TUNED = "tuned"  # also grouped by length, dropout 0, eager attention


@dataclass(frozen=True)
class Plan:
    """What one Trainer run is to do.

    Attributes:
        config: one of three.
        rate: peak learning rate.
        batch: rows of a step.
        epochs: passes.
        seed: of everything.
        folder: for what the Trainer writes.
        laps: names of the epochs' laps; one name for all adds them up.
    """

    config: Config
    rate: float
    batch: int
    epochs: int
    seed: int
    folder: Path
    laps: tuple[str, ...] = ("epoch 1", "epoch 2", "epoch 3")


class Laps(TrainerCallback):
    """Times whole epochs, loading and batching included, and tells the clock of the first step."""

    def __init__(self, clock: Clock, names: Sequence[str], examples: int) -> None:
        self.clock, self.names, self.examples = clock, list(names), examples
        self.start = 0.0
        self.done = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.clock.first()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        now = time.perf_counter()
        self.clock.add(self.names[min(self.done, len(self.names) - 1)], now - self.start, self.examples)
        self.start, self.done = now, self.done + 1


def settings(plan: Plan) -> dict[str, Any]:
    """Return the arguments of ``TrainingArguments``; what is not named is its default (fused AdamW in version 5)."""
    tuned = {"train_sampling_strategy": "group_by_length"} if plan.config is Config.TUNED else {}
    return {
        "output_dir": str(plan.folder),
        "per_device_train_batch_size": plan.batch,
        "per_device_eval_batch_size": 64,
        "learning_rate": plan.rate,
        "num_train_epochs": plan.epochs,
        "warmup_steps": 0.06,
        "weight_decay": 0.01,
        "bf16": plan.config is not Config.TUTORIAL,
        "use_cpu": not torch.cuda.is_available(),
        "seed": plan.seed,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 100,
        **tuned,
    }


def train(model: Any, plan: Plan, rows: Any, collate: Callable[[list[Any]], Any], *, clock: Clock) -> Trainer:
    """Train ``model`` on ``rows`` (a ``datasets`` table with a column ``length``); return its Trainer."""
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**settings(plan)),
        train_dataset=rows,
        data_collator=collate,
        callbacks=[Laps(clock, plan.laps, len(rows))],
    )
    trainer.train()
    return trainer


def padding(config: Config, max_tokens: int) -> dict[str, Any]:
    """Return the collator's padding: to ``max_tokens`` in the tutorial, to the longest row of a batch elsewhere."""
    return {"padding": "max_length", "max_length": max_tokens} if config is Config.TUTORIAL else {}


def model_options(config: Config) -> dict[str, Any]:
    """Return what ``from_pretrained`` is told: the tuned user turns dropout off and takes the fastest attention."""
    return {**NO_DROPOUT, "attn_implementation": fastest_attention()} if config is Config.TUNED else {}


def fastest_attention() -> str:
    """Return eager on a CPU, where the backward pass of SDPA is slow in bf16; flash attention on a GPU that has it."""
    if not torch.cuda.is_available():
        return "eager"
    return "flash_attention_2" if find_spec("flash_attn") else "sdpa"


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return encoded rows as a ``datasets`` table with their lengths."""
    from datasets import Dataset

    return Dataset.from_list([{**row, "length": len(row["input_ids"])} for row in rows])
