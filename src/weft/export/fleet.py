"""Several bundles on one trunk: each keeps its own adapter, and a batch may ask all of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from weft.build.network import Base
from weft.core.network import Network
from weft.core.parts import AdapterState, HeadState, Parts
from weft.core.routing import Routing, routed
from weft.errors import ExportError, HandOverError, StrategyError
from weft.export.bundle import Contents, put_parts, read_bundle
from weft.model.device import pick_device, pick_precision
from weft.model.tokenizer import HFTokenizer, load_tokenizer
from weft.recipe.names import check_name
from weft.recipe.spec import Precision
from weft.strategy.adapters import joined, of_task
from weft.strategy.registry import adapter_method
from weft.task.base import Task
from weft.task.registry import FAMILIES


@dataclass(frozen=True, slots=True)
class Member:
    """One bundle of a fleet.

    Attributes:
        folder: a bundle, or a run folder that holds one.
        prefix: put before its tasks' names (``shop`` makes ``shop-mood`` of ``mood``); None leaves them.
    """

    folder: Path
    prefix: str | None = None

    def task(self, name: str) -> str:
        """Return what a task of this bundle is called in the fleet."""
        return name if self.prefix is None else check_name(f"{self.prefix}-{name}")


@dataclass(frozen=True, slots=True)
class Fleet:
    """Bundles opened for use together.

    Attributes:
        folders: where they lie.
        network: one trunk with the adapter of each bundle, and all heads; its routes say whose adapter is whose.
        tasks: of all bundles, by name.
        tokenizer: of the base model.
        dtype: of the trunk while it computes.
    """

    folders: tuple[Path, ...]
    network: Network
    tasks: Mapping[str, Task]
    tokenizer: HFTokenizer
    dtype: torch.dtype


def open_fleet(
    members: Sequence[Member],
    *,
    base: Path | None = None,
    device: torch.device | None = None,
    precision: Precision = Precision.AUTO,
) -> Fleet:
    """Return ``members`` ready to answer as one: each task as its own bundle alone would, from one trunk.

    Args:
        members: bundles with LoRA or nothing on the same trunk.
        base: where the base model lies now, if not where the bundles say.
        device: default: GPU where there is one.
        precision: of matrix products.

    Raises:
        ExportError: not a bundle; another base model, trunk or length of texts than the first one's; two tasks of
            one name; an adapter that cannot be chosen row by row.
        NameInvalidError: a prefix is not a plain name.
    """
    if not members:
        raise ExportError("bundles: there must be at least one, but there is none. Name a bundle.")
    opened = [read_bundle(member.folder, base=base) for member in members]
    for other in opened[1:]:
        _check_same_trunk(opened[0], other)
    tasks = _tasks(members, opened)
    adapters, routes = _adapters(members, opened)
    heads = {
        name: replace(head, task=name)
        for member, one in zip(members, opened, strict=True)
        for name, head in _renamed(member, one.parts.heads).items()
    }
    target = device or pick_device()
    where = replace(opened[0].base, wants_lm_head=any(one.base.wants_lm_head for one in opened))
    network = where.network(tasks, device=target)
    _put(where, network, Parts(delta=opened[0].parts.delta, adapters=adapters, heads=heads), opened)
    network.routes = routes
    dtype = pick_precision(precision, target)
    network.compute_only_in(dtype)
    return Fleet(
        folders=tuple(one.folder for one in opened),
        network=network,
        tasks=tasks,
        tokenizer=load_tokenizer(where.folder, max_tokens=opened[0].max_tokens),
        dtype=dtype,
    )


def _check_same_trunk(first: Contents, other: Contents) -> None:
    """Refuse a bundle that does not differ from the first by its adapter and heads alone."""
    if first.base.quantize is not other.base.quantize:
        raise ExportError(
            f"{other.folder}: must have been trained on weights in {first.base.quantize or 'full'} precision as "
            f"{first.folder} was, but was on {other.base.quantize or 'full'}. Serve them apart."
        )
    ours, theirs = first.base.folder.digest, other.base.folder.digest
    if ours != theirs:
        raise ExportError(
            f"{other.folder}: must stand on the base model of {first.folder} (sha256 {ours[:12]}), but stands on "
            f"{theirs[:12]}. Ask it on its own."
        )
    if first.max_tokens != other.max_tokens:
        raise ExportError(
            f"{other.folder}: must cut texts at {first.max_tokens} tokens as {first.folder} does, but cuts at "
            f"{other.max_tokens}. Ask it on its own."
        )
    changed = _difference(first.parts.delta, other.parts.delta)
    if changed is not None:
        raise ExportError(
            f"{other.folder}: must have the trunk of {first.folder}, but {changed} is another. Bundles share a trunk "
            f"where only adapters and heads were trained since it; ask this one on its own."
        )


def _difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str | None:
    odd = sorted(ours.keys() ^ theirs.keys())
    changed = (path for path in ours if path in theirs and not torch.equal(ours[path], theirs[path]))
    return odd[0] if odd else next(changed, None)


def _tasks(members: Sequence[Member], opened: Sequence[Contents]) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    owner: dict[str, Path] = {}
    for member, one in zip(members, opened, strict=True):
        for name, head in _renamed(member, one.parts.heads).items():
            if name in tasks:
                raise ExportError(
                    f"{one.folder}: must bring tasks of other names than {owner[name]}, but {name} is in both. Put a "
                    f"name before one of them: NAME={member.folder} calls it NAME-{name}."
                )
            tasks[name], owner[name] = FAMILIES[head.kind].from_config(name, head.config), one.folder
    return tasks


def _renamed(member: Member, heads: Mapping[str, HeadState]) -> dict[str, HeadState]:
    return {member.task(name): head for name, head in heads.items()}


def _adapters(
    members: Sequence[Member], opened: Sequence[Contents]
) -> tuple[tuple[AdapterState, ...], dict[str, tuple[str, ...]]]:
    """Return the adapters of all bundles, and those of each task."""
    adapters: list[AdapterState] = []
    routes: dict[str, tuple[str, ...]] = {}
    for place, (member, one) in enumerate(zip(members, opened, strict=True)):
        if not one.parts.adapters:
            continue
        for number, tasks in enumerate(_by_adapters(one.parts).values()):
            name = f"bundle-{place}" + (f"-{number}" if number else "")
            by_method: dict[str, list[AdapterState]] = {}
            for state in of_task(one.parts.adapters, tasks[0]):
                if len(opened) > 1 and not adapter_method(state.method).routes:
                    raise ExportError(
                        f"{one.folder}: adapters must be such that rows of one batch may take different ones, but "
                        f"{state.name} ({state.method}) acts on all rows. Ask this bundle on its own."
                    )
                by_method.setdefault(state.method, []).append(state)
            made = [name if len(by_method) == 1 else f"{name}-{method}" for method in by_method]
            try:
                adapters += [joined(own, name=m) for own, m in zip(by_method.values(), made, strict=True)]
            except StrategyError as error:
                raise ExportError(f"{one.folder}: {error}") from error
            routes |= dict.fromkeys(map(member.task, tasks), tuple(made))
    return tuple(adapters), routes


def _by_adapters(parts: Parts) -> dict[tuple[str, ...], list[str]]:
    """Return the tasks of ``parts`` by the adapters that their rows pass through; those without any are left out."""
    found: dict[tuple[str, ...], list[str]] = {}
    for task in parts.heads:
        routes = tuple(state.routes.get(task, state.name) for state in parts.adapters_of(task))
        if routes:
            found.setdefault(routes, []).append(task)
    return found


def _put(where: Base, network: Network, parts: Parts, opened: Sequence[Contents]) -> None:
    try:
        put_parts(where, network, parts)
        with routed(network.trunk, Routing.uniform([state.name for state in parts.adapters], -1)):
            pass  # every adapter must be one that can be chosen
    except (HandOverError, StrategyError) as error:
        names = ", ".join(str(one.folder) for one in opened)
        raise ExportError(f"{names}: must fit their base model, but do not: {error}") from error
