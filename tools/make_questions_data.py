"""Cut the questions of ``recipes/families.yaml`` out of a SQuAD file.

    python tools/make_questions_data.py DATA_ROOT [OUT]

``DATA_ROOT`` holds ``squad_v1_subset`` with ``train.jsonl`` and ``dev.jsonl``. The outcome depends on the rows alone: short
contexts are drawn by a hash of their text, with one question each, and no context stands in two splits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "recipes" / "data" / "questions"
WORDS = 90
SIZES = {"test": 100, "dev": 50, "train": 150}


def drawn(path: Path) -> list[Row]:
    """Return a question for each short context of ``path``, in the order of the contexts' hashes."""
    rows: dict[str, Row] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if len(row["context"].split()) <= WORDS:
            rows.setdefault(hashlib.sha256(row["context"].encode("utf-8")).hexdigest(), row)
    return [
        {name: rows[key][name] for name in ("id", "question", "context", "answers")} for key in sorted(rows)
    ]


def main() -> None:
    """Write three files and print their sizes."""
    parser = argparse.ArgumentParser(description="Cut a few short questions out of SQuAD.")
    parser.add_argument("data_root", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=DEFAULT_OUT)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    source = args.data_root / "squad_v1_subset"
    held_out, own = drawn(source / "dev.jsonl"), drawn(source / "train.jsonl")
    pools = {"test": held_out, "dev": own[: SIZES["dev"]], "train": own[SIZES["dev"] :]}
    for split, size in SIZES.items():
        if len(pools[split]) < size:
            raise SystemExit(f"{split}: {size} rows must be left to draw, but there are {len(pools[split])}.")
        path = args.out / f"questions.{split}.jsonl"
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in pools[split][:size])
        path.write_text("".join(lines), encoding="utf-8")
        print(f"{path.name:24s} {size:5d} rows {path.stat().st_size:8d} bytes")


if __name__ == "__main__":
    main()
