"""Adapters as values: taken out of a network, put back bit by bit, folded into weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from weft.core.parts import AdapterState, tasks_and_parts
from weft.core.sites import SiteMap
from weft.core.table import ParamTable
from weft.core.view import SiteKind
from weft.errors import StrategyError, nearest
from weft.recipe.names import check_name
from weft.strategy.base import Edits
from weft.strategy.edit import Edit
from weft.strategy.registry import METHODS, adapter_method
from weft.strategy.site_method import SiteMethod


def adapter_names(table: ParamTable) -> tuple[str, ...]:
    """Return the names of all adapters in ``table``, in order of first appearance."""
    owners = dict.fromkeys(row.owner for row in table)
    return tuple(owner.removeprefix("adapter:") for owner in owners if owner.startswith("adapter:"))


def extract(sites: SiteMap, which: ParamTable | Sequence[str]) -> tuple[AdapterState, ...]:
    """Return copies of the adapters that ``which`` (a table, or names) says, in that order.

    Raises:
        StrategyError: no adapter of that name in the network.
    """
    names = adapter_names(which) if isinstance(which, ParamTable) else tuple(which)
    found: list[AdapterState] = []
    for name in names:
        tasks, parts = tasks_and_parts(name, sites.network.routes)
        found.append(replace(_extract_one(sites, name), tasks=tasks, parts=parts))
    return tuple(found)


def restore(sites: SiteMap, state: AdapterState) -> None:
    """Install ``state`` with its tensors, frozen; describe the network anew before planning on it.

    Raises:
        NameInvalidError: its name is not a plain name.
        StrategyError: unknown method, or it does not fit the network.
    """
    adapter_method(state.method).restore(sites, state)
    old = sites.network.routes
    new = {task: (*old.get(task, ()), route) for task, route in state.routes.items()}
    sites.network.routes = {**old, **new}


def given_back(sites: SiteMap, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``values`` of trunk parameters with what their weights gave up to adapters, which never leave with it."""
    whole = dict(values)
    for site in sites.view.sites:
        path, module = f"{site.path}.weight", sites.module(site.path)
        back = module.given_up() if path in whole and isinstance(module, Edit) else None
        if back is not None:
            whole[path] = whole[path] + back.to(whole[path])
    return whole


def of_task(states: Sequence[AdapterState], task: str) -> tuple[AdapterState, ...]:
    """Return what rows of ``task`` pass through: of ``states`` those that are for all rows or for theirs.

    Of an adapter with a part for each task, what they take of it, as an adapter of its own.
    """
    found: list[AdapterState] = []
    for state in states:
        if task in state.tasks and state.parts:
            part = state.parts[state.tasks.index(task)]
            found.append(replace(adapter_method(state.method).part(state, part), tasks=(task,)))
        elif not state.tasks or task in state.tasks:
            found.append(state)
    return tuple(found)


def joined(states: Sequence[AdapterState], *, name: str) -> AdapterState:
    """Return one adapter called ``name`` that does what ``states``, one on the other, do.

    Raises:
        NameInvalidError: ``name`` is not a plain name.
        StrategyError: none to join, or of several methods.
    """
    methods = list(dict.fromkeys(state.method for state in states))
    if len(methods) != 1:
        raise StrategyError(
            f"{name}: adapters must be of one method to be joined, but are of {', '.join(methods) or 'none'}."
        )
    return adapter_method(methods[0]).joined(states, name=check_name(name))


def merged(weights: Mapping[str, Tensor], states: Sequence[AdapterState]) -> dict[str, Tensor]:
    """Return new values of all parameters that ``states``, one on the other, fold into. ``weights`` stays as it is.

    Methods are folded in the order in which they act, nearest to the weight first, whenever they came.

    Raises:
        StrategyError: an adapter's method cannot be folded into weights, or its weight is not given.
    """
    changed: dict[str, Tensor] = {}
    for state in sorted(states, key=lambda state: adapter_method(state.method).edit(SiteKind.LINEAR).place):
        method = adapter_method(state.method)
        if method.edits is not Edits.WEIGHT:
            raise StrategyError(
                f"{state.name}: only methods that edit weights can be merged, but {state.method} edits {method.edits}. "
                f"Carry the trunk with stack, continue or drop."
            )
        changed |= method.merged({**weights, **changed}, state)
    return changed


def _extract_one(sites: SiteMap, name: str) -> AdapterState:
    for method in _adapter_methods():
        state = method.extract(sites, name)
        if state is not None:
            return state
    raise StrategyError(
        f"{name}: must be an adapter in this network, but is not. {nearest(name, _present(sites))}"
    )


def _adapter_methods() -> list[SiteMethod]:
    return [method for method in METHODS.values() if isinstance(method, SiteMethod)]


def _present(sites: SiteMap) -> set[str]:
    """Return what could be meant: the last parts of parameter paths that are more than weight or bias."""
    locals_ = (info.path.removeprefix(f"{site.path}.") for site in sites.view.sites for info in site.params)
    return {local.split(".")[-1] for local in locals_ if "." in local}
