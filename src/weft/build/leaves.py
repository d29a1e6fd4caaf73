"""What a run ships: one network that answers each task as the last branch that trained it does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from weft.core.parts import AdapterState, HeadState, Parts
from weft.core.seeds import fold
from weft.core.table import ParamTable
from weft.errors import HandOverError
from weft.recipe.spec import Recipe, StageSpec, TrunkCarry
from weft.strategy.adapters import joined
from weft.strategy.registry import adapter_method


def owners(recipe: Recipe) -> dict[str, str]:
    """Return by task the stage whose network answers it: of those that no stage starts from, the last that trained it.

    Tasks that none of them trained are not named.
    """
    parents = {parent.name for stage in recipe.stages for parent in recipe.parents_of(stage)}
    leaves = [stage for stage in recipe.stages if stage.name not in parents]
    return {task: leaf.name for leaf in leaves for task in recipe.tasks_of(leaf)}


def shipped(recipe: Recipe, left: Mapping[str, Parts]) -> Parts:
    """Return the parts of one network that answers all tasks.

    Args:
        recipe: of the run.
        left: what stages have left, by name, at least those in ``owners``.

    Raises:
        HandOverError: its branches have no trunk in common, or an adapter cannot be for some rows alone.
    """
    owner = owners(recipe)
    names = [stage.name for stage in recipe.stages if stage.name in owner.values()]
    if len(names) == 1:
        return left[names[0]]
    branches = {name: left[name] for name in names}
    heads = {task: head for task in recipe.tasks if (head := _head(branches, task, owner.get(task)))}
    adapters = _adapters(branches, {task: owner.get(task) for task in heads})
    return Parts(delta=_one_delta(branches), adapters=adapters, heads=heads)


def _head(branches: Mapping[str, Parts], task: str, owner: str | None) -> HeadState | None:
    """Return the head of the branch that trained ``task``, or the one that a branch has kept."""
    having = [parts.heads[task] for parts in branches.values() if task in parts.heads]
    return branches[owner].heads[task] if owner is not None else next(iter(having), None)


def _one_delta(branches: Mapping[str, Parts]) -> Mapping[str, Tensor]:
    (first, ours), *others = ((name, parts.delta) for name, parts in branches.items())
    for second, theirs in others:
        for path in sorted(ours.keys() | theirs.keys()):
            if path not in ours or path not in theirs or not _is_same(ours[path], theirs[path]):
                raise HandOverError(
                    f"stages {first}, {second}: branches that end a run must have one trunk to be one bundle, but {path} "
                    f"differs. Train adapters in them (strategy: lora, carry.trunk: stack), or let a last stage start from "
                    f"all of them (parent: [{', '.join(branches)}])."
                )
    return ours


def _is_same(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether both are one value; a weight that lent something to an adapter comes back rounded."""
    if ours.shape != theirs.shape or torch.equal(ours, theirs):
        return ours.shape == theirs.shape
    return ours.is_floating_point() and torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@dataclass(slots=True)
class _Found:
    """One adapter, the branches that have it, and the tasks whose rows will pass through it."""

    state: AdapterState
    branches: list[str] = field(default_factory=list[str])
    tasks: list[str] = field(default_factory=list[str])


def _adapters(branches: Mapping[str, Parts], owner: Mapping[str, str | None]) -> tuple[AdapterState, ...]:
    """Return the adapters of all branches, each for the tasks of its own; tasks of none take what all branches share."""
    found: list[_Found] = []
    for branch, parts in branches.items():
        for state in parts.adapters:
            known = next((one for one in found if _is_one(one.state, state)), None)
            if known is None:
                known = _Found(state)
                found.append(known)
            known.branches.append(branch)
    for one, (task, whose) in ((one, pair) for one in found for pair in owner.items()):
        is_taken = len(one.branches) == len(branches) if whose is None else whose in one.branches
        if is_taken and (not one.state.tasks or task in one.state.tasks):
            one.tasks.append(task)
    kept = [one for one in found if one.tasks]
    return tuple(_restricted(one, kept[:place], owner) for place, one in enumerate(kept))


def _is_one(ours: AdapterState, theirs: AdapterState) -> bool:
    return (ours.name, ours.method, ours.config) == (theirs.name, theirs.method, theirs.config) and all(
        torch.equal(tensor, theirs.tensors[path]) for path, tensor in ours.tensors.items()
    )


def _restricted(one: _Found, before: Sequence[_Found], tasks: Iterable[str]) -> AdapterState:
    """Return the adapter for its rows alone, under a name that none ``before`` it has."""
    state = one.state
    if any(other.state.name == state.name for other in before):
        state = replace(joined([state], name=f"{state.name}-{one.branches[0]}"), stage=state.stage)
    if one.state.parts:
        parts = dict(zip(one.state.tasks, one.state.parts, strict=True))
        return replace(state, tasks=tuple(one.tasks), parts=tuple(parts[task] for task in one.tasks))
    if set(one.tasks) == set(tasks):
        return replace(state, tasks=())
    if not adapter_method(state.method).routes:
        raise HandOverError(
            f"stages {', '.join(one.branches)}: adapter {state.name} ({state.method}) acts on all rows, but only those of "
            f"{', '.join(one.tasks)} may pass through it in one bundle. Use a method that can tell rows apart, such as lora."
        )
    return replace(state, tasks=tuple(one.tasks))


def marks_of(
    stage: StageSpec,
    table: ParamTable,
    changed: Iterable[str],
    parents: Mapping[str, tuple[Parts, Mapping[str, str]]],
) -> dict[str, str]:
    """Return by path what made the value that a parameter has after ``stage``: equal marks mean equal values.

    Args:
        stage: the stage.
        table: its parameters.
        changed: trunk parameters that differed from the base when it began.
        parents: by name what they left, and their marks.
    """
    marks: dict[str, str] = {}
    for name, (parts, before) in parents.items():
        marks |= before
        if stage.carry.trunk is TrunkCarry.MERGE:
            sites = {site for adapter in parts.adapters for site in adapter.config["sites"]}
            marks |= {path: f"{name}, merged" for path in changed if path.rpartition(".")[0] in sites}
    if len(parents) > 1:
        marks |= dict.fromkeys(changed, f"{stage.name}, combined")
    return {**marks, **{row.path: stage.name for row in table.trained()}}


def marked(parts: Parts, marks: Mapping[str, str]) -> Parts:
    """Return ``parts`` with marks in place of values, to foresee without weights what will be equal."""

    def mark(path: str) -> Tensor:
        return torch.tensor(fold(0, marks.get(path, "base")))

    adapters = tuple(
        replace(one, tensors={path: mark(path) for path in one.tensors}) for one in parts.adapters
    )
    return Parts({path: mark(path) for path in parts.delta}, adapters, parts.heads)
