"""Each lever on and off: how much of the speed is whose. Whole epochs of ``full`` and ``top2``, Weft against itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from bench.files import prepared
from bench.machine import describe, say
from bench.options import ask_rounds, parser
from bench.order import Order
from bench.race import Contestant, race
from bench.table import Results, lap_names, per_example, ratio, score_words, spread

_PLAIN = Contestant("bench.ours.sentences", "everything at its default")
DEFAULT, COMPILED = "default", "compiled"
LEVERS: Mapping[str, Contestant] = {
    DEFAULT: _PLAIN,
    "without native kernels": replace(_PLAIN, settings="WEFT_NATIVE=0", environment={"WEFT_NATIVE": "0"}),
    "without native attention": replace(_PLAIN, settings="attention in torch", off=("native attention",)),
    "without native AdamW": replace(
        _PLAIN, settings="torch's fused AdamW, all rows at every step", off=("native AdamW",)
    ),
    "without packing": replace(_PLAIN, settings="padded, grouped by length", off=("packing",)),
    "without lazy embedding rows": replace(
        _PLAIN, settings="all rows at every step", off=("lazy embedding rows",)
    ),
    "without prepacked weights": replace(
        _PLAIN, settings="frozen weights as they lie", off=("prepacked weights",)
    ),
    "last layer for all tokens": replace(
        _PLAIN, settings="also for those that nobody reads", off=("only what is read",)
    ),
    "activations computed again": replace(
        _PLAIN, settings="activations: recompute", stage=("activations: recompute",)
    ),
    "moments in bytes": replace(_PLAIN, settings="moments: 8-bit", stage=("moments: 8-bit",)),
    COMPILED: replace(_PLAIN, settings="compile: true", stage=("compile: true",)),
    "fp32": replace(_PLAIN, settings="precision: fp32", recipe=("precision: fp32",)),
    "medium": replace(_PLAIN, settings="precision: medium", recipe=("precision: medium",)),
    "dropout 0.1": replace(_PLAIN, settings="dropout: 0.1", stage=("dropout: 0.1",)),
    "without reuse": replace(_PLAIN, settings="reuse: false", stage=("reuse: false",)),
}
JOBS = {"full": 1, "lora": 1, "top2": 2, "head": 2}


def main() -> None:
    asked = parser("bench.levers", __doc__)
    asked.add_argument("--jobs", nargs="+", choices=list(JOBS), default=["full", "top2"])
    asked.add_argument("--levers", nargs="+", choices=list(LEVERS), default=_here(), metavar="LEVER")
    asked.add_argument("--rows", type=int, default=6920)
    ask_rounds(asked, 3)
    given = asked.parse_args()
    say(
        f"# Levers, one at a time\n\n- {describe(given.threads)}, {given.rounds} rounds, {given.rows} sentences"
    )
    names = dict.fromkeys([DEFAULT, *given.levers])
    files = prepared("sentences", given.rows, data=given.data, work=given.work, threads=given.threads)
    for job in given.jobs:
        order = Order(job, "", files, given.work, given.rows, JOBS[job], 0, given.threads)
        results = race(
            {name: LEVERS[name] for name in names},
            order,
            rounds=given.rounds,
            patience_s=given.patience,
            figures=given.work / "levers.jsonl",
            say=say,
        )
        say(f"\n## {job}\n\n{lever_table(results)}")


def _here() -> list[str]:
    """Return the levers that this machine has: compiling is for GPUs."""
    return [name for name in LEVERS if name != COMPILED or torch.cuda.is_available()]


def lever_table(results: Results) -> str:
    """Return how many times the default's time each variant needs, with what it does to memory and score."""
    lines = [
        "| | how | lap | seconds | x the default's time | peak MiB | score (95 %) |",
        "|---|---|---|--:|--:|--:|---|",
    ]
    for name, rounds in results.items():
        for lap in lap_names({name: rounds}):
            seconds = [one * rounds[0].laps[0].examples for one in per_example(rounds, lap)]
            times = ratio(results, lap, name, ours=DEFAULT)
            peak = max(figures.peak_mib for figures in rounds)
            cells = [name, LEVERS[name].settings, lap, spread(seconds)]
            cells += [
                "-" if times is None else f"{times:.2f}",
                f"{peak:.0f}",
                score_words([one.scores for one in rounds]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
