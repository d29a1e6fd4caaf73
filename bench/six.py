"""Six tasks in one run beside six runs of one task each: scores, trained values, time, size of what is stored.

Rows are capped; official dev sets are the test data, selection sees only rows held out of the training files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.rawfiles import rows_of, write_jsonl

ROOT = Path(__file__).parent.parent
KINDS = {
    "sst2": "classification",
    "cola": "classification",
    "mrpc": "classification",
    "rte": "classification",
    "stsb_en": "regression",
    "conll2003": "tagging",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--strategy", default="full")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    choices = parser.parse_args()
    choices.work.mkdir(parents=True, exist_ok=True)
    write_files(choices.data, choices.work, choices.rows)
    together = run("six", list(KINDS), choices)
    alone = {name: run(name, [name], choices) for name in KINDS}
    sys.stdout.write(table(together, alone) + "\n")


def write_files(data: Path, work: Path, limit: int, dev_limit: int | None = None) -> None:
    """Write the capped training file and the dev file of every task."""
    for name in KINDS:
        for split, most in (("train", limit), ("dev", dev_limit)):
            write_jsonl(work / f"{name}.{split}.jsonl", rows_of(data / name / f"{split}.jsonl", most))


def run(name: str, tasks: list[str], choices: argparse.Namespace) -> dict[str, Any]:
    """Train ``tasks`` in one run; return its report, whole time and the size of its bundle."""
    lines = [f"seed: {choices.seed}", "model: {path: minilm, max_tokens: 128}", "tasks:"]
    lines += [
        f"  {task}: {{kind: {KINDS[task]}, train: {task}.train.jsonl, test: {task}.dev.jsonl}}"
        for task in tasks
    ]
    stage = f"strategy: {choices.strategy}, lr: {choices.lr}, length: {choices.epochs} epochs"
    lines += ["stages:", f"  - {{name: only, {stage}}}", ""]
    recipe = choices.work / f"{name}.yaml"
    recipe.write_text("\n".join(lines), encoding="utf-8")
    home = choices.work / "runs" / name
    start = time.perf_counter()
    command = [sys.executable, "-m", "weft", "train", str(recipe), "--run", str(home), "--overwrite"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in (home / "bundle").rglob("*") if path.is_file())
    report = json.loads((home / "report.json").read_text(encoding="utf-8"))
    return {"report": report, "seconds": seconds, "mib": size / 2**20}


def table(together: dict[str, Any], alone: dict[str, dict[str, Any]]) -> str:
    """Return scores side by side, then what each way costs."""
    lines = ["| task | metric | n | baseline | six in one run | alone |", "|---|---|--:|--:|---|---|"]
    for task in together["report"]["final"][0]["tasks"]:
        name, ours = task["task"], task["scores"][0]
        theirs = alone[name]["report"]["final"][0]["tasks"][0]["scores"][0]
        lines.append(
            f"| {name} | {ours['metric']} | {ours['n']} | {ours['baseline']:.3f} | {spread(ours)} | {spread(theirs)} |"
        )
    runs = list(alone.values())
    trained = [one["report"]["stages"][0]["plan"]["num_trained"] for one in (together, *runs)]
    lines += [
        "",
        "| | six in one run | six runs |",
        "|---|--:|--:|",
        f"| trained values | {trained[0]:,} | {sum(trained[1:]):,} |",
        f"| seconds, whole commands | {together['seconds']:.0f} | {sum(one['seconds'] for one in runs):.0f} |",
        f"| seconds, training steps | {steps([together]):.0f} | {steps(runs):.0f} |",
        f"| bundles, MiB | {together['mib']:.0f} | {sum(one['mib'] for one in runs):.0f} |",
    ]
    return "\n".join(lines)


def spread(score: dict[str, Any]) -> str:
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def steps(runs: list[dict[str, Any]]) -> float:
    return sum(stage["seconds"] for one in runs for stage in one["report"]["stages"])


if __name__ == "__main__":
    main()
