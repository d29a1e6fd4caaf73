"""Sixteen LoRA adapters in one packed batch: each row passes through its own."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.judge import accuracy
from bench.order import Clock, Order, peak_mib, report
from bench.ours.runs import recipe
from bench.peers.adapters import MIXED, NAMES, reference
from bench.peers.tasks import MAX_TOKENS
from bench.peers.trainer import RANK
from bench.rawfiles import rows_of

BUDGET = 8192
_LORA = re.compile(r".*layer\.(\d+)\.attention\.self\.(query|value)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class Opened:
    """A network with one adapter and one head a task."""

    network: Any
    tasks: dict[str, Any]
    encoded: dict[str, list[Any]]
    pad: int
    dtype: Any

    def labels(self, start: int, stop: int) -> list[str]:
        """Return the labels of rows ``start`` to ``stop``, dealt out to the tasks in turn."""
        from weft.evaluate.predict import answer_all

        width = len(NAMES)
        rows = {
            name: self.encoded[name][len(range(at, start, width)) : len(range(at, stop, width))]
            for at, name in enumerate(NAMES)
        }
        rows = {name: own for name, own in rows.items() if own}
        found = answer_all(
            self.network, self.tasks, rows, pad=self.pad, budget=BUDGET, dtype=self.dtype, losses=False
        )
        answers = {name: iter(found.answers[name]) for name in rows}
        said = [next(answers[NAMES[index % width]]) for index in range(start, stop)]
        return [str(("negative", "positive").index(str(answer.label))) for answer in said]


def main() -> None:
    order, clock = Order.read(), Clock()
    rows = rows_of(order.files / "train.jsonl", order.rows)
    opened = open_all(order, len(rows))
    opened.labels(0, MIXED)
    clock.first()
    labels: list[str] = []
    start = time.perf_counter()
    for at in range(0, len(rows), MIXED):
        labels += opened.labels(at, min(at + MIXED, len(rows)))
    clock.add("batches", time.perf_counter() - start, len(rows))
    peak = peak_mib()
    report(clock, [accuracy("labels", right_labels(order.files, rows), labels)], peak=peak)


def right_labels(files: Path, rows: list[dict[str, Any]]) -> list[str]:
    """Return what PEFT says in fp32 with one adapter at a time."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(files / "base")
    pieces = [tokenizer(row["text"], truncation=True, max_length=MAX_TOKENS) for row in rows]
    return reference(files, tokenizer, pieces, [NAMES[index % len(NAMES)] for index in range(len(rows))])


def open_all(order: Order, num_rows: int) -> Opened:
    """Return a network with the same adapters and heads that PEFT is given, and rows dealt out to its tasks."""
    from weft.build import opened as built
    from weft.core.example import Purpose
    from weft.core.parts import Parts
    from weft.data.sources import read
    from weft.export.bundle import put_parts
    from weft.model.device import pick_device, pick_precision

    lines = [f"{name}: {{kind: classification, train: '{order.files}/train.jsonl'}}" for name in NAMES]
    path = order.work / "recipe.yaml"
    path.write_text(recipe(lines, "strategy: head", order), encoding="utf-8")
    found, device = built.open_all(path), pick_device()
    tasks = dict(found.data.fitted)
    network = found.base.network(tasks, device=device)
    parts = Parts(
        adapters=tuple(adapter(order.files, name) for name in NAMES),
        heads={name: head(order.files, name, task) for name, task in tasks.items()},
    )
    put_parts(found.base, network, parts)
    network.routes = {name: (name,) for name in NAMES}
    rows = read("train.jsonl", root=order.files).rows[:num_rows]
    encoded = {
        name: tasks[name].encode(rows[at :: len(NAMES)], found.tokenizer, Purpose.ANSWER)
        for at, name in enumerate(NAMES)
    }
    dtype = pick_precision(found.recipe.precision, device)
    return Opened(network, tasks, encoded, found.tokenizer.pad, dtype)


def adapter(files: Path, name: str) -> Any:
    """Return one of PEFT's adapters as Weft holds it."""
    from safetensors.torch import load_file

    from weft.core.parts import AdapterState

    tensors: dict[str, torch.Tensor] = {}
    sites: dict[str, dict[str, Any]] = {}
    options = {"rank": RANK, "alpha": 2.0 * RANK, "dropout": 0.0, "kind": "linear"}
    for key, value in load_file(files / "adapters" / name / "adapter_model.safetensors").items():
        if (match := _LORA.fullmatch(key)) is not None:
            layer, side, factor = match.groups()
            site = f"layers.{layer}.attention.{side}"
            sites[site] = options
            tensors[f"{site}.lora_{factor}.{name}"] = value
    return AdapterState(name, "lora", {"sites": sites}, tensors)


def head(files: Path, name: str, task: Any) -> Any:
    """Return the classifier that PEFT's base model has as a head."""
    from safetensors.torch import load_file

    from weft.core.parts import HeadState

    weights = load_file(files / "base" / "model.safetensors")
    tensors = {f"out.{part}": weights[f"classifier.{part}"] for part in ("weight", "bias")}
    return HeadState(name, task.kind, task.config(), tensors)


if __name__ == "__main__":
    main()
