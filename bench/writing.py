"""Every shape of instruction data through one small decoder: a few hundred steps, the loss before and after, samples beside references."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import describe, say
from bench.options import parser
from bench.order import Clock, Order
from bench.ours.runs import run
from bench.race import ROOT
from bench.rawfiles import rows_of, write_jsonl

TEST = 50
SHARE = 10  # of the steps are averaged at each end
WIDTH = 160  # characters of a sample that are shown
_SENTENCE = re.compile(r"[^.!?]+[.!?]+[\"”’']*")


@dataclass(frozen=True)
class Set:
    """One data set.

    Attributes:
        train: its file of training rows.
        test: its file of rows to be judged; empty where the last training rows are kept for that.
        options: of the task, YAML flow text.
    """

    train: str
    test: str = ""
    options: str = ""


SETS: Mapping[str, Set] = {
    "stories": Set("lm_books_en/train.jsonl", "lm_books_en/dev.jsonl"),
    "alpaca_en": Set("alpaca_en_subset/train.jsonl", "alpaca_en_subset/dev.jsonl"),
    "alpaca_zh": Set("alpaca_zh_subset/train.jsonl", "alpaca_zh_subset/dev.jsonl"),
    "sgd": Set("sgd_dialogues_subset/train.jsonl", "sgd_dialogues_subset/dev.jsonl"),
    "crosswoz": Set("crosswoz_subset/train.jsonl", "crosswoz_subset/dev.jsonl"),
    "toolcall_en": Set("glaive_toolcall_en/train.jsonl"),
    "toolcall_zh": Set("glaive_toolcall_zh/train.jsonl"),
    "gsm8k": Set("gsm8k/train.jsonl", "gsm8k/dev.jsonl", "metrics: [numeric_match, rougeL]"),
    "mbpp": Set("mbpp/train.jsonl", "mbpp/dev.jsonl"),
}


def main() -> None:
    asked = parser("bench.writing", __doc__)
    asked.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    asked.add_argument("--model", default=str(ROOT / "tests" / "models" / "stories260k"))
    asked.add_argument("--steps", type=int, default=300)
    asked.add_argument("--batch", type=int, default=8)
    asked.add_argument("--rate", default="1e-3")
    asked.add_argument("--samples", type=int, default=2)
    given = asked.parse_args()
    # This process trains: the threads of its library are set before that is loaded.
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    say(f"# Writing\n\n- {describe(given.threads)}")
    say(
        f"- {Path(given.model).name}, full training, {given.steps} steps of {given.batch} rows, rate {given.rate}\n"
    )
    lines = [
        "| set | loss a token, first and last steps | dev loss | scores on rows not seen (n) |",
        "|---|---|--:|---|",
    ]
    for name in given.sets:
        home = given.work.resolve() / "writing" / f"{name}-{given.steps}"
        files(SETS[name], given.data, home)
        text = recipe(SETS[name], given)
        order = Order("writing", name, home, home, 0, 0, 0, given.threads)
        losses, report = trained(text, order)
        lines.append(line(name, losses, report))
        say(lines[-1])
        for sample in samples(home, given.samples):
            say(sample)
    say("\n" + "\n".join(lines))


def files(about: Set, data: Path, home: Path) -> None:
    """Write training, dev and test rows; the dev rows are the last of the training file."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    rows = continued(rows_of(data / about.train))
    test = continued(rows_of(data / about.test))[:TEST] if about.test else rows[-TEST:]
    rest = rows if about.test else rows[:-TEST]
    write_jsonl(home / "train.jsonl", rest[:-TEST])
    write_jsonl(home / "dev.jsonl", rest[-TEST:])
    write_jsonl(home / "test.jsonl", test)


def continued(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows as they are, tales as exercises: two sentences are given, the next one is to be written."""
    if "text" not in rows[0]:
        return rows
    made: list[dict[str, Any]] = []
    for row in rows:
        said = [
            one.strip() for one in _SENTENCE.findall(" ".join(row["text"].split())) if 20 < len(one) < 160
        ]
        made += [
            {"instruction": "Continue the story.", "input": f"{first} {second}", "output": third}
            for first, second, third in zip(said[::3], said[1::3], said[2::3], strict=False)
        ]
    return made


def recipe(about: Set, given: argparse.Namespace) -> str:
    """Return the recipe of one set."""
    options = about.options or "metrics: [rougeL, exact_match]"
    return "\n".join(
        [
            f"model: {{path: {given.model}, max_tokens: 512}}",
            "tasks:",
            f"  write: {{kind: generation, train: train.jsonl, dev: dev.jsonl, test: test.jsonl, max_new_tokens: 64, {options}}}",
            "stages:",
            f"  - {{name: only, strategy: full, lr: {given.rate}, batch: {given.batch}, length: {given.steps} steps, "
            f"evaluate: {given.steps} steps}}",
            "",
        ]
    )


def trained(text: str, order: Order) -> tuple[list[float], Any]:
    """Return the loss of each reported step and the run's report."""
    ran = run(text, order, Clock())
    log = (order.work / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(one) for one in log]
    return [loss for event in events if (loss := loss_of(event)) is not None], ran.report


def loss_of(event: Mapping[str, Any]) -> float | None:
    """Return the training loss of one event of the log, None of those that are no steps."""
    losses = event.get("losses") or event.get("report", {}).get("losses") or {}
    return float(losses["write"]) if "write" in losses else None


def line(name: str, losses: Sequence[float], report: Any) -> str:
    """Return one line of the table."""
    part = max(1, len(losses) // SHARE)
    ends = f"{statistics.mean(losses[:part]):.2f} → {statistics.mean(losses[-part:]):.2f}"
    dev = report.stages[-1].evaluations[-1].tasks[0]
    final = report.final[0].tasks[0]
    scores = ", ".join(
        f"{one.metric} {one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in final.scores
    )
    return f"| {name} | {ends} | {'-' if dev.loss is None else f'{dev.loss:.2f}'} | {scores} ({final.scores[0].n}) |"


def samples(home: Path, number: int) -> list[str]:
    """Return the first answers of the run to rows not seen, beside what was to be said."""
    path = home / "run" / "predictions" / "test" / "write.jsonl"
    found = [json.loads(one) for one in path.read_text(encoding="utf-8").splitlines()[1:]]
    rows = [one for one in found if "answer" in one][:number]
    return [f"  - right: {short(one['gold'])}\n    said:  {short(one['answer'].get('text'))}" for one in rows]


def short(text: Any) -> str:
    """Return the beginning of a text, in one line."""
    words = " ".join(str(text).split())
    return words if len(words) <= WIDTH else words[: WIDTH - 1] + "…"


if __name__ == "__main__":
    main()
