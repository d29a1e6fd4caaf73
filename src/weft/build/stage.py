"""Entering a stage: parent's parts under ``carry`` -> network -> plan -> parameter table.

The same code runs on the meta device, without weights, for ``weft check`` and ``weft plan``: what is illegal there
is illegal for the run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch

from weft.build.combine import combined, merge
from weft.build.leaves import marked, marks_of, shipped
from weft.build.network import META, Base, head_values, load_values, parts_of
from weft.core.network import Network, Trunk
from weft.core.parts import AdapterState, HeadState, Parts
from weft.core.seeds import fold
from weft.core.sites import SiteMap
from weft.core.table import ParamTable, Role
from weft.errors import HandOverError, RecipeError, WeftError
from weft.model.describe import describe
from weft.recipe.spec import CombineMethod, HeadCarry, OptimizerCarry, Recipe, StageSpec, TrunkCarry
from weft.strategy.adapters import of_task, restore
from weft.strategy.apply import apply
from weft.strategy.base import Plan
from weft.strategy.choosing import Choose, expanded
from weft.strategy.named import resolve
from weft.strategy.plan import plan
from weft.strategy.reading import CarriedAdapter
from weft.strategy.registry import adapter_method
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
        origins: the stage that brought each adapter, in stacking order.
        choices: a line on each choice that a rule made, or will make where there are no weights yet.
    """

    sites: SiteMap
    table: ParamTable
    plan: Plan
    tasks: Mapping[str, Task]
    changed: frozenset[str]
    origins: Mapping[str, str]
    choices: tuple[str, ...] = ()

    @property
    def network(self) -> Network:
        """The network itself."""
        return self.sites.network

    def leave(self) -> Parts:
        """Return what this stage hands on, from the network as it is now."""
        parts = parts_of(self.sites, self.table, self.tasks, changed=self.changed)
        known = {one.name: one for one in parts.adapters}
        return replace(
            parts, adapters=tuple(replace(known[name], stage=stage) for name, stage in self.origins.items())
        )


def enter(
    recipe: Recipe,
    stage: StageSpec,
    *,
    base: Base,
    tasks: Mapping[str, Task],
    parts: Parts,
    device: torch.device,
    choose: Callable[[SiteMap], Choose] | None = None,
) -> Entered:
    """Return the network of ``stage``, started from ``parts`` of its parent (``base.parts`` where it has none).

    Unless ``carry`` says ``drop`` or ``new``, the network computes what the parent computed.

    Args:
        recipe: the whole recipe.
        stage: one of its stages.
        base: the recipe's pretrained model.
        tasks: all tasks of the recipe, fitted.
        parts: on any device.
        device: of the network; on the meta device no weights are read, and everything is checked all the same.
        choose: given the network as it is before the strategy touches it, what chooses for rules that do; None lets the
            largest modules stand for those that will be chosen.

    Raises:
        HandOverError: ``carry`` asks for what cannot be.
        StrategyError, SiteError: the strategy does not fit the model.
    """
    own = recipe.tasks_of(stage)
    kept = _kept_heads(stage, parts, own)
    wanted = {name: task for name, task in tasks.items() if name in own or name in kept}
    _check_heads(kept, wanted)
    network = base.network(wanted, device=device, dropout=stage.dropout)
    sites = base.sites(network)
    carried = _carried_trunk(stage, parts, sites, tasks=wanted)
    load_values(sites, carried.delta)
    for head in kept.values():
        load_values(sites, head_values(head))
    for adapter in carried.adapters:
        restore(sites, adapter)
        sites = base.sites(network)
    going_on, origin = _going_on(stage, carried.adapters, own)
    rules, choices = expanded(resolve(stage.strategy), sites.view, None if choose is None else choose(sites))
    made = plan(
        sites.view,
        rules,
        tasks=own,
        stage_lr=stage.lr,
        adapter=stage.name,
        carried=_standing(carried.adapters, going_on),
    )
    if _has_function_to_keep(recipe, stage, base):
        _check_function(made)
    sites, table = apply(sites, made, describe=describe, seed=fold(recipe.seed, stage.name))
    _check_room(recipe, sites.network)
    origins = {adapter.name: adapter.stage for adapter in carried.adapters}
    origins |= {one.adapter: origin for one in made.installs if one.adapter not in origins}
    return Entered(sites, table, made, wanted, frozenset(carried.delta), origins, choices)


