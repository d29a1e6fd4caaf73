"""Cut the data of ``recipes/instruct.yaml`` out of the self-instruct seed tasks.

    python tools/make_instruct_data.py DATA_ROOT [OUT]

Reads ``DATA_ROOT/self_instruct_seed/train.jsonl`` (instruction, input, output). Kept are exchanges that a tiny model can
hold; which split a row falls into is decided by a hash of its instruction, so every machine makes the same files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "recipes" / "data" / "instruct"
SIZES = {"test": 10, "dev": 10, "train": 50}
MAX_CHARACTERS = 300  # of instruction, input and output together
MAX_ANSWER = 160

Row = dict[str, str]


def rank(text: str) -> str:
    """Return a key to sort ``text`` by: random, but the same everywhere."""
    return hashlib.sha256(text.casefold().encode()).hexdigest()


def is_short(row: Row) -> bool:
    """Return whether a row fits a model of few positions."""
    return sum(map(len, row.values())) <= MAX_CHARACTERS and 0 < len(row["output"]) <= MAX_ANSWER


def choose(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each split, those with equal instructions once.

    Raises:
        SystemExit: When there are too few short rows.
    """
    short = {rank(row["instruction"]): row for row in rows if is_short(row)}
    ordered = [short[key] for key in sorted(short)]
    if len(ordered) < sum(SIZES.values()):
        raise SystemExit(f"{sum(SIZES.values())} short rows must be there, but there are {len(ordered)}.")
    splits: dict[str, list[Row]] = {}
    start = 0
    for split, size in SIZES.items():
        splits[split] = ordered[start : start + size]
        start += size
    return splits


def main() -> None:
    """Write three files and print their sizes."""
    parser = argparse.ArgumentParser(
        description="Cut short instruction data out of the self-instruct seed tasks."
    )
    parser.add_argument("data_root", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=DEFAULT_OUT)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    lines = (args.data_root / "self_instruct_seed" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    for split, rows in choose(json.loads(line) for line in lines).items():
        path = args.out / f"tasks.{split}.jsonl"
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
        print(f"{path.name:20s} {len(rows):4d} rows {path.stat().st_size:7d} bytes")


if __name__ == "__main__":
    main()
