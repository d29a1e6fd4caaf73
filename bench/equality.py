"""Does the fast path learn what the plain one learns? Four data sets, three seeds, each trained both ways.

Fast: the defaults. Plain: fp32, padded batches, attention and AdamW in torch, every layer at every step.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import replace

from bench.files import prepared
from bench.machine import describe, say
from bench.options import parser
from bench.order import Figures, Order
from bench.ours.switches import SWITCHES
from bench.race import Contestant, run

SETS = ("sst2", "mrpc", "conll2003", "stsb_en")
PLAIN = tuple(SWITCHES)
PATHS = {
    "fast": Contestant("bench.ours.alone", "defaults"),
    "plain": Contestant(
        "bench.ours.alone",
        "fp32",
        recipe=("precision: fp32",),
        stage=("reuse: false",),
        off=PLAIN,
        environment={"WEFT_NATIVE": "0"},
    ),
}


def main() -> None:
    asked = parser("bench.equality", __doc__)
    asked.add_argument("--rows", type=int, default=2000)
    asked.add_argument("--epochs", type=int, default=2)
    asked.add_argument("--seeds", type=int, default=3)
    given = asked.parse_args()
    say(f"# Learning equality\n\n- {describe(given.threads)}")
    say(
        f"- full training of MiniLM, {given.rows} rows, {given.epochs} epochs, seeds 0 to {given.seeds - 1}\n"
    )
    files = prepared("six", given.rows, data=given.data, work=given.work, threads=given.threads)
    found: dict[tuple[str, str], list[Figures]] = defaultdict(list)
    for seed in range(given.seeds):
        for name in SETS:
            for path, contestant in PATHS.items():
                work = given.work / "equality" / f"{name}-{seed}-{path}"
                order = Order("equality", name, files, work, given.rows, given.epochs, seed, given.threads)
                found[name, path].append(run(replace(contestant, settings=name), order))
                figures = found[name, path][-1]
                score = figures.scores[0]
                say(f"  seed {seed}, {name}, {path}: {score.value:.4f} [{score.low:.4f}, {score.high:.4f}]")
    say(table(found))


def table(found: dict[tuple[str, str], list[Figures]]) -> str:
    """Return the mean scores of both ways, their difference, and the half width of a run's 95 % interval."""
    lines = [
        "\n| | metric | n | plain fp32 | fast | fast - plain | half of a run's interval | verdict |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for name in SETS:
        plain, fast = ([one.scores[0] for one in found[name, path]] for path in ("plain", "fast"))
        differences = [there.value - here.value for there, here in zip(fast, plain, strict=True)]
        half = statistics.mean((one.high - one.low) / 2 for one in (*plain, *fast))
        difference = statistics.mean(differences)
        spread = f"{difference:+.4f} [{min(differences):+.4f}, {max(differences):+.4f}]"
        means = [f"{statistics.mean(one.value for one in way):.4f}" for way in (plain, fast)]
        verdict = (
            "tie" if abs(difference) <= half else ("fast is better" if difference > 0 else "fast is worse")
        )
        cells = [name, plain[0].metric, str(plain[0].n), *means, spread, f"{half:.4f}", verdict]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
