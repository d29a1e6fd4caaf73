"""The job that every contestant gets: SST-2 sentences, one epoch, the same rates."""

from __future__ import annotations

import argparse
import json
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

BATCH = 32
MAX_TOKENS = 128
RATES = {"full": 5e-5, "lora": 1e-3}
RANK = 8


@dataclass(frozen=True)
class Job:
    """One contestant's orders, as given on its command line."""

    method: str
    data: Path
    rows: int
    seed: int
    work: Path
    threads: int

    @property
    def rate(self) -> float:
        return RATES[self.method]


def parse() -> tuple[Job, list[str]]:
    """Return the job and whatever else stood on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", choices=sorted(RATES), required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl and dev.jsonl")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    known, rest = parser.parse_known_args()
    return Job(**vars(known)), rest


def sentences(path: Path, limit: int | None) -> list[dict[str, str]]:
    """Return whole sentences (SST-2's train split also holds phrases): rows that end like one."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    whole = [row for row in rows if row["text"].rstrip().endswith((".", "?", "!"))]
    return whole[:limit]


def report(*, seconds: float, examples: int, correct: list[bool]) -> None:
    """Print a contestant's figures as one JSON line for the race."""
    figures = {
        "seconds": seconds,
        "examples": examples,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "correct": sum(correct),
        "n": len(correct),
    }
    sys.stdout.write("FIGURES " + json.dumps(figures) + "\n")
