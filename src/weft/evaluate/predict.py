"""Answers of a network for many rows of many tasks: equal texts pass the trunk once, whatever tasks ask of them.

Legend: rows are examples of a task; texts are distinct token sequences.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.core.example import Answer, Encoded
from weft.core.network import Inference, Network
from weft.core.routing import Routes
from weft.errors import Interrupted
from weft.task.base import Task
from weft.task.batching import cut_apart, make_batch

Item = tuple[str, int]
"""One row to answer: its task's name and its position among the task's rows."""


@dataclass(frozen=True, slots=True)
class LossSum:
    """A summed loss and the weight (rows, tokens, ...) that it is a sum over."""

    total: float
    weight: float

    @property
    def mean(self) -> float:
        """The loss per unit of weight."""
        return self.total / self.weight


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a network answers.

    Attributes:
        answers: one answer a row, in the order of the rows that were given, by task.
        losses: by task; a task without a gold answer in every row, or without a loss when it answers, has none.
        num_texts: rows that passed the trunk: distinct texts, but for those that examples of several texts share.
        num_tokens: their tokens.
        num_padded_tokens: the same with padding.
        seconds: that each task's answers took; a pass that tasks share counts for the one that asks first.
    """

    answers: Mapping[str, tuple[Answer, ...]]
    losses: Mapping[str, LossSum]
    num_texts: int
    num_tokens: int
    num_padded_tokens: int
    seconds: Mapping[str, float]

    def loss(self, task: str) -> float | None:
        """Return the mean loss of ``task`` per unit of its weight, None where it has none."""
        return self.losses[task].mean if task in self.losses else None


def _say_nothing(_done: int, _total: int) -> None:
    return


def _go_on() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Watch:
    """Somebody who looks on while rows are answered.

    Attributes:
        progress: called after each batch with the rows answered so far and all rows.
        stop: asked before each batch; True ends the work with ``Interrupted``.
    """

    progress: Callable[[int, int], None] = _say_nothing
    stop: Callable[[], bool] = _go_on

    def check(self) -> None:
        """Raise ``Interrupted`` if the work is to stop."""
        if self.stop():
            raise Interrupted("evaluation: must finish, but the run was asked to stop. Resume to go on.")


def answer_all(
    network: Network,
    tasks: Mapping[str, Task],
    encoded: Mapping[str, Sequence[Encoded]],
    *,
    pad: int,
    budget: int,
    dtype: torch.dtype,
    losses: bool = True,
    watch: Watch | None = None,
) -> Predictions:
    """Return the network's answers to every row of ``encoded``; the network is left in the mode it was in.

    Args:
        network: trunk and one head for each task of ``encoded``.
        tasks: by name; may hold more tasks than ``encoded``.
        encoded: the rows of each task.
        pad: padding token.
        budget: most tokens of one trunk pass, padding included; a longer single text passes alone.
        dtype: of the trunk while it computes.
        losses: whether to sum losses too, for tasks whose rows all have a gold answer.
        watch: told of progress, and asked whether to stop.

    Raises:
        Interrupted: ``watch`` said stop; nothing was kept, the caller saves what there is to save.
    """
    watch = watch or Watch()
    answers: dict[str, list[Answer | None]] = {name: [None] * len(rows) for name, rows in encoded.items()}
    judged = {
        name for name, rows in encoded.items() if losses and rows and all(r.gold is not None for r in rows)
    }
    sums: dict[str, tuple[Tensor, float]] = {}
    seconds = dict.fromkeys(encoded, 0.0)
    num_rows, num_done = sum(map(len, answers.values())), 0
    num_texts = num_tokens = num_padded = 0
    with answering(network, dtype):
        for inference, rows in _passes(network, tasks, encoded, pad=pad, budget=budget, watch=watch):
            batch = inference.batch
            _add_answers(answers, tasks, inference, rows, seconds=seconds)
            _add_losses(sums, tasks, inference, names=judged)
            num_texts += batch.layout.num_rows
            num_tokens += batch.num_tokens
            num_padded += batch.num_padded_tokens
            num_done += len(rows)
            watch.progress(num_done, num_rows)
    return Predictions(
        answers={name: tuple(a for a in found if a is not None) for name, found in answers.items()},
        losses={name: LossSum(float(total), weight) for name, (total, weight) in sums.items()},
        num_texts=num_texts,
        num_tokens=num_tokens,
        num_padded_tokens=num_padded,
        seconds=seconds,
    )


def sum_losses(
    network: Network,
    tasks: Mapping[str, Task],
    encoded: Mapping[str, Sequence[Encoded]],
    *,
    pad: int,
    budget: int,
    dtype: torch.dtype,
    watch: Watch | None = None,
) -> dict[str, LossSum]:
    """Return the loss of every task on rows that hold their answers; the network is left in the mode it was in.

    Args: see ``answer_all``.

    Raises:
        Interrupted: ``watch`` said stop.
    """
    encoded = {
        name: [part for row in rows for part in cut_apart(tasks[name], row)] for name, rows in encoded.items()
    }
    sums: dict[str, tuple[Tensor, float]] = {}
    with answering(network, dtype):
        for inference, _ in _passes(network, tasks, encoded, pad=pad, budget=budget, watch=watch or Watch()):
            _add_losses(sums, tasks, inference, names=set(encoded))
    return {name: LossSum(float(total), weight) for name, (total, weight) in sums.items()}


