"""The race: every contestant in turn, several rounds, a table for each job and one of all ratios."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench import flops
from bench.files import prepared
from bench.jobs import GROUPS, JOBS, PACKAGES, Job
from bench.machine import describe, has_gpu, say
from bench.options import ask_rounds, parser
from bench.order import Order
from bench.race import ROOT, ContestantError, disturbed, race
from bench.table import OURS, Results, Scale, Wanted, job_table, memory_ratio, per_example, summary_table


@dataclass(frozen=True)
class Choices:
    """What was asked for."""

    jobs: tuple[str, ...]
    contestants: tuple[str, ...]
    data: Path
    work: Path
    figures: Path
    rounds: int
    rows: int | None
    threads: int
    patience: float
    smoke: bool


def main() -> None:
    choices = parse()
    choices.work.mkdir(parents=True, exist_ok=True)
    peak = measured_peak(choices.threads)
    say(header(choices, peak))
    summary: list[tuple[Wanted, Results]] = []
    for name in choices.jobs:
        results = run_job(name, choices, peak)
        summary += [(wanted, results) for wanted in JOBS[name].wanted]
    say(
        "\n## Ratios: how many times Weft's time the peer needs (medians over rounds; wanted in parentheses)\n"
    )
    say(summary_table(summary))
    say(f"\nEvery figure: {choices.figures}")


def parse() -> Choices:
    """Return the command line's choices."""
    asked = parser("bench", __doc__)
    names = [*JOBS, *GROUPS]
    asked.add_argument(
        "--jobs",
        nargs="+",
        choices=names,
        default=[name for name, job in JOBS.items() if has_gpu() or not job.needs_gpu],
        metavar="JOB",
        help=", ".join(names),
    )
    asked.add_argument("--contestants", nargs="+", default=[], help="only these; default: all of each job")
    asked.add_argument("--figures", type=Path, help="JSON lines that results are added to")
    ask_rounds(asked, 5)
    asked.add_argument("--rows", type=int, help="instead of each job's own number")
    asked.add_argument("--smoke", action="store_true", help="tiny rows, one round: does everybody run?")
    given = asked.parse_args()
    if not (given.data / "sst2" / "train.jsonl").is_file():
        asked.error(
            f"{given.data}: must hold sst2/train.jsonl and others, but does not. Name the folder by --data."
        )
    jobs = [job for name in given.jobs for job in GROUPS.get(name, (name,))]
    return Choices(
        jobs=tuple(dict.fromkeys(jobs)),
        contestants=tuple(given.contestants),
        data=given.data.resolve(),
        work=given.work.resolve(),
        figures=(given.figures or given.work / "figures.jsonl").resolve(),
        rounds=1 if given.smoke else given.rounds,
        rows=given.rows,
        threads=given.threads,
        patience=0.0 if given.smoke else given.patience,
        smoke=given.smoke,
    )


def run_job(name: str, choices: Choices, peak: float) -> Results:
    """Run one job and say its table; return its figures."""
    job = JOBS[name]
    rows = choices.rows or (job.smoke if choices.smoke else job.rows)
    say(f"\n## {name}: {job.title}\n")
    wanted = {
        who: c for who, c in job.contestants.items() if not choices.contestants or who in choices.contestants
    }
    for who, contestant in wanted.items():
        say(f"- {who}: {contestant.settings}")
    say(f"\n{job.note}\n" if job.note else "")
    try:
        files = prepared(name, rows, data=choices.data, work=choices.work, threads=choices.threads)
    except ContestantError as error:
        say(f"  {name}: its files could not be made, the job is left out: {error}")
        return {}
    order = Order(name, "", files, choices.work, rows, job.epochs, 0, choices.threads)
    rounds = min(choices.rounds, job.most_rounds)
    results = race(
        wanted, order, rounds=rounds, patience_s=choices.patience, figures=choices.figures, say=say
    )
    about = json.loads((files / "about.json").read_text(encoding="utf-8"))
    scale = Scale(about["tokens"], flops.of_job(name, answer_share=about.get("answer_share", 1.0)), peak)
    say("\n" + job_table(results, scale))
    for line in remarks(job, results):
        say(line)
    return results


def remarks(job: Job, results: Results) -> list[str]:
    """Return what stands under a job's table."""
    lines: list[str] = []
    if job.inner is not None and results.get(OURS):
        over, under, most = job.inner
        pairs = zip(per_example(results[OURS], over), per_example(results[OURS], under), strict=True)
        share = sorted(a / b for a, b in pairs)[len(results[OURS]) // 2]
        lines.append(f"\nWeft: {over} in {share:.2f} of the time of {under} (<= {most:g})")
    if job.memory:
        for name in results:
            if name != OURS and (share := memory_ratio(results, name)) is not None:
                lines.append(f"\nWeft's peak memory is {share:.2f} of that of {name} (<= {job.memory:g})")
    if number := disturbed(results):
        lines.append(f"\n{number} processes ran while others used the machine: repeat when it is quiet.")
    return lines


def measured_peak(threads: int) -> float:
    """Return the bf16 peak of this machine in FLOP/s, measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.machine", str(threads)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def header(choices: Choices, peak: float) -> str:
    """Return versions, machine and rules."""
    installed = ", ".join(f"{name} {version_of(name)}" for name in PACKAGES)
    return "\n".join(
        [
            "# Weft with its defaults beside named peers",
            "",
            f"- {installed}",
            f"- {describe(choices.threads)}, bf16 peak {peak / 1e12:.3f} TFLOP/s",
            f"- {choices.rounds} rounds, the order rotates, every contestant in a process of its own; medians [range]",
            f"- {flops.FORMULA}",
            "- start-up: from the start of the process to the end of its first step; peak MiB: of the process",
        ]
    )


def version_of(package: str) -> str:
    """Return the installed version, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
