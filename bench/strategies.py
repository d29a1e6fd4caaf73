"""Which strategy for which price? Four tasks, three seeds, every strategy at its default rate; PEFT's methods beside.

Rows that are scored (the official dev sets) are seen by no choice: nothing is selected, the last step is judged. What is
done already stands in the figures' file and is not done again, so a long table may be made in several goes.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench import kept
from bench.machine import describe, say
from bench.options import parser
from bench.order import Figures, Order
from bench.race import Contestant, ContestantError, run
from bench.rawfiles import rows_of, write_jsonl
from bench.table import mean_score, verdict

BATCH = 16
KINDS = {"sst2": "classification", "mrpc": "classification", "conll2003": "tagging", "stsb_en": "regression"}
MOST_TEST, DEV = 1000, 200
KEY = ("name", "task", "seed")  # of what is measured once
FASTER_HYBRID = "strategy: [{sites: linear, train: lora, lr: 2e-3}, {sites: top 1, train: full, lr: 2e-4}]"
HYBRID = "strategy: [{sites: linear, train: lora}, {sites: top 1, train: full}]"


def _named(name: str) -> tuple[str, ...]:
    return (f"strategy: {name}",)


STRATEGIES: Mapping[str, tuple[str, ...]] = {
    "head": _named("head"),
    "full": _named("full"),
    **{name: _named(name) for name in ("lp-ft", "layer-decay", "gradual", "top 2", "bitfit")},
    **{name: _named(name) for name in "lora rslora lora+ dora pissa ia3 houlsby pfeiffer parallel".split()},
    "lora, top layer full": (HYBRID,),
    "lora 2e-3, top layer full 2e-4": (FASTER_HYBRID,),
    "hybrid-lora": _named("hybrid-lora"),
    **{name: _named(name) for name in "prompt prefix ptuning-v2 llama-adapter mam".split()},
}
PEERS = ("full", "lora", "rslora", "dora", "ia3", "ptuning-v2")
FULL = "full"
"""What the others are held against."""


def main() -> None:
    asked = parser("bench.strategies", __doc__)
    asked.add_argument(
        "--strategies", nargs="*", choices=list(STRATEGIES), default=list(STRATEGIES), metavar="S"
    )
    asked.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), metavar="P")
    asked.add_argument("--tasks", nargs="+", choices=list(KINDS), default=list(KINDS))
    asked.add_argument("--rows", type=int, default=1000)
    asked.add_argument("--epochs", type=int, default=3)
    asked.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = asked.parse_args()
    say(f"# Strategies\n\n- {describe(given.threads)}")
    say(
        f"- MiniLM, {given.rows} rows, {given.epochs} epochs, batch {BATCH}, seeds {', '.join(map(str, given.seeds))}\n"
    )
    files = given.work.resolve() / f"strategies-{given.rows}"
    write_files(given.data, files, given.rows)
    figures = given.work / "strategies.jsonl"
    who = [
        (name, Contestant("bench.ours.strategy", name, stage=STRATEGIES[name])) for name in given.strategies
    ]
    who += [(f"peft {name}", Contestant("bench.peers.strategy", name)) for name in given.peers]
    done = kept.read(figures, KEY)
    for seed in given.seeds:
        for name, contestant in who:
            for task in given.tasks:
                if (name, task, seed) in done:
                    continue
                order = Order(
                    contestant.settings,
                    task,
                    files,
                    given.work,
                    given.rows,
                    given.epochs,
                    seed,
                    given.threads,
                )
                try:
                    found = run(contestant, order)
                    found = replace(found, facts={**found.facts, "threads": given.threads})
                except ContestantError as error:
                    say(f"  seed {seed}, {name}, {task}: FAILED: {str(error)[-300:]}")
                    continue
                done[name, task, seed] = found
                say(
                    f"  seed {seed}, {name}, {task}: {found.scores[0].value:.4f}, {found.laps[0].seconds:.1f} s"
                )
                kept.add(figures, found, name=name, task=task, seed=seed)
    say("\n" + table(done, given.tasks))


def write_files(data: Path, home: Path, rows: int) -> None:
    """Write training rows, as many as asked for, further ones as dev rows, and the official dev set to be judged by."""
    home.mkdir(parents=True, exist_ok=True)
    for name in KINDS:
        found = rows_of(data / name / "train.jsonl", rows + DEV)
        write_jsonl(home / f"{name}.train.jsonl", found[:rows])
        write_jsonl(home / f"{name}.dev.jsonl", found[rows:])
        write_jsonl(home / f"{name}.test.jsonl", rows_of(data / name / "dev.jsonl", MOST_TEST))


def table(found: Mapping[kept.Key, Figures], tasks: Sequence[str]) -> str:
    """Return the mean over seeds of each score with the mean ends of its intervals, and what each strategy takes."""
    by_name: dict[str, dict[str, list[Figures]]] = defaultdict(lambda: defaultdict(list))
    for (name, task, _), figures in found.items():
        by_name[str(name)][str(task)].append(figures)
    lines = [
        f"| | trained | {' | '.join(_title(by_name, task) for task in tasks)} | against full | seconds | peak MiB | MiB a task |",
        f"|---|--:|{'---|' * len(tasks)}---|--:|--:|--:|",
    ]
    for name, own in by_name.items():
        if any(task not in own for task in tasks):
            continue
        every = [one for task in tasks for one in own[task]]
        timed = {task: _timed(own[task]) for task in tasks}
        trained = statistics.mean(one.facts["trained"] / one.facts["values"] for one in every)
        seconds = sum(statistics.median(one.laps[0].seconds for one in found) for found in timed.values())
        peak = max(one.peak_mib for found in timed.values() for one in found)
        stored = statistics.mean(one.facts["stored_bytes"] for one in every) / 2**20
        cells = [
            name,
            f"{trained:.2%}",
            *(mean_score([one.scores[0] for one in own[task]]) for task in tasks),
            _verdict(by_name, name, tasks),
        ]
        cells += [f"{seconds:.0f}", f"{peak:.0f}", f"{stored:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _timed(rounds: Sequence[Figures]) -> list[Figures]:
    """Return the rounds that had the most threads: others were made for their scores alone."""
    most = max(one.facts["threads"] for one in rounds)
    return [one for one in rounds if one.facts["threads"] == most]


def _title(by_name: Mapping[str, Mapping[str, Sequence[Figures]]], task: str) -> str:
    first = next(own[task][0].scores[0] for own in by_name.values() if task in own)
    return f"{task}, {first.metric}, n = {first.n}"


def _verdict(by_name: Mapping[str, Mapping[str, Sequence[Figures]]], name: str, tasks: Sequence[str]) -> str:
    """Return on how many tasks the mean is above, within or below the interval of full training's."""
    if any(task not in by_name.get(FULL, {}) for task in tasks):
        return "-"
    counts = {"better": 0, "tie": 0, "worse": 0}
    for task in tasks:
        mine, full = ([one.scores[0] for one in by_name[who][task]] for who in (name, FULL))
        counts[verdict(mine, full)] += 1
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


if __name__ == "__main__":
    main()
