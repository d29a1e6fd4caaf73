"""What a stage will cost, from shapes alone: parameters, steps, memory, time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch

from weft.build.activations import choose
from weft.build.data import Data
from weft.build.memory import Memory, sites_of
from weft.build.order import foresee, order_of
from weft.build.reuse import depth
from weft.build.rows import Rows, adapter_shares, rows_of, stack_shares, virtual_share
from weft.build.stage import Entered
from weft.core.network import Trunk
from weft.core.table import ParamTable
from weft.core.view import ParamInfo, Site, SiteKind
from weft.errors import ModelError
from weft.model import cut
from weft.model.device import memory_of
from weft.recipe.spec import Activations, Recipe, StageSpec, TrunkCarry
from weft.report.records import PARENTS, StagePlan
from weft.report.tables import condense
from weft.strategy.edit import Edit
from weft.train.order import EpochOrder
from weft.train.progress import Progress

_UTILISATION = 0.3  # share of the matrix rate that a whole step reaches (docs/experiments.md)
_MEASURED = (1024, 384, 1536)  # rows, inputs, outputs: a feed-forward layer of a small encoder


@dataclass(frozen=True, slots=True)
class Machine:
    """What estimates need to know of the machine.

    Attributes:
        flops: matrix products a second that a whole training step sustains.
        dtype: of matrix products.
        memory_bytes: that a run may use of the device.
        is_gpu: whether the device is one, so that there is a host's memory besides.
    """

    flops: float
    dtype: torch.dtype
    memory_bytes: int = 2**62
    is_gpu: bool = False


def measure(device: torch.device, dtype: torch.dtype) -> Machine:
    """Return the rate of this machine, from a matrix product of a small encoder's shape (takes about 50 ms)."""
    rows, inputs, outputs = _MEASURED
    a = torch.ones(rows, inputs, device=device, dtype=dtype)
    b = torch.ones(inputs, outputs, device=device, dtype=dtype)
    best = math.inf
    for _ in range(8):
        start = time.perf_counter()
        (a @ b).sum().item()
        best = min(best, time.perf_counter() - start)
    return Machine(
        flops=_UTILISATION * 2 * rows * inputs * outputs / best,
        dtype=dtype,
        memory_bytes=memory_of(device),
        is_gpu=device.type == "cuda",
    )


def plan_stage(recipe: Recipe, stage: StageSpec, entered: Entered, data: Data, machine: Machine) -> StagePlan:
    """Return what ``stage`` will do and cost.

    Args:
        recipe: the whole recipe.
        stage: one of its stages.
        entered: that stage on any device (the meta device will do).
        data: the encoded data.
        machine: rate of the machine; see ``measure``.

    Raises:
        ModelError: the stage asks of the trunk's layers what they cannot do here.
    """
    _check_compile(stage, entered, machine)
    order = order_of(recipe, stage, data, by_length=not cast(Trunk, entered.network.trunk).packs)
    end = foresee(stage.length, order)
    rows = rows_of(entered, order, data)
    memory = Memory(entered, stage, order, rows, machine.dtype)
    activations = choose(
        stage.activations,
        memory.step,
        memory_bytes=machine.memory_bytes,
        is_gpu=machine.is_gpu,
        recomputes=cast(Trunk, entered.network.trunk).recomputes,
    )
    parents = recipe.parents_of(stage)
    return StagePlan(
        name=stage.name,
        parent=PARENTS.join(parent.name for parent in parents) or "base",
        strategy=_strategy_words(stage),
        carry=_carried(recipe, stage),
        tasks=dict(order.mixture.shares),
        passes={} if end is None else _passes(end, data),
        table=condense(entered.table.rows),
        num_trained=entered.table.num_trained(),
        num_values=entered.table.num_values(),
        steps=None if end is None else end.step,
        examples=None if end is None else end.num_examples,
        tokens=None if end is None else end.tokens,
        memory_bytes=max(memory.step(activations), memory.choosing()),
        activations=activations,
        seconds=None if end is None else _flops(stage, entered, order, rows, end) / machine.flops,
        notes=_notes(entered.table, recipe, stage),
        ways=(*_given(recipe, stage), *entered.choices, *_ways(stage, entered, activations)),
        defaults=entered.plan.defaults,
    )


def stage_plans(
    recipe: Recipe, entered: Sequence[tuple[StageSpec, Entered]], data: Data, machine: Machine
) -> tuple[StagePlan, ...]:
    """Return the plan of every stage."""
    return tuple(plan_stage(recipe, stage, state, data, machine) for stage, state in entered)


def _passes(end: Progress, data: Data) -> dict[str, float]:
    return {name: count / len(data.tasks[name].train) for name, count in end.examples.items()}


def _strategy_words(stage: StageSpec) -> str:
    if isinstance(stage.strategy, str):
        return stage.strategy
    return " + ".join(f"{rule.train} on {rule.sites}" for rule in stage.strategy)


