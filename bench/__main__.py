"""The race: every contestant in turn, several rounds, one table of medians and ratios."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

from bench.job import RATES

ROOT = Path(__file__).parent.parent
CONTESTANTS = {
    "common": ["bench.hf", "--config", "common"],
    "tuned": ["bench.hf", "--config", "tuned"],
    "weft": ["bench.ours"],
}
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT.parent / "shared" / "data",
        help="folder that holds sst2/{train,dev}.jsonl",
    )
    parser.add_argument("--rows", type=int, default=6920)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=sorted(RATES), default=sorted(RATES))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    choices = parser.parse_args()
    if not (choices.data / "sst2" / "train.jsonl").is_file():
        sys.exit(
            f"{choices.data}: must hold sst2/train.jsonl and sst2/dev.jsonl, but does not. Name the folder by --data."
        )
    say(
        ", ".join(
            f"{name} {version(name)}" for name in ("weft", "torch", "transformers", "peft", "accelerate")
        )
    )
    say(
        f"{choices.rows} sentences, 1 epoch, {choices.threads} threads, {choices.rounds} rounds, order rotates"
    )
    for method in choices.methods:
        results: dict[str, list[Figures]] = defaultdict(list)
        for round_number in range(choices.rounds):
            names = list(CONTESTANTS)
            shift = round_number % len(names)
            for name in names[shift:] + names[:shift]:
                results[name].append(run(name, method, choices, seed=round_number))
                say(f"  {method} round {round_number + 1} {name}: {results[name][-1]}")
        say(table(method, results))


def run(name: str, method: str, choices: argparse.Namespace, *, seed: int) -> Figures:
    """Return one contestant's figures, measured in a process of its own."""
    script, *extra = CONTESTANTS[name]
    threads = str(choices.threads)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with tempfile.TemporaryDirectory() as work:
        words = [sys.executable, "-m", script, *extra, "--method", method]
        words += ["--data", str((choices.data / "sst2").resolve())]
        words += ["--rows", str(choices.rows), "--seed", str(seed), "--work", work, "--threads", threads]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FIGURES ")]
    if done.returncode or not lines:
        sys.exit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[-1].removeprefix("FIGURES "))


def table(method: str, results: dict[str, list[Figures]]) -> str:
    """Return the medians as a Markdown table; ratios are medians over rounds of that round's ratio."""
    lines = [
        f"\n### {method}\n",
        "| | seconds | examples/s | x weft | peak MiB | accuracy (95 %) |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for name, rounds in results.items():
        seconds = [figures["seconds"] for figures in rounds]
        speed = statistics.median(figures["examples"] / figures["seconds"] for figures in rounds)
        pairs = zip(rounds, results["weft"], strict=True)
        ratio = statistics.median(theirs["seconds"] / ours["seconds"] for theirs, ours in pairs)
        memory = statistics.median(figures["peak_mib"] for figures in rounds)
        share = sum(figures["correct"] for figures in rounds) / sum(figures["n"] for figures in rounds)
        error = 1.96 * math.sqrt(share * (1 - share) / rounds[0]["n"])
        spread = f"{statistics.median(seconds):.1f} [{min(seconds):.1f}-{max(seconds):.1f}]"
        lines.append(
            f"| {name} | {spread} | {speed:.0f} | {ratio:.2f} | {memory:.0f} | {share:.2%} ± {error:.2%} |"
        )
    return "\n".join(lines)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
