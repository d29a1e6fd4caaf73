"""The yard-stick job of the README on raw files, beside the Trainer on each single task with the same strategy.

Weft: stage 1 LoRA on both tasks, stage 2 full training of the tagger at a tenth of the rate. Trainer: LoRA on each task
alone for as many passes; then, for the tagger, merge and full training. Scores on the official dev sets; Weft's own
selection sees only rows held out of the training files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.rawfiles import rows_of, whole_sentences, write_conll, write_csv
from weft.build.catalogue import open_recipe
from weft.export.bundle import put_parts
from weft.run.context import open_context
from weft.run.folder import RunFolder
from weft.run.judging import TEST, evaluate
from weft.run.stopping import StopFlag

ROOT = Path(__file__).parent.parent
RECIPE = """\
model: minilm
seed: {seed}
tasks:
  sentiment: {{kind: classification, train: sst2.csv, test: sst2.dev.csv}}
  entities: {{kind: tagging, train: conll.conll, test: conll.dev.conll, weight: 2}}
stages:
  - {{name: together, tasks: {{sentiment: 0.5, entities: 0.5}}, strategy: lora, length: 3 epochs}}
  - {{name: expert, tasks: entities, strategy: full, lr: 5e-5, length: 1 epoch, carry: {{trunk: merge, heads: keep}}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    choices = parser.parse_args()
    choices.work.mkdir(parents=True, exist_ok=True)
    write_files(choices.data, choices.work, choices.rows)
    (choices.work / "recipe.yaml").write_text(RECIPE.format(seed=choices.seed), encoding="utf-8")
    ours = weft(choices.work)
    theirs = {
        "sentiment": trainer(choices.work, "sst2", "--stages", "lora", "--seed", str(choices.seed)),
        "entities": trainer(choices.work, "conll", "--stages", "lora", "full", "--seed", str(choices.seed)),
    }
    sys.stdout.write(json.dumps({"weft": ours, "trainer": theirs}, indent=2) + "\n")


def write_files(data: Path, work: Path, limit: int) -> None:
    """Write the raw training and dev files."""
    write_csv(work / "sst2.csv", whole_sentences(rows_of(data / "sst2/train.jsonl"))[:limit])
    write_csv(work / "sst2.dev.csv", rows_of(data / "sst2/dev.jsonl"))
    write_conll(work / "conll.conll", rows_of(data / "conll2003/train.jsonl", limit))
    write_conll(work / "conll.dev.conll", rows_of(data / "conll2003/dev.jsonl"))


def weft(work: Path) -> dict[str, Any]:
    """Train the recipe by the command line; return seconds and test scores after each stage."""
    start = time.perf_counter()
    run = work / "run"
    command = [
        sys.executable,
        "-m",
        "weft",
        "train",
        str(work / "recipe.yaml"),
        "--run",
        str(run),
        "--overwrite",
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    seconds = time.perf_counter() - start
    after = {stage: scores(test_scores(work, stage)) for stage in ("together", "expert")}
    return {"seconds": seconds, "test after": after}


def test_scores(work: Path, stage: str) -> dict[str, Any]:
    """Return the test scores of what ``stage`` of the run in ``work`` handed on."""
    recipe = open_recipe(work / "recipe.yaml")
    context = open_context(recipe, RunFolder(work / "run"), root=work, stop=StopFlag())
    parts = context.parts_of(recipe.stage(stage))
    tasks = {name: context.data.fitted[name] for name in parts.heads}
    network = context.base.network(tasks, device=context.device)
    put_parts(context.base, network, parts)
    judged = evaluate(context, recipe.stage(stage), network, tasks, split=TEST)
    return judged.report.model_dump(mode="json")


def scores(evaluation: dict[str, Any]) -> dict[str, str]:
    """Return each task's primary score with its interval, in words."""
    found = {}
    for task in evaluation["tasks"]:
        score = task["scores"][0]
        found[task["task"]] = (
            f"{score['metric']} {score['value']:.4f} [{score['low']:.4f}, {score['high']:.4f}] n={score['n']}"
        )
    return found


def trainer(work: Path, name: str, *options: str) -> dict[str, Any]:
    """Train one task by the Trainer in a process of its own; return what it prints as JSON in its last line."""
    command = [sys.executable, "-m", "bench.single", "--work", str(work), "--name", name, *options]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
