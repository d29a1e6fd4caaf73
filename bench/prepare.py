"""The files of a job, made once and shared by its contestants: ``python -m bench.prepare JOB DATA HOME ROWS``.

What it says in ``about.json``: real tokens of an example, and the share of them that carries a loss.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.rawfiles import rows_of, whole_sentences, write_jsonl


def most_dev(rows: int) -> int:
    """Return how many dev rows are judged: 1,000, or few where there are few training rows."""
    return min(1000, max(32, rows))


def main() -> None:
    job, data, home, rows = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    home.mkdir(parents=True, exist_ok=True)
    about = MAKERS.get(job, sentences)(data, home, rows)
    (home / "about.json").write_text(json.dumps(about), encoding="utf-8")


def sentences(data: Path, home: Path, rows: int) -> dict[str, float]:
    """Write whole SST-2 sentences; return how long they are."""
    train = whole_sentences(rows_of(data / "sst2/train.jsonl"))[:rows]
    write_jsonl(home / "train.jsonl", train)
    write_jsonl(home / "dev.jsonl", whole_sentences(rows_of(data / "sst2/dev.jsonl"))[: most_dev(rows)])
    return {"tokens": _mean_tokens([row["text"] for row in train])}


def six(data: Path, home: Path, rows: int) -> dict[str, float]:
    """Write the capped files of the six tasks."""
    from bench.six import KINDS, write_files

    write_files(data, home, rows, most_dev(rows))
    lengths = [len(rows_of(home / f"{name}.train.jsonl")) for name in KINDS]
    return {"tokens": 0.0, "examples": sum(lengths)}


def pairs(data: Path, home: Path, rows: int) -> dict[str, float]:
    """Write STS-B pairs."""
    write_jsonl(home / "train.jsonl", rows_of(data / "stsb_en/train.jsonl", rows))
    write_jsonl(home / "dev.jsonl", rows_of(data / "stsb_en/dev.jsonl", most_dev(rows)))
    return {"tokens": 0.0}


def fewshot(data: Path, home: Path, rows: int) -> dict[str, float]:
    """Write the first ``rows`` sentences of each of SST-2's classes, classes in turn."""
    whole = whole_sentences(rows_of(data / "sst2/train.jsonl"))
    classes = [[row for row in whole if row["label"] == label][:rows] for label in ("negative", "positive")]
    write_jsonl(home / "train.jsonl", [row for both in zip(*classes, strict=True) for row in both])
    write_jsonl(home / "dev.jsonl", whole_sentences(rows_of(data / "sst2/dev.jsonl")))
    return {"tokens": 0.0}


def decoder(data: Path, home: Path, rows: int, *, job: str = "decoder") -> dict[str, float]:
    """Write instruction rows, the tokenizer and the random decoder."""
    from bench.decoder import SIZES, make

    return make(data, home, rows, SIZES[job])


def predict(data: Path, home: Path, rows: int) -> dict[str, float]:
    """Train a small classifier with Weft; write its bundle and, for stock transformers, its plain folder."""
    from bench.ours.predict import make

    return make(home, sentences(data, home, rows))


def adapters(data: Path, home: Path, rows: int) -> dict[str, float]:
    """Write adapters of one base with random factors, as PEFT keeps them, and the sentences to answer."""
    from bench.peers.adapters import make

    make(home)
    return sentences(data, home, rows)


Maker = Callable[[Path, Path, int], dict[str, float]]
MAKERS: dict[str, Maker] = {
    "six": six,
    "pairs": pairs,
    "fewshot8": fewshot,
    "fewshot64": fewshot,
    "decoder": decoder,
    "billion": partial(decoder, job="billion"),
    "predict": predict,
    "adapters": adapters,
}


def _mean_tokens(texts: Sequence[str]) -> float:
    from transformers import AutoTokenizer

    from weft.model.folder import locate

    tokenizer: Any = AutoTokenizer.from_pretrained(str(locate("minilm", None, root=Path.cwd()).path))
    pieces = tokenizer(list(texts), truncation=True, max_length=128)["input_ids"]
    return sum(map(len, pieces)) / len(pieces)


if __name__ == "__main__":
    main()
