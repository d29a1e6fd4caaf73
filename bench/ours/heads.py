"""Sixteen classifications of one text from one trunk pass, beside one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from bench.order import Clock, Order, peak_mib, report
from bench.ours.runs import recipe
from bench.rates import BATCH, HEADS

BUDGET = 8192
SINGLE = 200
TURNS = 10


@dataclass(frozen=True)
class Opened:
    """A network with its tasks and encoded rows."""

    network: Any
    tasks: dict[str, Any]
    encoded: dict[str, Any]
    pad: int
    dtype: Any

    def run(self, names: list[str], *, size: int, count: int) -> float:
        """Return the seconds for ``names`` to answer the first ``count`` rows, ``size`` at a time."""
        from weft.evaluate.predict import answer_all

        start = time.perf_counter()
        for at in range(0, count, size):
            rows = {name: self.encoded[name][at : at + size] for name in names}
            answer_all(
                self.network, self.tasks, rows, pad=self.pad, budget=BUDGET, dtype=self.dtype, losses=False
            )
        return time.perf_counter() - start


def main() -> None:
    order, clock = Order.read(), Clock()
    opened = open_all(order)
    names = list(opened.encoded)
    num_texts = len(opened.encoded[names[0]])
    for words, size, count in (("", BATCH, num_texts), (", one text", 1, min(SINGLE, num_texts))):
        both = (("1 head", names[:1]), (f"{HEADS} heads", names))
        for _, chosen in both:
            opened.run(chosen, size=size, count=count)
            clock.first()
        for turn in range(TURNS):  # in turn, for the machine's speed moves by more than what is asked for
            for lap, chosen in both if turn % 2 else reversed(both):
                clock.add(f"{lap}{words}", opened.run(chosen, size=size, count=count), count)
    report(clock, [], peak=peak_mib())


def open_all(order: Order) -> Opened:
    """Return a network with random heads for sixteen tasks that read the same rows."""
    from weft.build import opened as built
    from weft.core.example import Purpose
    from weft.data.sources import read
    from weft.model.device import pick_device, pick_precision

    lines = [
        f"t{number}: {{kind: classification, train: '{order.files}/train.jsonl'}}" for number in range(HEADS)
    ]
    path = order.work / "recipe.yaml"
    path.write_text(recipe(lines, "strategy: head", order), encoding="utf-8")
    found, device = built.open_all(path), pick_device()
    tasks = dict(found.data.fitted)
    rows = read("train.jsonl", root=order.files).rows[: order.rows]
    encoded = {name: task.encode(rows, found.tokenizer, Purpose.ANSWER) for name, task in tasks.items()}
    dtype = pick_precision(found.recipe.precision, device)
    network = found.base.network(tasks, device=device).eval().requires_grad_(False)
    network.compute_only_in(dtype)  # as an opened bundle does
    return Opened(network, tasks, encoded, found.tokenizer.pad, dtype)


if __name__ == "__main__":
    main()
