"""One contestant: Weft with a recipe that names model, data, strategy, rate and length, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from bench.job import BATCH, MAX_TOKENS, Job, parse, report, sentences
from weft.build.catalogue import open_recipe
from weft.evaluate.predictions import read_predictions
from weft.run.events import Finished
from weft.run.folder import RunFolder
from weft.run.session import train

RECIPE = """
seed: {seed}
model: {{path: minilm, max_tokens: {max_tokens}}}
tasks:
  sentiment: {{kind: classification, train: train.jsonl, dev: dev.jsonl}}
stages:
  - {{name: only, strategy: {method}, lr: {rate}, batch: {batch}, length: 1 epoch}}
"""


def main() -> None:
    job, _ = parse()
    torch.set_num_threads(job.threads)
    path = prepare(job)
    folder = RunFolder(job.work / "run")
    finished = next(
        event for event in train(open_recipe(path), folder, root=job.work) if isinstance(event, Finished)
    )
    stage = finished.report.stages[0]
    rows = read_predictions(folder.predictions("dev", "sentiment")).rows
    correct = [row.gold == row.answer.label for row in rows]
    report(seconds=stage.seconds, examples=sum(stage.examples.values()), correct=correct)


def prepare(job: Job) -> Path:
    """Write the job's data and recipe into its work folder; return the recipe's path."""
    for split, limit in (("train", job.rows), ("dev", None)):
        lines = [json.dumps(row) for row in sentences(job.data / f"{split}.jsonl", limit)]
        (job.work / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = job.work / "recipe.yaml"
    values = {
        "seed": job.seed,
        "max_tokens": MAX_TOKENS,
        "method": job.method,
        "rate": job.rate,
        "batch": BATCH,
    }
    path.write_text(RECIPE.format(**values), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
