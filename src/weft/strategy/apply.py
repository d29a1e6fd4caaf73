"""Carrying out a plan: the one place that installs modules and says what gets gradients."""

from __future__ import annotations

from collections.abc import Callable

from weft.core.network import Network
from weft.core.sites import SiteMap
from weft.core.table import ParamTable, Role
from weft.core.view import ModelView
from weft.errors import StrategyError
from weft.strategy.base import Plan
from weft.strategy.registry import adapter_method


def apply(
    sites: SiteMap, plan: Plan, *, describe: Callable[[Network], ModelView], seed: int
) -> tuple[SiteMap, ParamTable]:
    """Install what ``plan`` says and set ``requires_grad`` from its table; return the new map and the table.

    Args:
        sites: of the network to change; must be as it was when planned.
        plan: made on the view of the same network.
        describe: makes a view of a network.
        seed: of the new parameters' initial values; each site draws from (seed, adapter, path).

    Raises:
        StrategyError: the network's parameters are not those that the table foresees.
    """
    for install in plan.installs:
        method = adapter_method(install.method)
        method.install(sites, sites.site(install.site), install.rule, adapter=install.adapter, seed=seed)
    for method, adapter in dict.fromkeys((install.method, install.adapter) for install in plan.installs):
        fresh = [one.site for one in plan.installs if (one.method, one.adapter) == (method, adapter)]
        adapter_method(method).complete(sites, adapter, fresh=fresh, seed=seed)
    old, new = sites.network.routes, plan.routes
    sites.network.routes = {
        task: tuple(dict.fromkeys((*old.get(task, ()), *new.get(task, ())))) for task in {**old, **new}
    }
    made = SiteMap(sites.network, describe(sites.network))
    parameters = dict(made.parameters())
    _compare({path: tuple(parameter.shape) for path, parameter in parameters.items()}, plan.table)
    described = {id(parameter) for parameter in parameters.values()}
    for name, parameter in sites.network.named_parameters():
        if id(parameter) not in described:
            raise StrategyError(f"{name}: every parameter must belong to a site, but this one has none.")
    for row in plan.table:
        parameters[row.path].requires_grad_(row.role is Role.TRAINED)
        parameters[row.path].grad = None  # one left from an earlier stage would outlive the freeze
    return made, plan.table


def _compare(actual: dict[str, tuple[int, ...]], table: ParamTable) -> None:
    planned = {row.path: row.shape for row in table}
    if actual == planned:
        return
    path = sorted(p for p in actual.keys() | planned.keys() if actual.get(p) != planned.get(p))[0]
    raise StrategyError(
        f"{path}: must have shape {planned.get(path, 'none')} as planned, but has {actual.get(path, 'none')}. "
        f"Plan on the view of the network that the plan is applied to."
    )
