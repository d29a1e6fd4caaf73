"""Cut the quickstart's three small data sets out of three public ones.

    python tools/make_quickstart_data.py DATA_ROOT [OUT]

``DATA_ROOT`` holds ``movie_reviews``, ``mnli_subset`` and ``bc5cdr``, each with ``train.jsonl`` and ``dev.jsonl``
(fields as in ``recipes/data/quickstart/README.md``). The outcome depends on the rows alone: what is kept is drawn by a
hash of its text, never by a random generator or by the order of a file.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
Splits = dict[str, list[Row]]

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "recipes" / "data" / "quickstart"
REVIEW_WORDS = 110
PAIR_WORDS = 40
SENTENCE_TOKENS = range(5, 61)
GRADES = {"entailment": 1.0, "neutral": 0.5, "contradiction": 0.0}


def read(path: Path) -> list[Row]:
    """Return the rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rank(text: str) -> str:
    """Return a key that orders texts as if shuffled, the same on every machine."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def closing(review: str) -> str:
    """Return the last whole sentences of ``review`` (one to a line) that fit in ``REVIEW_WORDS`` words."""
    kept: list[str] = []
    for line in reversed(review.splitlines()):
        words = line.split()
        if len(words) + len(kept) > REVIEW_WORDS:
            break
        kept = words + kept
    return " ".join(kept or review.split()[-REVIEW_WORDS:])


def choose(
    pools: Mapping[str, Iterable[Row]], sizes: Mapping[str, int], texts: Callable[[Row], Sequence[str]]
) -> Splits:
    """Draw ``sizes[split]`` rows for every split such that no text stands in two splits and no row twice.

    Args:
        pools: For every split the rows it may draw from; two splits may share a pool.
        sizes: Rows to draw. Splits are filled in the order of this mapping.
        texts: The texts of a row. Rows are drawn by the hash of the first, so rows that share it come together.

    Raises:
        SystemExit: When a pool does not hold as many rows.
    """
    taken: set[str] = set()
    chosen: Splits = {}
    for split, size in sizes.items():
        rows: dict[tuple[str, ...], Row] = {}
        for row in sorted(pools[split], key=lambda row: [rank(text) for text in texts(row)]):
            own = tuple(text.casefold() for text in texts(row))
            if len(rows) < size and taken.isdisjoint(own):
                rows.setdefault(own, row)
        if len(rows) < size:
            raise SystemExit(f"{split}: {size} rows must be left to draw, but there are {len(rows)}.")
        taken.update(text for own in rows for text in own)
        chosen[split] = list(rows.values())
    return chosen


def sentiment(root: Path) -> Splits:
    """Return review endings with their label; the test split is the source's dev split."""
    own, held_out = (
        [{"text": closing(row["text"]), "label": row["label"]} for row in read(root / f"{split}.jsonl")]
        for split in ("train", "dev")
    )
    pools = {"test": held_out, "dev": own, "train": own}
    return choose(pools, {"test": 100, "dev": 80, "train": 400}, lambda row: [row["text"]])


def similarity(root: Path) -> Splits:
    """Return short sentence pairs with a grade derived from their inference label."""

    def pairs(split: str) -> list[Row]:
        return [
            {"text1": row["text1"], "text2": row["text2"], "score": GRADES[row["label"]]}
            for row in read(root / f"{split}.jsonl")
            if len(row["text1"].split()) + len(row["text2"].split()) <= PAIR_WORDS
        ]

    own = pairs("train")
    pools = {"test": pairs("dev"), "dev": own, "train": own}
    return choose(pools, {"test": 500, "dev": 400, "train": 3000}, lambda row: [row["text1"], row["text2"]])


def entities(root: Path) -> Splits:
    """Return sentences of 5 to 60 tokens with their BIO tags."""
    own, held_out = (
        [row for row in read(root / f"{split}.jsonl") if len(row["tokens"]) in SENTENCE_TOKENS]
        for split in ("train", "dev")
    )
    pools = {"test": held_out, "dev": own, "train": own}
    return choose(pools, {"test": 500, "dev": 300, "train": 1500}, lambda row: [" ".join(row["tokens"])])


def as_csv(rows: Sequence[Row]) -> str:
    """Return rows as CSV with a header line."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_jsonl(rows: Sequence[Row]) -> str:
    """Return rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_conll(rows: Sequence[Row]) -> str:
    """Return sentences as ``token TAG`` lines with an empty line after each sentence."""
    sentences = (
        "".join(f"{token} {tag}\n" for token, tag in zip(row["tokens"], row["tags"], strict=True))
        for row in rows
    )
    return "\n".join(sentences)


def main() -> None:
    """Write nine files and print their sizes."""
    parser = argparse.ArgumentParser(description="Cut the quickstart data out of three public data sets.")
    parser.add_argument("data_root", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=DEFAULT_OUT)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    made: list[tuple[str, str, Splits, Callable[[Sequence[Row]], str]]] = [
        ("sentiment", "csv", sentiment(args.data_root / "movie_reviews"), as_csv),
        ("similarity", "jsonl", similarity(args.data_root / "mnli_subset"), as_jsonl),
        ("entities", "conll", entities(args.data_root / "bc5cdr"), as_conll),
    ]
    for name, suffix, splits, encode in made:
        for split in ("train", "dev", "test"):
            path = args.out / f"{name}.{split}.{suffix}"
            path.write_text(encode(splits[split]), encoding="utf-8")
            print(f"{path.name:24s} {len(splits[split]):5d} rows {path.stat().st_size:8d} bytes")


if __name__ == "__main__":
    main()
