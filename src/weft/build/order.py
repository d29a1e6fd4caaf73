"""What a stage draws when: the order of its rows, and how far its length takes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import numpy as np

from weft.build.data import Data
from weft.core.example import Encoded
from weft.core.network import Network, Trunk
from weft.data.mixture import Ints, Mixture, row_keys, shares
from weft.recipe.duration import Duration, Unit
from weft.recipe.spec import Recipe, StageSpec
from weft.train.feed import Feed
from weft.train.order import EpochOrder, Step, Texts
from weft.train.progress import Progress, fraction_done, is_over


def order_of(recipe: Recipe, stage: StageSpec, data: Data, *, by_length: bool) -> EpochOrder:
    """Return which rows make up which step of ``stage``.

    Args:
        recipe: the whole recipe.
        stage: one of its stages.
        data: the encoded data.
        by_length: whether rows of like length are to meet in a step.

    Raises:
        DataError: a task that is to be drawn has no rows, or so small a share that it would not be drawn at all.
    """
    rows = {name: data.tasks[name].train for name in recipe.tasks_of(stage)}
    sizes = {name: len(examples) for name, examples in rows.items()}
    keys = {
        name: row_keys(data.tasks[name].source, [example.name for example in examples])
        for name, examples in rows.items()
    }
    mixture = Mixture(
        seed=recipe.seed,
        stage=stage.name,
        kind=stage.mixture.kind,
        shares=shares(stage.mixture, sizes, stage.tasks),
        keys=keys,
        strata=_strata(rows),
    )
    return EpochOrder(
        mixture=mixture,
        texts={name: Texts.of(rows[name]) for name in mixture.tasks},
        batch=stage.batch,
        homogeneous=stage.mixture.batches == "homogeneous",
        by_length=by_length,
    )


def _strata(rows: Mapping[str, Sequence[Encoded]]) -> dict[str, Ints]:
    """Return the stratum of each row, for tasks with more than one stratum."""
    found = {
        name: np.fromiter((one.stratum for one in own), np.int64, len(own)) for name, own in rows.items()
    }
    return {name: strata for name, strata in found.items() if len(np.unique(strata)) > 1}


def feed_of(stage: StageSpec, order: EpochOrder, data: Data, network: Network, *, pad: int) -> Feed:
    """Return what makes batches of the steps of ``order`` for ``network``.

    Args:
        stage: the stage.
        order: of the stage.
        data: the encoded data.
        network: entered, with its routes.
        pad: the token that fills padded batches.
    """
    names = order.mixture.tasks
    return Feed(
        tasks={name: data.tasks[name].task for name in names},
        rows={name: data.tasks[name].train for name in names},
        pad=pad,
        budget=stage.budget,
        packed=cast(Trunk, network.trunk).packs,
        routes=network.routes,
    )


def foresee(length: Duration, order: EpochOrder) -> Progress | None:
    """Return where a stage of ``length`` will be at its end; None for a length in minutes.

    The first epoch and the last are walked through as training does it; those between are taken to hold as many
    tokens as the first. Steps and examples are exact unless the length is in tokens, tokens are exact up to
    the end of the second epoch.
    """
    if length.unit is Unit.MINUTES:
        return None
    progress = _walk(Progress(), length, order)
    if is_over(length, progress, epoch_size=order.epoch_size):
        return progress
    whole = max(1, int(1 / fraction_done(length, progress, epoch_size=order.epoch_size)) - 1)
    progress = _repeated(progress, whole)
    while not is_over(length, progress, epoch_size=order.epoch_size):
        progress = _walk(progress, length, order)
    return progress


def _repeated(epoch: Progress, times: int) -> Progress:
    """Return where a stage is after ``times`` epochs like ``epoch``."""
    return Progress(
        epoch=times,
        step=epoch.step * times,
        examples={name: count * times for name, count in epoch.examples.items()},
        tokens=epoch.tokens * times,
    )


def _walk(start: Progress, length: Duration, order: EpochOrder) -> Progress:
    """Return where a stage is that goes on from the beginning of an epoch until ``length`` or the epoch is over."""
    progress = start
    for after in _progress(start, order.steps(start.epoch), order):
        progress = after
        if is_over(length, progress, epoch_size=order.epoch_size):
            break
    return progress


def _progress(start: Progress, steps: Iterable[Step], order: EpochOrder) -> Iterator[Progress]:
    progress = start
    for step in steps:
        progress = progress.counted(
            Counter(draw.task for draw in step),
            tokens=_tokens(step, order),
            padded_tokens=0,
            steps_per_epoch=order.steps_per_epoch,
        )
        yield progress


def _tokens(step: Step, order: EpochOrder) -> int:
    """Return the tokens of a step that pass the trunk: those of each text once, with one reply where it has several."""
    lengths = {
        int(order.texts[draw.task].keys_R[draw.row]): int(order.texts[draw.task].lengths_R[draw.row])
        for draw in step
    }
    return sum(lengths.values())