def _standing(adapters: Sequence[AdapterState], going_on: Collection[str]) -> list[CarriedAdapter]:
    """Return ``adapters`` as the plan meets them: trained further if they go on, else frozen."""
    roles = (Role.TRAINED if adapter.name in going_on else Role.FROZEN for adapter in adapters)
    return [CarriedAdapter.of(adapter, role) for adapter, role in zip(adapters, roles, strict=True)]


def _has_function_to_keep(recipe: Recipe, stage: StageSpec, base: Base) -> bool:
    """Return whether what ``stage`` starts from computes one learnt function: of a union of parents there is none."""
    parents = recipe.parents_of(stage)
    is_union = len(parents) > 1 and stage.combine.method is CombineMethod.UNION
    return bool(parents or base.adapters) and stage.carry.trunk is not TrunkCarry.DROP and not is_union


def _check_function(made: Plan) -> None:
    """Refuse methods that change what the parent stage computed before anything is learnt."""
    for install in made.installs:
        if not adapter_method(install.method).keeps_function(install.rule):
            raise HandOverError(
                f"strategy: entering a stage must not change what its parent computes, but a new {install.method} does. Train "
                f"it in the first stage and continue it, let it start behind a gate where it has one (prefix: gate: true), "
                f"start from parents side by side (combine: union), or say that the function may change (carry.trunk: drop)."
            )


def _check_room(recipe: Recipe, network: Network) -> None:
    """Refuse rows that would be too long with what methods put in front of them."""
    trunk = cast(Trunk, network.trunk)
    virtual, positions = trunk.num_virtual(network.routes.values()), trunk.info.max_positions
    if virtual and min(recipe.model.max_tokens, positions) + virtual > positions:
        raise RecipeError(
            [
                f"model.max_tokens: rows must have at most {positions - virtual} tokens of their own, as this model has "
                f"{positions} positions and the strategy takes {virtual} of them, but {recipe.model.max_tokens} are allowed. "
                f"Set model.max_tokens: {max(positions - virtual, 0)}, or use fewer virtual tokens."
            ]
        )


def _going_on(
    stage: StageSpec, adapters: Sequence[AdapterState], tasks: Iterable[str]
) -> tuple[frozenset[str], str]:
    """Return the carried adapters that go on being trained, and the stage whose adapters they and new ones are.

    All adapters of the stage that brought the topmost go on, but those of other tasks than ``tasks`` alone.
    """
    if stage.carry.trunk is not TrunkCarry.CONTINUE or not adapters:
        return frozenset(), stage.name
    origin, own = adapters[-1].stage, set(tasks)
    names = (one.name for one in adapters if one.stage == origin and (not one.tasks or own & set(one.tasks)))
    return frozenset(names), origin


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


def _carried_trunk(stage: StageSpec, parts: Parts, sites: SiteMap, *, tasks: Iterable[str]) -> Parts:
    """Return the parts that the new network starts with: merged, as they are, or none."""
    match stage.carry.trunk:
        case TrunkCarry.DROP:
            return Parts()
        case TrunkCarry.CONTINUE | TrunkCarry.STACK:
            return replace(parts, heads={})
        case TrunkCarry.MERGE:
            return Parts(delta=merge(_for_all(parts, tasks), sites))


