"""Who decides about a parameter: rules are read top to bottom, and the last one that names it decides.

A rule that installs a module at a site names all of the site's own parameters (a LoRA keeps them frozen); the module
goes again when a later rule decides about the weight at that site. So ``[lora linear, full layers[10:]]`` trains the
top layers fully and has no LoRA there, while ``[lora linear, full bias]`` has both. A tied parameter is one
parameter: naming any of its names names it. A site's method leaves out what it cannot act on (``all`` under lora means
its linear sites), and is refused when nothing is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weft.core.parts import AdapterState, adapter_of, routes_to
from weft.core.routing import routes_of
from weft.core.table import Role
from weft.core.view import ModelView, Site
from weft.errors import StrategyError
from weft.recipe.spec import Rule
from weft.strategy.base import AdapterRule, Below, Edits, Install, Method
from weft.strategy.registry import adapter_method, method
from weft.strategy.selector import is_head, select, select_sites
from weft.strategy.site_method import SiteMethod


@dataclass(frozen=True, slots=True)
class CarriedAdapter:
    """An adapter of an earlier stage that is in the network already.

    Attributes:
        name: its name.
        method: the registered method that made it.
        role: FROZEN when new adapters are stacked on it, TRAINED when it goes on being trained.
        options: the method's options by site, as in ``AdapterState.config["sites"]``.
        paths: its parameters.
        tasks: whose rows alone pass through it; empty for all rows.
        parts: what rows of each of ``tasks`` take of it, as in ``AdapterState``.
    """

    name: str
    method: str
    role: Role
    options: Mapping[str, Mapping[str, Any]]
    paths: frozenset[str]
    tasks: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    @staticmethod
    def of(state: AdapterState, role: Role) -> CarriedAdapter:
        """Return what a plan must know of a saved adapter."""
        paths = frozenset(state.tensors)
        return CarriedAdapter(
            state.name, state.method, role, state.config["sites"], paths, state.tasks, state.parts
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """The last rule that named a parameter, and what it does to it."""

    rule: Rule
    role: Role
    why: str


class Reading:
    """The rules as far as they have been read.

    Attributes:
        decisions: by parameter path.
        adapter_of: name of the adapter that a parameter belongs to, and the carried adapter if it is one.
    """

    def __init__(self, view: ModelView, tasks: Sequence[str], carried: Sequence[CarriedAdapter]) -> None:
        self.view = view
        self.carried = tuple(carried)
        self.decisions: dict[str, Decision] = {}
        self.adapter_of: dict[str, tuple[str, CarriedAdapter | None]] = {
            path: (one.name, one) for one in carried for path in one.paths
        }
        self._heads = tuple(f"heads.{task}." for task in tasks)
        self._tasks = tuple(tasks)
        self._installs: dict[tuple[str, str, str], Install] = {}  # by site, method and adapter
        self._own: dict[str, dict[str, str]] = {}  # by adapter that is not for all rows: routes to it by task
        self._site_of = {info.path: site for site in view.sites for info in site.params}
        self._shared = {
            path
            for site in view.sites
            for info in site.params
            if info.tied_to
            for path in (info.path, info.tied_to)
        }
        absent = sorted(self.adapter_of.keys() - self._site_of.keys())
        if absent:
            raise StrategyError(
                f"{absent[0]}: a carried adapter must be in the network, but is not. Restore it first."
            )

    def installs(self) -> tuple[Install, ...]:
        """Return the modules to install, at most one of each method and adapter at a site.

        Raises:
            StrategyError: a method that must be alone at a site is not.
        """
        for site in dict.fromkeys(site for site, _, _ in self._installs):
            self._check_alone(site)
        for one in self.carried:
            self._check_weight_stays(one)
        return tuple(self._installs.values())

    def routes(self) -> dict[str, tuple[str, ...]]:
        """Return by task the adapters of its own that are to be installed."""
        names = dict.fromkeys(adapter for _, _, adapter in self._installs)
        return routes_of(self._own.get(name, {}) for name in names)

    def _check_alone(self, site: str) -> None:
        here = [(name, set(self._own.get(one, ()))) for where, name, one in self._installs if where == site]
        here += [(one.method, set(one.tasks)) for one in self.carried if site in one.options]
        editing = [(name, tasks) for name, tasks in here if adapter_method(name).edits is Edits.WEIGHT]
        for index, (name, tasks) in enumerate(editing):
            others = [other for place, other in enumerate(editing) if place != index]
            # Those of different tasks never meet in a row.
            met = [other for other, theirs in others if not tasks or not theirs or tasks & theirs]
            if adapter_method(name).is_alone and met:
                raise StrategyError(
                    f"{site}: {name} must be the only adapter that edits this weight, as it acts on all of it, but there "
                    f"are {', '.join([name, *met])}. Choose other sites, or merge what came before (carry.trunk: merge)."
                )

    def _check_weight_stays(self, carried: CarriedAdapter) -> None:
        how = adapter_method(carried.method)
        if how.edits is not Edits.WEIGHT or not how.is_alone:
            return
        for site in carried.options:
            decision = self.decisions.get(f"{site}.weight")
            if decision is not None and decision.role is Role.TRAINED:
                raise StrategyError(
                    f"{decision.why}: must leave {site}.weight as it is, as adapter {carried.name!r} ({carried.method}) acts on "
                    f"all of it. Choose other sites, or merge what came before (carry.trunk: merge)."
                )

    def is_trainable(self, path: str) -> bool:
        """Return whether a rule may train ``path`` itself: not an adapter's, nor another stage's head."""
        return path not in self.adapter_of and (not is_head(path) or path.startswith(self._heads))

    def train_in_place(self, rule: Rule, how: Method, why: str) -> None:
        """Read a rule that freezes or trains what is there."""
        role = Role.TRAINED if how.trains_site else Role.FROZEN
        chosen = [path for path in select(self.view, rule.sites) if self._site_of[path].kind in how.kinds]
        if how.trains_site:
            chosen = [path for path in chosen if self.is_trainable(path)]
        if not chosen:
            raise StrategyError(
                f"{why}: must name parameters that this stage can train, but names only heads of other tasks, "
                f"adapters or sites that it cannot act on. Choose other sites."
            )
        for path in chosen:
            self._decide(path, Decision(rule, role, why))

    def install(self, rule: Rule, how: SiteMethod, why: str, *, adapters: Sequence[str]) -> None:
        """Read a rule that puts modules at each site it can act on, or goes on with the one that is there."""
        chosen = select_sites(self.view, rule.sites)
        sites = [site for site in self.view.sites if site.path in chosen and self._can_act(how, site)]
        if not sites:
            kinds = sorted(
                {"head" if is_head(s.path) else str(s.kind) for s in self.view.sites if s.path in chosen}
            )
            raise StrategyError(
                f"{why}: must name {' or '.join(sorted(how.kinds))} sites of the trunk whose weight is not tied to "
                f"another, but names none of them (only {', '.join(kinds)}). Choose other sites, or train: full."
            )
        how.check(self.view, sites, rule)
        for site in sites:
            role = Role.TRAINED if how.trains_site else Role.FROZEN
            for info in site.params:
                if info.path not in self.adapter_of:  # other methods' modules stay: they act together
                    self.decisions[info.path] = Decision(rule, role, why)
            going_on = self._going_on(rule, how, site, why)
            for key in [key for key in self._installs if key[:2] == (site.path, rule.train)]:
                del self._installs[key]
            for adapter in adapters:
                if self._owner(adapter) not in going_on:
                    self._add(rule, how, site, why, adapter)

    @property
    def below(self) -> list[Below]:
        """The carried adapters that stay as they are."""
        return [Below(one.name, one.method, one.options) for one in self.carried if one.role is Role.FROZEN]

    def names(self, rule: Rule, name: str) -> tuple[str, ...]:
        """Return the adapters that ``rule`` brings: one, or one for each task of the stage.

        They are those that go on, which may come to further sites, else new ones called ``name``.
        """
        known = {
            whose: one.name
            for one in self.carried
            if one.role is Role.TRAINED and one.method == rule.train
            for whose in _owners(one)
        }
        if isinstance(rule, AdapterRule) and rule.per_task:
            own = {task: known.get(task, f"{name}-{task}") for task in self._tasks}
        elif adapter_method(rule.train).has_parts:
            own = routes_to(known.get(None, name), self._tasks, self._tasks)
        else:
            return (known.get(None, name),)
        for task, route in own.items():
            self._own.setdefault(adapter_of(route), {})[task] = route
        return tuple(dict.fromkeys(map(adapter_of, own.values())))

    def _owner(self, adapter: str) -> str | None:
        """Return the task that a new adapter is for, None if it is for all rows."""
        return next((task for task, route in self._own.get(adapter, {}).items() if route == adapter), None)

    def tasks_of(self, rule: Rule) -> tuple[str, ...]:
        """Return whose rows an adapter of ``rule`` is for: those of one that goes on, else those of this stage."""
        for one in self.carried:
            if one.role is Role.TRAINED and one.method == rule.train and set(self._tasks) <= set(one.tasks):
                return one.parts or self._tasks
        return self._tasks

    def _can_act(self, how: SiteMethod, site: Site) -> bool:
        if site.kind not in how.kinds or is_head(site.path):
            return False
        if not how.stands_at(self.view, site):
            return False
        # An update folded into a tied weight would change the other module too.
        return how.edits is not Edits.WEIGHT or not any(info.path in self._shared for info in site.params)

    def _going_on(self, rule: Rule, how: SiteMethod, site: Site, why: str) -> set[str | None]:
        """Return the tasks whose adapter of the rule's method at ``site`` goes on; None stands for one of all rows."""
        found: set[str | None] = set()
        is_per_task = isinstance(rule, AdapterRule) and rule.per_task
        for one in self.carried:
            if one.role is Role.FROZEN or one.method != rule.train or site.path not in one.options:
                continue
            owners = _owners(one)
            if is_per_task == (None in owners):
                whose = f"rows of {', '.join(one.tasks)} alone" if one.tasks else "all rows"
                raise StrategyError(
                    f"{why}: must go on with adapter {one.name!r} as it is, which is for {whose}, but has per_task: "
                    f"{str(is_per_task).lower()}. Say the same, or carry the trunk with stack or merge."
                )
            wanted, actual = how.options(site, rule), dict(one.options[site.path])
            if wanted != actual:
                raise StrategyError(
                    f"{why}: must keep the options of adapter {one.name!r} that goes on, {actual} at {site.path}, but has "
                    f"{wanted}. Use the same options, or carry the trunk with stack or merge."
                )
            for info in site.params:
                if info.path in one.paths:
                    self.decisions[info.path] = Decision(rule, Role.TRAINED, why)
            found |= owners
        return found

    def _add(self, rule: Rule, how: SiteMethod, site: Site, why: str, adapter: str) -> None:
        goes_on = {one.name for one in self.carried if one.role is Role.TRAINED and one.method == rule.train}
        if adapter in {one.name for one in self.carried} - goes_on:
            raise StrategyError(
                f"{why}: a new adapter needs a name of its own, but {adapter!r} is carried in. Rename the stage."
            )
        self._installs[site.path, rule.train, adapter] = Install(site.path, rule.train, rule, adapter)
        for info in how.params(site, rule, adapter):
            self.adapter_of[info.path] = (adapter, None)
            self.decisions[info.path] = Decision(rule, Role.TRAINED, why)

    def _decide(self, path: str, decision: Decision) -> None:
        self.decisions[path] = decision
        site = self._site_of[path].path
        if path == f"{site}.weight":
            for key in [key for key in self._installs if key[0] == site]:
                del self._installs[key]