def _flops(
    stage: StageSpec, entered: Entered, order: EpochOrder, rows: Mapping[str, Rows], end: Progress
) -> float:
    """Forward, plus the gradient of inputs above the lowest trained site, plus the gradient of trained weights.

    Layers behind a store run once for the tokens of distinct texts. Virtual tokens are tokens; a virtual key is a
    product with each token, as its table is read here. Of adapters that rows choose, tokens pass through their own.
    """
    trained = {row.path for row in entered.table.trained()}
    shares = adapter_shares(entered, rows, end)
    owners = {row.path: shares.get(row.owner.removeprefix("adapter:"), 1.0) for row in entered.table}
    share = stack_shares(entered, rows, end.examples)
    place = partial(cut.place, num_layers=entered.sites.view.num_layers.get("", 0))
    at, once, always = depth(stage, entered), 0.0, 0.0
    for site, has_gradient in sites_of(entered, trained):
        if site.kind is SiteKind.EMBEDDING:
            continue  # a look-up
        count = 0.0
        for info in _matrices(entered, site):
            products = (4 if has_gradient else 2) + (2 if info.path in trained else 0)
            count += products * info.size * owners.get(info.path, 1.0) * share(site.path)
        if at > 0 and place(site.path) < at:
            once += count
        else:
            always += count
    tokens = end.tokens * (1.0 + virtual_share(rows, end))
    return always * tokens + once * min(end.tokens, _distinct_tokens(order))


def _matrices(entered: Entered, site: Site) -> list[ParamInfo]:
    """Return what each token is multiplied with at ``site``."""
    edits: Sequence[type[Edit]] = getattr(type(entered.sites.module(site.path)), "edits", ())
    once = {table for edit in edits for table in edit.once_a_pass}
    matrices = (info for info in site.params if len(info.shape) == 2)
    return [info for info in matrices if info.path.split(".")[-2] not in once]


def _distinct_tokens(order: EpochOrder) -> int:
    found: dict[int, int] = {}
    for texts in order.texts.values():
        found.update(zip(texts.keys_R.tolist(), texts.lengths_R.tolist(), strict=True))
    return sum(found.values())


def _check_compile(stage: StageSpec, entered: Entered, machine: Machine) -> None:
    if not stage.compile:
        return
    if not cast(Trunk, entered.network.trunk).recomputes:
        raise ModelError(
            f"stage {stage.name}: compile must be false, as the layers of this model are not known one by one, but is true."
        )
    if not machine.is_gpu and machine.dtype is not torch.float32:
        raise ModelError(
            f"stage {stage.name}: compile must be false on a CPU in bf16, whose products have layouts of their own, but is "
            f"true. Remove it, or set precision: fp32."
        )


def _ways(stage: StageSpec, entered: Entered, activations: Activations) -> Iterator[str]:
    """Yield what is done otherwise than the plain loop would, because it is faster, or cannot be."""
    if activations is not Activations.KEEP:
        place = ", their inputs wait in the host's memory" if activations is Activations.OFFLOAD else ""
        yield f"layers compute their activations again in the backward pass{place} (activations: {activations})"
    if stage.compile:
        yield "layers run compiled (compile: true)"
    at, layers = depth(stage, entered), entered.sites.view.num_layers.get("", 0)
    if at > layers:
        yield "the trunk is frozen: it runs once a text, and without dropout (reuse: false runs it every time)"
    elif at > 0:
        yield (
            f"layers[:{at}] are frozen: they run once a text, and without dropout (reuse: false runs them every time)"
        )
    if not cast(Trunk, entered.network.trunk).packs:
        yield (
            f"{entered.sites.view.architecture} takes no packed rows: batches are padded, rows of like length together, and "
            f"frozen layers run every time"
        )


_FATE = {
    TrunkCarry.MERGE: "merged into its weights",
    TrunkCarry.CONTINUE: "trained further",
    TrunkCarry.STACK: "frozen",
    TrunkCarry.DROP: "left out",
}


def _carried(recipe: Recipe, stage: StageSpec) -> dict[str, str]:
    """Return what a stage takes over, and how: from the base model only adapters, where it has any."""
    carry = stage.carry
    if recipe.parents_of(stage):
        return {"trunk": carry.trunk, "heads": carry.heads, "optimizer": carry.optimizer}
    return {"trunk": carry.trunk} if recipe.model.adapters else {}


def _given(recipe: Recipe, stage: StageSpec) -> Iterator[str]:
    if recipe.model.adapters and not recipe.parents_of(stage):
        names = ", ".join(recipe.model.adapters)
        yield f"on the base model: {names}, {_FATE[stage.carry.trunk]} (carry.trunk: {stage.carry.trunk})"


def _notes(table: ParamTable, recipe: Recipe, stage: StageSpec) -> tuple[str, ...]:
    is_moved = any(not row.owner.startswith("head:") for row in table.trained())
    heads = {row.owner.removeprefix("head:") for row in table if row.owner.startswith("head:")}
    kept = sorted(heads - set(recipe.tasks_of(stage)))
    if not kept or not is_moved:
        return ()
    return (f"the trunk moves under the kept heads of {', '.join(kept)}: their scores may change",)
