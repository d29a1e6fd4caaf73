"""Entering a stage: parent's parts under ``carry`` -> network -> plan -> parameter table.

The same code runs on the meta device, without weights, for ``weft check`` and ``weft plan``: what is illegal there
is illegal for the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weft.build.network import META, Base, head_values, load_values, parts_of
from weft.core.network import Network
from weft.core.parts import AdapterState, HeadState, Parts
from weft.core.seeds import fold
from weft.core.sites import SiteMap
from weft.core.table import ParamTable, Role
from weft.errors import HandOverError, RecipeError, StrategyError, WeftError
from weft.model.describe import describe
from weft.recipe.spec import HeadCarry, OptimizerCarry, Recipe, StageSpec, TrunkCarry
from weft.strategy.adapters import merged, restore
from weft.strategy.apply import apply
from weft.strategy.base import Plan
from weft.strategy.named import resolve
from weft.strategy.plan import plan
from weft.strategy.reading import CarriedAdapter
from weft.task.base import Task


@dataclass(frozen=True, slots=True)
class Entered:
    """A network ready to train one stage.

    Attributes:
        sites: the network with its canonical names.
        table: what moves and why.
        plan: what the strategy installed.
        tasks: every task that has a head in the network, in recipe order.
        changed: trunk parameters that differ from the base already.
    """

    sites: SiteMap
    table: ParamTable
    plan: Plan
    tasks: Mapping[str, Task]
    changed: frozenset[str]

    @property
    def network(self) -> Network:
        """The network itself."""
        return self.sites.network

    def leave(self) -> Parts:
        """Return what this stage hands on, from the network as it is now."""
        return parts_of(self.sites, self.table, self.tasks, changed=self.changed)


def enter(
    recipe: Recipe,
    stage: StageSpec,
    *,
    base: Base,
    tasks: Mapping[str, Task],
    parts: Parts,
    device: torch.device,
) -> Entered:
    """Return the network of ``stage``, started from ``parts`` of its parent (empty ``Parts()`` for the base model).

    Unless ``carry`` says ``drop`` or ``new``, the network computes what the parent computed.

    Args:
        recipe: the whole recipe.
        stage: one of its stages.
        base: the recipe's pretrained model.
        tasks: all tasks of the recipe, fitted.
        parts: on any device.
        device: of the network; on the meta device no weights are read, and everything is checked all the same.

    Raises:
        HandOverError: ``carry`` asks for what cannot be.
        StrategyError, SiteError: the strategy does not fit the model.
    """
    own = recipe.tasks_of(stage)
    kept = _kept_heads(stage, parts, own)
    wanted = {name: task for name, task in tasks.items() if name in own or name in kept}
    _check_heads(kept, wanted)
    rules = resolve(stage.strategy)
    network = base.network(wanted, device=device, dropout=stage.dropout)
    sites = base.sites(network)
    carried = _carried_trunk(stage, parts, sites)
    load_values(sites, carried.delta)
    for head in kept.values():
        load_values(sites, head_values(head))
    for adapter in carried.adapters:
        restore(sites, adapter)
        sites = base.sites(network)
    going_on = _going_on(stage, carried.adapters)
    made = plan(
        sites.view,
        rules,
        tasks=own,
        stage_lr=stage.lr,
        adapter=stage.name if going_on is None else going_on,
        carried=[
            CarriedAdapter.of(adapter, Role.TRAINED if adapter.name == going_on else Role.FROZEN)
            for adapter in carried.adapters
        ],
    )
    sites, table = apply(sites, made, describe=describe, seed=fold(recipe.seed, stage.name))
    return Entered(sites, table, made, wanted, frozenset(carried.delta))


def _going_on(stage: StageSpec, adapters: Sequence[AdapterState]) -> str | None:
    """Return the name of the carried adapter that goes on being trained: the topmost, if any does."""
    return adapters[-1].name if stage.carry.trunk is TrunkCarry.CONTINUE and adapters else None


def _kept_heads(stage: StageSpec, parts: Parts, own: Iterable[str]) -> dict[str, HeadState]:
    match stage.carry.heads:
        case HeadCarry.KEEP:
            return dict(parts.heads)
        case HeadCarry.NEW:
            return {name: head for name, head in parts.heads.items() if name not in own}
        case HeadCarry.DROP:
            return {name: head for name, head in parts.heads.items() if name in own}


def _check_heads(kept: Mapping[str, HeadState], wanted: Mapping[str, Task]) -> None:
    for name, head in kept.items():
        if name not in wanted:
            raise HandOverError(
                f"heads.{name}: a kept head needs its task in the recipe, but there is none. Drop it."
            )
        reason = wanted[name].same_head(head.config)
        if reason:
            raise HandOverError(
                f"heads.{name}: a kept head must fit its task, but {reason}. Use carry.heads: new."
            )


def _carried_trunk(stage: StageSpec, parts: Parts, sites: SiteMap) -> Parts:
    """Return the parts that the new network starts with: merged, as they are, or none."""
    match stage.carry.trunk:
        case TrunkCarry.DROP:
            return Parts()
        case TrunkCarry.CONTINUE | TrunkCarry.STACK:
            return replace(parts, heads={})
        case TrunkCarry.MERGE:
            return Parts(delta=merge(parts, sites))


def merge(parts: Parts, sites: SiteMap) -> dict[str, Tensor]:
    """Return the delta of ``parts`` with every adapter folded in, in stacking order.

    Args:
        parts: delta and adapters.
        sites: a network with the base weights.

    Raises:
        HandOverError: an adapter's method does not edit weights, so it cannot be folded into them.
    """
    base = {path: parameter.detach() for path, parameter in sites.parameters()}
    try:
        return {**parts.delta, **merged({**base, **parts.delta}, parts.adapters)}
    except StrategyError as error:
        raise HandOverError(f"carry.trunk: {error}") from error


def rehearse(
    recipe: Recipe, *, base: Base, tasks: Mapping[str, Task]
) -> tuple[tuple[StageSpec, Entered], ...]:
    """Return every stage entered on the meta device: no weights are read, every hand-over is made.

    Raises:
        RecipeError: every stage that cannot be entered, all at once. What starts from such a stage is not tried.
    """
    problems: list[str] = []
    entered: dict[str, Entered] = {}
    for index, stage in enumerate(recipe.stages):
        parent = recipe.parent_of(stage)
        if parent is not None and parent.name not in entered:
            continue  # the parent's problem is in the list
        before = None if parent is None else entered[parent.name]
        parts = Parts() if before is None else before.leave()
        try:
            state = enter(recipe, stage, base=base, tasks=tasks, parts=parts, device=META)
            if before is not None:
                _check_optimizer(stage, state.table, before.table)
        except WeftError as error:
            problems.append(f"stages.{index} ({stage.name}): {error}")
        else:
            entered[stage.name] = state
    if problems:
        raise RecipeError(problems)
    return tuple((stage, entered[stage.name]) for stage in recipe.stages)


def _check_optimizer(stage: StageSpec, table: ParamTable, parent: ParamTable) -> None:
    if stage.carry.optimizer is not OptimizerCarry.CONTINUE:
        return
    if stage.carry.heads is HeadCarry.NEW:
        raise HandOverError(
            "carry.optimizer: 'continue' needs the parent's parameters, but heads are new. "
            "Use 'fresh', or keep the heads."
        )
    ours = {row.path for row in table.trained()}
    theirs = {row.path for row in parent.trained()}
    if ours != theirs:
        odd = sorted(ours ^ theirs)
        raise HandOverError(
            f"carry.optimizer: 'continue' needs the same trained parameters as the parent stage, but {len(odd)} "
            f"differ ({odd[0]}, ...). Use 'fresh', or the parent's strategy and tasks."
        )