def _owners(adapter: CarriedAdapter) -> set[str | None]:
    """Return the tasks that have an adapter to themselves, None for one that all share, if with a part each."""
    return set(adapter.tasks) if adapter.tasks and not adapter.parts else {None}


def read(
    view: ModelView,
    rules: Sequence[Rule],
    *,
    tasks: Sequence[str],
    adapter: str,
    carried: Sequence[CarriedAdapter],
) -> Reading:
    """Return the decisions of ``rules`` about ``view``; arguments and errors as for ``weft.strategy.plan.plan``."""
    reading = Reading(view, tasks, carried)
    adapting = {rule.train for rule in rules if isinstance(method(rule.train), SiteMethod)}
    for number, rule in enumerate(rules, start=1):
        how = method(rule.train)
        if not isinstance(rule, how.rule):
            raise StrategyError(
                f"rule {number}: must be a {how.rule.__name__}, but is a {type(rule).__name__}."
            )
        why = f"rule {number}: {rule.sites} -> {rule.train}"
        if not view.num_layers and how.counts_layers(rule):
            raise StrategyError(
                f"{why}: must be for a model whose layers can be told apart, as it treats them one by one, but this "
                f"{view.architecture} has no name table. Give groups of modules rules of their own (sites: re:<regex>)."
            )
        if not isinstance(how, SiteMethod):
            reading.train_in_place(rule, how, why)
        else:
            # A name stands for one adapter of one method in the parts that a stage hands on.
            name = adapter if len(adapting) == 1 else f"{adapter}-{rule.train}"
            bound = how.bound(rule, tasks=reading.tasks_of(rule), view=view, below=reading.below)
            reading.install(bound, how, why, adapters=reading.names(rule, name))
    return reading
