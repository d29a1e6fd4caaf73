"""Every family of understanding on real rows, beside the Hugging Face Trainer with the same budget: scores with intervals.

Judged once, after the last step, on the official dev set, which nothing is chosen by. What is done already stands in the
figures' file and is not done again, so the table may be made in several goes.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from bench import kept
from bench.machine import describe, say
from bench.options import parser
from bench.order import Figures, Order
from bench.race import Contestant, ContestantError, run
from bench.rawfiles import rows_of, write_jsonl
from bench.table import mean_score, verdict

DEV = 100
RATE = "1e-4"


@dataclass(frozen=True)
class Set:
    """One data set.

    Attributes:
        kind: Weft's family.
        rows: to train on.
        epochs: passes.
        batch: examples a step.
        max_tokens: of a row.
        options: of Weft's task, YAML flow text.
        rate: peak learning rate of all, heads included.
        windows: of a text on average, each of which is a row of the Trainer's batch; Weft's batch counts texts.
        train: name of the training file.
        test: name of the file that is judged.
        most_test: rows of it.
        note: what a reader must know.
    """

    kind: str
    rows: int
    epochs: int = 3
    batch: int = 16
    max_tokens: int = 128
    options: str = ""
    rate: str = RATE
    windows: int = 1
    train: str = "train"
    test: str = "dev"
    most_test: int = 1000
    note: str = ""


SETS: Mapping[str, Set] = {
    "squad_v1_subset": Set("qa", 2000, epochs=2, max_tokens=256),
    "cmrc2018_subset": Set("qa", 1300, epochs=2, max_tokens=256, windows=4),
    "weibo_ner": Set("tagging", 1250, epochs=5),
    "cluener_subset": Set("tagging", 3000),
    "clinc150": Set("classification", 6000, batch=32, most_test=3100),
    "nlupp": Set("classification", 2000, epochs=20, options="multi_label: true, columns: {label: labels}"),
    "mnli_subset": Set("classification", 4000),
    "xcopa_en_zh": Set("choice", 300, epochs=5, train="train_en", test="dev_en"),
    "movie_reviews": Set(
        "classification",
        380,
        batch=8,
        max_tokens=256,
        options="windows: mean",
        note="The Trainer reads the first 256 tokens of a review, Weft windows over all of it.",
    ),
    "tnews_subset": Set("classification", 5000, batch=32),
}
KEY = ("set", "who", "rows", "seed")  # of what is measured once


def main() -> None:
    asked = parser("bench.families", __doc__)
    asked.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    asked.add_argument("--contestants", nargs="+", choices=("weft", "trainer"), default=["weft", "trainer"])
    asked.add_argument("--rows", type=int, help="at most so many of each set")
    asked.add_argument("--seeds", type=int, default=1)
    given = asked.parse_args()
    say(f"# Families\n\n- {describe(given.threads)}")
    say(f"- MiniLM, full training, rate {RATE}, seeds 0 to {given.seeds - 1}; official dev sets judged\n")
    figures = given.work / "families.jsonl"
    done = kept.read(figures, KEY)
    for seed in range(given.seeds):
        for name in given.sets:
            rows = min(SETS[name].rows, given.rows or SETS[name].rows)
            files = given.work.resolve() / f"families-{name}-{rows}"
            write_files(given.data / name, files, SETS[name], rows)
            for who in given.contestants:
                key = (name, who, rows, seed)
                if key not in done and (found := measured(key, files, given.work, given.threads)):
                    done[key] = found
                    kept.add(figures, found, **dict(zip(KEY, key, strict=True)))
    say("\n" + table(done, given.sets))


def measured(key: tuple[str, str, int, int], files: Path, work: Path, threads: int) -> Figures | None:
    """Return the figures of one contestant on one set; None, said, where it fails."""
    name, who, rows, seed = key
    room = "ours" if who == "weft" else "peers"
    order = Order(name, who, files, work, rows, SETS[name].epochs, seed, threads)
    try:
        found = run(Contestant(f"bench.{room}.families", who), order)
    except ContestantError as error:
        say(f"  seed {seed}, {name}, {who}: FAILED: {str(error)[-600:]}")
        return None
    first = found.scores[0]
    say(f"  seed {seed}, {name}, {who}: {first.metric} {first.value:.4f}, {found.laps[0].seconds:.1f} s")
    return found


def write_files(data: Path, home: Path, about: Set, rows: int) -> None:
    """Write training rows, as many as asked for, further ones as dev rows, and the official dev set to be judged by.

    Files may be ordered by label, so rows are drawn. Rows to be judged whose label no training row has are left out:
    neither contestant could answer them.
    """
    home.mkdir(parents=True, exist_ok=True)
    found = drawn(rows_of(data / f"{about.train}.jsonl"), rows + DEV)
    write_jsonl(home / "train.jsonl", found[:rows])
    write_jsonl(home / "dev.jsonl", found[rows:])
    known = {label for row in found[:rows] for label in labels_of(row)}
    test = [row for row in rows_of(data / f"{about.test}.jsonl") if known.issuperset(labels_of(row))]
    write_jsonl(home / "test.jsonl", drawn(test, about.most_test))


def drawn(rows: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Return ``number`` of ``rows`` (all, where there are fewer), drawn and in an order of their own, always the same."""
    return Random(0).sample(rows, min(number, len(rows)))


def labels_of(row: Mapping[str, Any]) -> list[Any]:
    """Return the labels of a row that belong to a list: none of questions' answers."""
    found = next((row[name] for name in ("label", "labels", "tags") if name in row), [])
    return list(found) if isinstance(found, list) else [found]


def table(found: Mapping[kept.Key, Figures], sets: Sequence[str]) -> str:
    """Return, a set a line, both scores (means over seeds) with their intervals, and seconds of training."""
    lines = [
        "| set | metric | n | rows | Trainer | Weft | | seconds: Trainer, Weft |",
        "|---|---|--:|--:|---|---|---|---|",
    ]
    for name in sets:
        own = {
            who: [one for key, one in found.items() if key[:2] == (name, who)] for who in ("trainer", "weft")
        }
        if not all(own.values()):
            continue
        scores = {who: [one.scores[0] for one in rounds] for who, rounds in own.items()}
        first = scores["weft"][0]
        rows = max(int(key[2]) for key in found if key[0] == name)
        cells = [
            name,
            first.metric,
            f"{first.n}",
            f"{rows}",
            *(mean_score(scores[who]) for who in ("trainer", "weft")),
        ]
        cells += [verdict(scores["weft"], scores["trainer"])]
        cells += [", ".join(f"{_seconds(own[who]):.0f}" for who in ("trainer", "weft"))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _seconds(rounds: Sequence[Figures]) -> float:
    return statistics.median(one.laps[0].seconds for one in rounds)


if __name__ == "__main__":
    main()