def _for_all(parts: Parts, tasks: Iterable[str]) -> Parts:
    """Return ``parts`` with the adapters that rows of ``tasks`` pass through.

    Raises:
        HandOverError: rows of different tasks pass through different ones, so that no weights do the same for all.
    """
    names = set(tasks)
    if len(names) == 1:
        return replace(parts, adapters=of_task(parts.adapters, *names))
    adapters = tuple(one for one in parts.adapters if not one.tasks or names & set(one.tasks))
    for adapter in adapters:
        if adapter.parts:
            raise HandOverError(
                f"carry.trunk: adapter {adapter.name} has a part for each of {', '.join(adapter.tasks)} and cannot be "
                f"merged for all of {', '.join(sorted(names))}. Use stack or continue, or keep only the head of one task "
                f"(carry.heads: drop)."
            )
        others = sorted(names - set(adapter.tasks)) if adapter.tasks else []
        if others:
            raise HandOverError(
                f"carry.trunk: adapter {adapter.name} is for {', '.join(adapter.tasks)} alone and cannot be merged for "
                f"{', '.join(others)} too. Use stack or continue, or keep only the head of one task (carry.heads: drop)."
            )
    return replace(parts, adapters=adapters)


def parts_from(
    recipe: Recipe, stage: StageSpec, branches: Mapping[str, Parts], *, base: Base, device: torch.device
) -> Parts:
    """Return what ``stage`` starts from: the base model's adapters, what its one parent left, or its parents, combined.

    Raises:
        HandOverError: the branches cannot be combined.
    """
    if len(branches) < 2:
        return next(iter(branches.values()), base.parts)
    sites = base.sites(base.network({}, device=device))
    return combined(branches, sites, stage.combine, seed=fold(recipe.seed, stage.name))


def rehearse(
    recipe: Recipe, *, base: Base, tasks: Mapping[str, Task]
) -> tuple[tuple[StageSpec, Entered], ...]:
    """Return every stage entered on the meta device: no weights are read, every hand-over is made.

    Raises:
        RecipeError: every stage that cannot be entered, all at once. What starts from such a stage is not tried.
    """
    problems: list[str] = []
    entered: dict[str, Entered] = {}
    marks: dict[str, dict[str, str]] = {}
    for index, stage in enumerate(recipe.stages):
        parents = recipe.parents_of(stage)
        if any(parent.name not in entered for parent in parents):
            continue  # the parent's problem is in the list
        before = {parent.name: entered[parent.name] for parent in parents}
        try:
            branches = {name: one.leave() for name, one in before.items()}
            parts = parts_from(recipe, stage, branches, base=base, device=META)
            state = enter(recipe, stage, base=base, tasks=tasks, parts=parts, device=META)
            for one in before.values():
                _check_optimizer(stage, state, one)
        except WeftError as error:
            problems.append(f"stages.{index} ({stage.name}): {error}")
        else:
            entered[stage.name] = state
            made = {name: (parts, marks[name]) for name, parts in branches.items()}
            marks[stage.name] = marks_of(stage, state.table, state.changed, made)
    if not problems:
        try:
            shipped(recipe, {name: marked(one.leave(), marks[name]) for name, one in entered.items()})
        except HandOverError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError(problems)
    return tuple((stage, entered[stage.name]) for stage in recipe.stages)


def _check_optimizer(stage: StageSpec, entered: Entered, parent: Entered) -> None:
    if stage.carry.optimizer is not OptimizerCarry.CONTINUE:
        return
    if entered.choices:
        raise HandOverError(
            "carry.optimizer: 'continue' needs the parent's parameters, but this stage chooses its own. Use 'fresh'."
        )
    if stage.carry.heads is HeadCarry.NEW:
        raise HandOverError(
            "carry.optimizer: 'continue' needs the parent's parameters, but heads are new. "
            "Use 'fresh', or keep the heads."
        )
    ours = {row.path for row in entered.table.trained()}
    theirs = {row.path for row in parent.table.trained()}
    if ours != theirs:
        odd = sorted(ours ^ theirs)
        raise HandOverError(
            f"carry.optimizer: 'continue' needs the same trained parameters as the parent stage, but {len(odd)} "
            f"differ ({odd[0]}, ...). Use 'fresh', or the parent's strategy and tasks."
        )
