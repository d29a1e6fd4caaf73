"""The raw files that people have: a CSV of sentences and a CoNLL file, made of the JSONL sets."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any


def rows_of(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """Return the first ``limit`` records of a JSONL file."""
    # Not splitlines, which also cuts at U+2028 inside a text.
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    return [json.loads(line) for line in lines[:limit]]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write records, one a line."""
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``text,label`` rows with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([row["text"], row["label"]] for row in rows)


def write_conll(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``token tag`` lines, a blank line between sentences."""
    sentences = (
        "\n".join(f"{token} {tag}" for token, tag in zip(row["tokens"], row["tags"], strict=True))
        for row in rows
    )
    path.write_text("\n\n".join(sentences) + "\n", encoding="utf-8")


def whole_sentences(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows whose text ends like a sentence (SST-2's train split also holds phrases)."""
    return [row for row in rows if row["text"].rstrip().endswith((".", "?", "!"))]
