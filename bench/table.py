"""From figures to Markdown: medians, ratios round by round, intervals. Nothing here measures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.order import Figures, Lap, Score

OURS = "weft"
Results = Mapping[str, Sequence[Figures]]
"""Each contestant's figures, one a round, in the same order of rounds."""


@dataclass(frozen=True)
class Scale:
    """What turns seconds of a job into rates.

    Attributes:
        tokens: real tokens of an example, padding not counted; 0 where tokens say nothing.
        flops: model FLOPs of a real token; 0 where they are not counted.
        peak: FLOP/s of the machine.
    """

    tokens: float = 0.0
    flops: float = 0.0
    peak: float = 1.0


def rotated(names: Sequence[str], round_number: int) -> list[str]:
    """Return ``names`` in this round's order: each round begins with another one."""
    shift = round_number % len(names) if names else 0
    return [*names[shift:], *names[:shift]]


def lap(figures: Figures, name: str) -> Lap | None:
    """Return the lap called ``name``, None if there is none."""
    return next((one for one in figures.laps if one.name == name), None)


def per_example(results: Sequence[Figures], name: str) -> list[float]:
    """Return seconds an example of the lap ``name``, round by round."""
    found = [lap(figures, name) for figures in results]
    return [one.seconds / one.examples for one in found if one is not None]


def ratio(results: Results, name: str, contestant: str, *, ours: str = OURS) -> float | None:
    """Return the median over rounds of how many times ``contestant`` needs our time for the lap ``name``.

    Time is taken per example, so a contestant that was given fewer rows is scaled to the whole epoch.
    """
    if ours not in results or contestant not in results:
        return None
    theirs, own = per_example(results[contestant], name), per_example(results[ours], name)
    pairs = list(zip(theirs, own, strict=False))
    return statistics.median(a / b for a, b in pairs) if pairs else None


def memory_ratio(results: Results, contestant: str) -> float | None:
    """Return the median over rounds of our peak memory as a share of ``contestant``'s."""
    pairs = list(zip(results.get(OURS, ()), results.get(contestant, ()), strict=False))
    return statistics.median(a.peak_mib / b.peak_mib for a, b in pairs) if pairs else None


def lap_names(results: Results) -> list[str]:
    """Return the names of all laps in order of first appearance."""
    return list(dict.fromkeys(one.name for rounds in results.values() for f in rounds for one in f.laps))


def job_table(results: Results, scale: Scale, *, ours: str = OURS) -> str:
    """Return one job's table: a line for each lap of each contestant; what belongs to a process stands once."""
    full = max((one.examples for rounds in results.values() for f in rounds for one in f.laps), default=0)
    lines = [
        "| | lap | seconds | examples/s | real tokens/s | MFU | x Weft's time | peak MiB | start-up s | score (95 %) |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for contestant, rounds in results.items():
        names = [name for name in lap_names(results) if per_example(rounds, name)]
        for name in names:
            once = _process(rounds) if name == names[0] else ["", "", ""]
            speed = _speed(rounds, name, scale, full=full)
            times = _times(ratio(results, name, contestant, ours=ours))
            lines.append("| " + " | ".join([contestant, name, *speed, times, *once]) + " |")
    return "\n".join(lines)


def _speed(rounds: Sequence[Figures], name: str, scale: Scale, *, full: int) -> list[str]:
    laps = [one for one in (lap(figures, name) for figures in rounds) if one is not None]
    rate = statistics.median(one.examples / one.seconds for one in laps)
    seconds = spread([one.seconds for one in laps])
    if laps[0].examples < full:
        seconds = f"{seconds} for {laps[0].examples} of {full}"
    tokens = rate * scale.tokens
    mfu = f"{tokens * scale.flops / scale.peak:.1%}" if scale.flops else "-"
    return [seconds, f"{rate:.4g}", f"{tokens:.0f}" if scale.tokens else "-", mfu]


def _process(rounds: Sequence[Figures]) -> list[str]:
    startup = statistics.median(figures.startup_s for figures in rounds)
    return [
        f"{statistics.median(figures.peak_mib for figures in rounds):.0f}",
        f"{startup:.1f}" if startup else "-",
        score_words([figures.scores for figures in rounds]) or "-",
    ]


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def spread(values: Sequence[float]) -> str:
    """Return median and range."""
    return f"{statistics.median(values):.4g} [{min(values):.4g}-{max(values):.4g}]"


def score_words(rounds: Sequence[Sequence[Score]]) -> str:
    """Return every score, its value and interval averaged over rounds (one round is one seed)."""
    words: list[str] = []
    for first in rounds[0] if rounds else ():
        same = [s for scores in rounds for s in scores if (s.task, s.metric) == (first.task, first.metric)]
        words.append(f"{first.task} {first.metric} {mean_score(same)} n={first.n}".strip())
    return "; ".join(words)


def mean_score(rounds: Sequence[Score]) -> str:
    """Return one score's value and the ends of its interval, means over rounds."""
    value, low, high = (statistics.fmean(getattr(s, end) for s in rounds) for end in ("value", "low", "high"))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def verdict(ours: Sequence[Score], theirs: Sequence[Score]) -> str:
    """Return whether the mean of ours is above, within or below that of theirs by half of an interval of theirs."""
    half = statistics.fmean((one.high - one.low) / 2 for one in theirs)
    difference = statistics.fmean(s.value for s in ours) - statistics.fmean(s.value for s in theirs)
    return "tie" if abs(difference) <= half else ("better" if difference > 0 else "worse")


@dataclass(frozen=True)
class Wanted:
    """One line of the summary: a lap, and the least ratio that is wanted against each named contestant."""

    title: str
    lap: str
    least: Mapping[str, float]


def summary_table(lines: Sequence[tuple[Wanted, Results]]) -> str:
    """Return the ratios of all jobs, the tuned peer first; what is wanted stands in parentheses."""
    columns = ("tuned", "common", "tutorial")
    rows = ["| job | x tuned | x common | x tutorial | others |", "|---|--:|--:|--:|---|"]
    for wanted, results in lines:
        cells = [_cell(wanted, results, name) for name in columns]
        others = [
            f"{name} {_cell(wanted, results, name)}"
            for name in results
            if name not in columns and name != OURS
        ]
        rows.append("| " + " | ".join([wanted.title, *cells, ", ".join(others) or "-"]) + " |")
    return "\n".join(rows)


def _cell(wanted: Wanted, results: Results, contestant: str) -> str:
    value = ratio(results, wanted.lap, contestant)
    least = wanted.least.get(contestant)
    return _times(value) + (f" (>= {least:g})" if least is not None else "")
