"""Where the time of a training step goes, and what this machine could do: a page of Markdown.

The steps are those of Weft's own engine on whole SST-2 sentences; the profiler attributes each operator's own time.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from bench.files import prepared
from bench.flops import of_job
from bench.machine import copy_rate, describe, gemm_rate, peak_rate, say
from bench.options import parser
from bench.order import Order
from bench.rates import BATCH, RATES

STRATEGIES = {"full": "full", "lora": "lora", "top2": "top 2", "head": "head"}
PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("attention", ("attention", "softmax", "bmm", "baddbmm")),
    ("optimizer", ("adamw", "adam", "weft_sum", "weft_table", "_foreach", "linalg_vector_norm")),
    ("matrix products", ("mm", "linear", "mkldnn", "product", "matmul")),
    ("embedding", ("embedding", "index_add", "index_put")),
    ("norms, activations, dropout", ("layer_norm", "gelu", "silu", "rms", "tanh", "dropout", "relu")),
    ("copies and casts", ("copy_", "to", "clone", "contiguous", "cat", "fill_", "zero_", "empty", "zeros")),
)
SHAPES = ((384, 384), (384, 1536), (1536, 384))
BATCHING = "batch making"
REST = "rest (element-wise operators, Python between operators)"


@dataclass(frozen=True)
class Profile:
    """What some steps took.

    Attributes:
        steps: how many.
        seconds: of all of them, without the profiler.
        tokens: real tokens of all of them.
        parts: seconds of each kind of work, under the profiler; together they are ``profiled_s``.
        profiled_s: seconds of all of them under the profiler.
    """

    steps: int
    seconds: float
    tokens: int
    parts: dict[str, float]
    profiled_s: float


def main() -> None:
    asked = parser("bench.profile", __doc__)
    asked.add_argument("--methods", nargs="+", choices=list(STRATEGIES), default=["full", "lora"])
    asked.add_argument("--rows", type=int, default=6920)
    asked.add_argument("--steps", type=int, default=40)
    given = asked.parse_args()
    import torch

    torch.set_num_threads(given.threads)
    files = prepared("sentences", given.rows, data=given.data, work=given.work, threads=given.threads)
    peak = peak_rate()
    say(f"# Where a training step goes\n\n- {describe(given.threads)}, bf16 peak {peak / 1e12:.3f} TFLOP/s")
    for method in given.methods:
        order = Order(method, "", files, Path(mkdtemp()), given.rows, 1, 0, given.threads)
        say(page(method, profiled(order, steps=given.steps), peak))
    say(limits())


def profiled(order: Order, *, steps: int) -> Profile:
    """Return the profile of ``steps`` steps of the engine, after a few that warm it up."""
    from torch.profiler import ProfilerActivity, profile, record_function

    engine, batches = prepared_engine(order, steps)
    making: list[Any] = []
    for index, make in enumerate(batches[:8]):
        engine.step(make(), step=index, lr_factor=0.0)
    start = time.perf_counter()
    tokens = sum(engine.step(make(), step=index, lr_factor=1e-3).tokens for index, make in enumerate(batches))
    seconds = time.perf_counter() - start
    with named_kernels(), profile(activities=[ProfilerActivity.CPU]) as found:
        start = time.perf_counter()
        for index, make in enumerate(batches):
            with record_function(BATCHING):
                making = make()
            engine.step(making, step=index, lr_factor=1e-3)
        profiled_s = time.perf_counter() - start
    own = [(event.key, event.self_cpu_time_total / 1e6) for event in found.key_averages()]
    batching = sum(event.cpu_time_total for event in found.key_averages() if event.key == BATCHING) / 1e6
    return Profile(
        len(batches), seconds, tokens, shares(own, batching_s=batching, whole_s=profiled_s), profiled_s
    )


class Named:
    """A library whose functions the profiler sees by their names."""

    def __init__(self, kernels: Any) -> None:
        self._kernels = kernels

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._kernels, name)

        def named(*values: Any) -> Any:
            from torch.profiler import record_function

            with record_function(name):
                return function(*values)

        return named


@contextmanager
def named_kernels() -> Generator[None]:
    """Show Weft's compiled kernels to the profiler, which knows torch's operators only."""
    from weft.native.library import library

    loaded = library()
    if loaded is None:
        yield
        return
    kernels = loaded.kernels
    object.__setattr__(loaded, "kernels", Named(kernels))  # the value is shared by all who call kernels
    try:
        yield
    finally:
        object.__setattr__(loaded, "kernels", kernels)


def prepared_engine(order: Order, steps: int) -> tuple[Any, list[Any]]:
    """Return the engine of a stage, entered as a run enters it, and what makes the batches of its first steps."""
    from functools import partial
    from itertools import islice

    from bench.ours.runs import epochs_of, recipe, sst2
    from weft.build.catalogue import open_recipe
    from weft.run import steps as run_steps
    from weft.run.context import open_context
    from weft.run.folder import RunFolder
    from weft.run.stage import open_stage
    from weft.run.stopping import StopFlag

    path = order.work / "recipe.yaml"
    stage = f"strategy: {STRATEGIES[order.job]}, lr: {RATES[order.job]}, batch: {BATCH}, reuse: false, {epochs_of(order)}"
    path.write_text(recipe([sst2(order)], stage, order), encoding="utf-8")
    loaded = open_recipe(path)
    folder = RunFolder(order.work / "run")
    folder.path.mkdir()
    context = open_context(loaded, folder, root=order.files, stop=StopFlag())
    run, _ = open_stage(context, loaded.stages[0], None)
    taken: list[Any] = []

    def keep(engine: Any, epoch_order: Any, feed: Any, **_others: Any) -> Any:
        taken.extend((engine, epoch_order, feed))
        return iter(())

    from unittest.mock import patch

    with patch.object(run_steps, "train", keep):
        for _ in run_steps._steps(run):
            pass
    engine, epoch_order, feed = taken
    return engine, [partial(feed, step) for step in islice(epoch_order.steps(0), steps)]


def shares(own: Iterable[tuple[str, float]], *, batching_s: float, whole_s: float) -> dict[str, float]:
    """Return seconds by kind of work from operators' own seconds; what no operator accounts for is the rest."""
    parts = {BATCHING: batching_s}
    for name, seconds in own:
        if name != BATCHING and (kind := kind_of(name)) is not None:
            parts[kind] = parts.get(kind, 0.0) + seconds
    parts[REST] = max(0.0, whole_s - sum(parts.values()))
    return parts


