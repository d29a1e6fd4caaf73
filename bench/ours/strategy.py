"""One task trained by one strategy, judged once on rows that nothing was chosen by; the contestant's name is the task's."""

from __future__ import annotations

from pathlib import Path

from bench.judge import of_task
from bench.order import Clock, Order, peak_mib, report
from bench.ours.runs import recipe, run
from bench.strategies import BATCH, KINDS

OF_A_TASK = ("adapters", "heads", "delta.safetensors")


def main() -> None:
    order, clock = Order.read(), Clock()
    name = order.contestant
    files = ", ".join(f"{split}: {name}.{split}.jsonl" for split in ("train", "dev", "test"))
    # Judged at the end only, so that what is handed on is the last step, as the peer's.
    length = f"length: {order.epochs} epochs, evaluate: {order.epochs} epochs"
    task = f"{name}: {{kind: {KINDS[name]}, {files}}}"
    ran = run(recipe([task], f"batch: {BATCH}, {length}", order), order, clock)
    clock.add("training", ran.seconds, order.rows * order.epochs)
    plan = ran.report.stages[-1].plan
    facts = {
        "trained": plan.num_trained,
        "values": plan.num_values,
        "stored_bytes": stored(order.work / "run" / "bundle"),
    }
    report(clock, [of_task(ran.report.final[0].tasks[0])], peak=peak_mib(), facts=facts)


def stored(bundle: Path) -> int:
    """Return the bytes that one task more needs: all of the bundle but trunk and tokenizer, which are shared."""
    files = (path for path in bundle.rglob("*.safetensors") if path.relative_to(bundle).parts[0] in OF_A_TASK)
    return sum(path.stat().st_size for path in files)


if __name__ == "__main__":
    main()
