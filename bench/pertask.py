"""Four LoRAs for four tasks: one run with mixed batches beside four runs; scores, seconds, memory."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from bench.machine import describe, say
from bench.options import ask_rounds, parser
from bench.order import Figures, Order
from bench.race import Contestant, race
from bench.strategies import KINDS, write_files
from bench.table import mean_score

TOGETHER = "together"


def main() -> None:
    asked = parser("bench.pertask", __doc__)
    asked.add_argument("--rows", type=int, default=1000)
    asked.add_argument("--epochs", type=int, default=1)
    ask_rounds(asked, 3)
    given = asked.parse_args()
    say(f"# Adapters of four tasks\n\n- {describe(given.threads)}, {given.rows} rows a task\n")
    files = given.work.resolve() / f"strategies-{given.rows}"
    write_files(given.data, files, given.rows)
    order = Order("pertask", "", files, given.work, given.rows, given.epochs, 0, given.threads)
    who = {name: Contestant("bench.ours.pertask", name) for name in (TOGETHER, *KINDS)}
    figures = given.work / "pertask.jsonl"
    results = race(who, order, rounds=given.rounds, patience_s=given.patience, figures=figures, say=say)
    say("\n" + table(results))


def table(results: Mapping[str, Sequence[Figures]]) -> str:
    """Return scores of both ways, and seconds of training and of whole processes: one against the sum of four."""
    lines = ["| task | metric | together | alone |", "|---|---|---|---|"]
    for task in KINDS:
        pair = [_scores(results[who], task) for who in (TOGETHER, task)]
        lines.append(f"| {task} | {results[task][0].scores[0].metric} | {pair[0]} | {pair[1]} |")
    rounds = range(min(len(found) for found in results.values()))
    lines += ["", "| | together | four runs | x |", "|---|--:|--:|--:|"]
    for words, seconds in (("training, s", _training), ("whole processes, s", _whole)):
        pairs = [
            (seconds(results[TOGETHER][at]), sum(seconds(results[task][at]) for task in KINDS))
            for at in rounds
        ]
        one, four, ratio = (
            statistics.median(values) for values in zip(*((a, b, b / a) for a, b in pairs), strict=True)
        )
        lines.append(f"| {words} | {one:.1f} | {four:.1f} | {ratio:.2f} |")
    peaks = [max(one.peak_mib for one in results[who]) for who in (TOGETHER, *KINDS)]
    lines.append(f"| peak MiB | {peaks[0]:.0f} | {max(peaks[1:]):.0f} | |")
    return "\n".join(lines)


def _training(figures: Figures) -> float:
    return figures.laps[0].seconds


def _whole(figures: Figures) -> float:
    return figures.whole_s


def _scores(rounds: Sequence[Figures], task: str) -> str:
    return mean_score([score for one in rounds for score in one.scores if score.task == task])


if __name__ == "__main__":
    main()