_Rows = Sequence[tuple[str, int, Encoded]]
"""Task, position and row, in the order of a batch."""


def _passes(
    network: Network,
    tasks: Mapping[str, Task],
    encoded: Mapping[str, Sequence[Encoded]],
    *,
    pad: int,
    budget: int,
    watch: Watch,
) -> Iterator[tuple[Inference, _Rows]]:
    """Yield each pass of the trunk with the rows that it is for: equal texts once, rows of one adapter side by side."""
    groups = _texts(encoded, network.routes)
    lengths, sizes = [group.longest for group in groups], [group.rows for group in groups]
    for chunk in batches_by_length(lengths, budget, rows=sizes):
        watch.check()
        texts = sorted((groups[index] for index in chunk), key=lambda text: text.adapters)
        rows = [(name, at, encoded[name][at]) for text in texts for name, at in text.items]
        items = [(name, row) for name, _, row in rows]
        batch = make_batch(items, tasks, pad=pad, packed=True, routes=network.routes)
        yield Inference(network, batch.to(network.device)), rows


@dataclass(frozen=True, slots=True)
class _Texts:
    """The texts of an example, the adapters of its own that they pass through and the rows that read them."""

    rows: int
    longest: int
    adapters: tuple[str, ...]
    items: list[Item]


def _texts(encoded: Mapping[str, Sequence[Encoded]], routes: Routes) -> list[_Texts]:
    """Return the distinct texts of all tasks, apart where their adapters are others, in order of first appearance.

    Those of one example stay together.
    """
    found: dict[tuple[int | bytes, tuple[str, ...]], _Texts] = {}
    for name, rows in encoded.items():
        adapters = routes.get(name, ())
        for position, row in enumerate(rows):
            key = (row.identity if row.more else row.digest), adapters
            texts = found.get(key)
            if texts is None:
                texts = found[key] = _Texts(1 + len(row.more), row.longest, adapters, [])
            texts.items.append((name, position))
    return list(found.values())


def batches_by_length(
    lengths: Sequence[int], budget: int, rows: Sequence[int] | None = None
) -> Iterator[list[int]]:
    """Yield positions of ``lengths``, longest first, in groups whose padded grid holds at most ``budget`` tokens.

    Longest first, so that the largest grid comes first and a lack of memory shows at once.

    Args:
        lengths: tokens of the longest row of each.
        budget: most tokens of a group; what is larger alone passes alone.
        rows: of each; default: one.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    group: list[int] = []
    height = 0
    for index in order:
        own = 1 if rows is None else rows[index]
        if group and lengths[group[0]] * (height + own) > budget:
            yield group
            group, height = [], 0
        group.append(index)
        height += own
    if group:
        yield group


def _add_answers(
    answers: Mapping[str, list[Answer | None]],
    tasks: Mapping[str, Task],
    inference: Inference,
    rows: _Rows,
    *,
    seconds: dict[str, float],
) -> None:
    """Put the answer of each of ``rows`` where it belongs, and add the time that a task's took to ``seconds``."""
    by_task: dict[str, list[tuple[int, Encoded]]] = {}
    for name, position, row in rows:
        by_task.setdefault(name, []).append((position, row))
    for name, asked in by_task.items():
        start = time.perf_counter()
        found = tasks[name].answers(inference, [row for _, row in asked])
        seconds[name] += time.perf_counter() - start
        for (position, _), answer in zip(asked, found, strict=True):
            answers[name][position] = answer


def _add_losses(
    sums: dict[str, tuple[Tensor, float]], tasks: Mapping[str, Task], inference: Inference, *, names: set[str]
) -> None:
    """Add the batch's loss to each task's sum, on the device: nothing waits for it."""
    for name, target in inference.batch.targets.items():
        if name in names and target.weight > 0:
            loss = tasks[name].loss(inference.outputs(name), target)
            total, weight = sums.get(name, (torch.zeros((), device=loss.total.device), 0.0))
            sums[name] = (total + loss.total, weight + loss.weight)


@contextmanager
def answering(network: Network, dtype: torch.dtype) -> Generator[None]:
    """Put ``network`` in eval mode without gradients, and every module back to its own mode afterwards."""
    # Walking through all modules takes longer than some answers: a network that answers only is left as it is.
    was_training = [module for module in network.modules() if module.training] if network.training else []
    if was_training:
        network.eval()
    try:
        with network.computing(dtype), torch.inference_mode():
            yield
    finally:
        for module in was_training:
            module.training = True