def kind_of(operator: str) -> str | None:
    """Return the kind of work of a profiler event, None for one that belongs to the rest.

    Example:
        >>> kind_of("aten::addmm"), kind_of("aten::native_layer_norm"), kind_of("aten::mul")
        ('matrix products', 'norms, activations, dropout', None)
    """
    name = operator.lower().removeprefix("aten::").removeprefix("autograd::engine::evaluate_function: ")
    for kind, words in PARTS:
        if any(name == word if word in ("to", "empty", "zeros") else word in name for word in words):
            return kind
    return None


def page(method: str, profile: Profile, peak: float) -> str:
    """Return one method's part of the page."""
    flops = of_job(method) * profile.tokens
    lines = [
        f"\n## {method}: {profile.steps} steps of {profile.tokens / profile.steps:.0f} real tokens\n",
        f"{profile.seconds / profile.steps * 1e3:.1f} ms a step, {profile.tokens / profile.seconds:.0f} tokens/s, "
        f"utilisation {flops / profile.seconds / peak:.1%}. At the peak its products alone would take "
        f"{flops / peak / profile.steps * 1e3:.1f} ms.\n",
        "| work | ms a step (under the profiler) | share |",
        "|---|--:|--:|",
    ]
    for kind, seconds in sorted(profile.parts.items(), key=lambda item: -item[1]):
        lines.append(f"| {kind} | {seconds / profile.steps * 1e3:.2f} | {seconds / profile.profiled_s:.1%} |")
    return "\n".join(lines)


def limits(rows: Sequence[int] = (768, 4096)) -> str:
    """Return the machine's rates at the shapes of a step."""
    lines = [
        "\n## What this machine can do\n",
        "| product (tokens x in x out) | bf16 GFLOP/s | fp32 GFLOP/s |",
        "|---|--:|--:|",
    ]
    for count in rows:
        for inner, columns in SHAPES:
            rates = [gemm_rate(count, inner, columns, dtype=kind) / 1e9 for kind in ("bfloat16", "float32")]
            lines.append(f"| {count} x {inner} x {columns} | {rates[0]:.0f} | {rates[1]:.0f} |")
            back = gemm_rate(inner, count, columns, dtype="bfloat16") / 1e9
            lines.append(f"| {inner} x {count} x {columns} (weight gradient) | {back:.0f} | - |")
    lines.append(f"\nCopying 256 MiB: {copy_rate() / 1e9:.1f} GB/s, read and written bytes counted.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
