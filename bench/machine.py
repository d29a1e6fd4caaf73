"""The machine: what it can do at most, and whether somebody else is using it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
LARGE = ((8192, 8192, 8192),)  # a GPU is not filled by the products of a small encoder
QUIET = 0.15  # cores that others may keep busy: a desktop's background noise


def say(text: str) -> None:
    """Print at once, so that a long race can be watched."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def busy_seconds() -> float:
    """Return processor seconds that all processes of this machine have used so far, stolen ones included."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, soft, steal = (int(value) for value in fields[:8])
    return (user + nice + system + irq + soft + steal) / TICK


def foreign_cores(seconds: float = 0.5) -> float:
    """Return how many cores others keep busy, watched for ``seconds`` while this process sleeps."""
    before, start = busy_seconds(), time.perf_counter()
    time.sleep(seconds)
    return (busy_seconds() - before) / (time.perf_counter() - start)


def wait_for_quiet(patience_s: float) -> float:
    """Return the foreign load when it is low, or after ``patience_s`` seconds what it then is."""
    end = time.monotonic() + patience_s
    while (load := foreign_cores()) > QUIET and time.monotonic() < end:
        time.sleep(2.0)
    return load


def describe(threads: int) -> str:
    """Return processor, threads and load in one line."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        "unknown processor",
    )
    load = Path("/proc/loadavg").read_text(encoding="ascii").split()[0]
    return f"{cpu}, {os.cpu_count()} cores, {threads} threads, load average {load} at the start"


def gemm_rate(rows: int, inner: int, columns: int, *, dtype: str, seconds: float = 0.4) -> float:
    """Return FLOP/s of ``(rows, inner) @ (inner, columns)``, best of as many products as fit into ``seconds``."""
    import torch

    kind, device = getattr(torch, dtype), "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.randn(count, inner, device=device).to(kind) for count in (rows, columns))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    torch.nn.functional.linear(left, right)
    wait()
    best, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        torch.nn.functional.linear(left, right)
        wait()
        best = min(best, time.perf_counter() - start)
    return 2.0 * rows * inner * columns / best


def copy_rate(mib: int = 256) -> float:
    """Return bytes/s of copying ``mib`` MiB, read and written bytes both counted, best of five."""
    import torch

    source = torch.ones(mib * 2**20 // 4)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - start)
    return 2.0 * mib * 2**20 / best


def has_gpu() -> bool:
    """Return whether everybody computes on a GPU."""
    import torch

    return torch.cuda.is_available()


def peak_rate() -> float:
    """Return the largest bf16 rate of a few large products: the peak that utilisation is quoted against."""
    shapes = ((4096, 384, 1536), (4096, 1536, 384), (2048, 1024, 1024), *LARGE * has_gpu())
    return max(gemm_rate(*shape, dtype="bfloat16") for shape in shapes)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(int(sys.argv[1]))
    sys.stdout.write(f"{peak_rate():.6g}\n")
