"""What a stage will cost, from shapes alone: parameters, steps, memory, time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from weft.build.data import Data
from weft.build.stage import Entered
from weft.core.sites import HEAD_PREFIX
from weft.core.table import ParamTable, Role
from weft.core.view import SiteKind
from weft.data.mixture import shares
from weft.recipe.duration import Duration, Unit
from weft.recipe.spec import Recipe, StageSpec
from weft.report.records import StagePlan
from weft.report.tables import condense

# Bytes of activations kept for the backward pass per token, layer and unit of width, in fp32 and bf16 eager mode:
# inputs of the linear, norm and activation functions of one transformer layer (arXiv 2205.05198, section 4, gives 34
# bytes at 2 bytes a value without attention scores; fp32 residuals under autocast add about half of that again).
_ACTIVATION_BYTES = {torch.float32: 80, torch.bfloat16: 56}
_PROCESS_BYTES = 350 * 2**20  # interpreter, torch and transformers after import
_UTILISATION = 0.3  # share of the matrix rate that a whole step reaches (docs/experiments.md)


@dataclass(frozen=True, slots=True)
class Machine:
    """What estimates need to know of the machine.

    Attributes:
        flops: matrix products a second that a whole training step sustains.
        dtype: of matrix products.
    """

    flops: float
    dtype: torch.dtype


def measure(device: torch.device, dtype: torch.dtype) -> Machine:
    """Return the rate of this machine, from a matrix product of a small encoder's shape (takes about 50 ms)."""
    a = torch.randn(1024, 384, device=device, dtype=dtype)
    b = torch.randn(384, 1536, device=device, dtype=dtype)
    best = math.inf
    for _ in range(8):
        start = time.perf_counter()
        (a @ b).sum().item()
        best = min(best, time.perf_counter() - start)
    return Machine(flops=_UTILISATION * 2 * 1024 * 384 * 1536 / best, dtype=dtype)


@dataclass(frozen=True, slots=True)
class Length:
    """How long a stage is, where that can be known before it runs."""

    steps: int | None
    examples: int | None
    tokens: int | None


def stage_length(length: Duration, *, epoch_size: int, batch: int, tokens_per_example: float) -> Length:
    """Return steps, examples and tokens of a stage; all None for a length in minutes."""
    match length.unit:
        case Unit.EPOCHS:
            whole = int(length.amount)
            steps = whole * math.ceil(epoch_size / batch)
            steps += math.ceil((length.amount - whole) * epoch_size / batch)
            examples = round(length.amount * epoch_size)
        case Unit.STEPS:
            steps = int(length.amount)
            examples = steps * batch
        case Unit.EXAMPLES:
            examples = int(length.amount)
            steps = math.ceil(examples / batch)
        case Unit.TOKENS:
            examples = math.ceil(length.amount / tokens_per_example)
            steps = math.ceil(examples / batch)
        case Unit.MINUTES:
            return Length(None, None, None)
    return Length(steps, examples, round(examples * tokens_per_example))


def plan_stage(recipe: Recipe, stage: StageSpec, entered: Entered, data: Data, machine: Machine) -> StagePlan:
    """Return what ``stage`` will do and cost.

    Args:
        recipe: the whole recipe.
        stage: one of its stages.
        entered: that stage on any device (the meta device will do).
        data: the encoded data.
        machine: rate of the machine; see ``measure``.
    """
    names = recipe.tasks_of(stage)
    sizes = {name: len(data.tasks[name].train) for name in names}
    rates = shares(stage.mixture, sizes, {name: stage.tasks.get(name, 1.0) for name in names})
    epoch_size = sum(size for name, size in sizes.items() if rates[name] > 0)
    means = {name: _mean_tokens(data, name) for name in names}
    per_example = sum(rates[name] * means[name] for name in names)
    length = stage_length(stage.length, epoch_size=epoch_size, batch=stage.batch, tokens_per_example=per_example)
    parent = recipe.parent_of(stage)
    flops = _flops_per_token(entered)
    return StagePlan(
        name=stage.name,
        parent=parent.name if parent else "base",
        strategy=_strategy_words(stage),
        carry={"trunk": stage.carry.trunk, "heads": stage.carry.heads, "optimizer": stage.carry.optimizer},
        tasks=rates,
        passes=_passes(rates, sizes, length.examples),
        table=condense(entered.table.rows),
        num_trained=entered.table.num_trained(),
        num_values=entered.table.num_values(),
        steps=length.steps,
        examples=length.examples,
        tokens=length.tokens,
        memory_bytes=_memory(entered, stage, per_example, machine.dtype),
        seconds=None if length.tokens is None else length.tokens * flops / machine.flops,
        notes=_notes(entered.table, recipe, stage),
    )


def _mean_tokens(data: Data, name: str) -> float:
    train = data.tasks[name].train
    return sum(len(example.tokens) for example in train) / len(train)


def _passes(rates: Mapping[str, float], sizes: Mapping[str, int], examples: int | None) -> dict[str, float]:
    if examples is None:
        return {}
    return {name: rate * examples / sizes[name] for name, rate in rates.items()}


def _strategy_words(stage: StageSpec) -> str:
    if isinstance(stage.strategy, str):
        return stage.strategy
    return " + ".join(f"{rule.train} on {rule.sites}" for rule in stage.strategy)


def _flops_per_token(entered: Entered) -> float:
    """Forward, plus the gradient of inputs above the lowest trained site, plus the gradient of trained weights."""
    trained = {row.path for row in entered.table if row.role is Role.TRAINED}
    total, reached = 0.0, False
    for site in entered.sites.view.sites:
        if site.path.startswith(HEAD_PREFIX) or site.kind is SiteKind.EMBEDDING:
            reached = reached or any(info.path in trained for info in site.params if "heads." not in info.path)
            continue
        matrix = sum(info.size for info in site.params if len(info.shape) == 2)
        own = sum(info.size for info in site.params if len(info.shape) == 2 and info.path in trained)
        reached = reached or any(info.path in trained for info in site.params)
        total += 2 * matrix + (2 * matrix if reached else 0) + 2 * own
    return total


def _memory(entered: Entered, stage: StageSpec, tokens_per_example: float, dtype: torch.dtype) -> int:
    table = entered.table
    state = 4 * table.num_values() + 12 * table.num_trained()  # fp32 weights; gradient and two moments
    tokens = min(stage.budget, stage.batch * tokens_per_example * 1.1)
    info = entered.network.trunk.info
    layers = sum(entered.sites.view.num_layers.values())
    activations = tokens * layers * info.width * _ACTIVATION_BYTES[dtype]
    logits = tokens * info.vocabulary * 8
    return round(_PROCESS_BYTES + state + activations + logits)


def _notes(table: ParamTable, recipe: Recipe, stage: StageSpec) -> tuple[str, ...]:
    own = set(recipe.tasks_of(stage))
    moved = any(row.role is Role.TRAINED and not row.owner.startswith("head:") for row in table)
    frozen_heads = sorted(
        {row.owner.removeprefix("head:") for row in table if row.owner.startswith("head:")} - own
    )
    notes: list[str] = []
    if frozen_heads and moved:
        notes.append(f"the trunk moves under the kept heads of {', '.join(frozen_heads)}: their scores may change")
    return tuple(notes)


def stage_plans(
    recipe: Recipe, entered: Sequence[tuple[StageSpec, Entered]], data: Data, machine: Machine
) -> tuple[StagePlan, ...]:
    """Return the plan of every stage."""
    return tuple(plan_stage(recipe, stage, state, data, machine) for stage, state in entered)
