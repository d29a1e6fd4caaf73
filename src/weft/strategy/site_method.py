"""A method whose adapter is, at each of its sites, a few named tensors and some options: all but the arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, cast

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from weft.core.parts import AdapterState
from weft.core.seeds import fold
from weft.core.sites import SiteMap
from weft.core.view import ModelView, ParamInfo, Site, SiteKind
from weft.errors import StrategyError
from weft.recipe.names import check_name
from weft.recipe.spec import Rule
from weft.strategy.base import Below, Method
from weft.strategy.edit import Edit, Factors, edited, options_at
from weft.strategy.row_gate import is_by_row


class Start(Protocol):
    """What a new tensor holds."""

    def __call__(self, shape: tuple[int, ...], /, *, seed: int) -> Tensor:
        """Return a tensor of ``shape``, fp32, drawn from ``seed`` where it is drawn."""
        ...


class AtSite(BaseModel):
    """Options of an adapter at a site; a method adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: SiteKind


class SiteMethod(Method):
    """A method that brings parameters of its own; a subclass says what there is at a site and what it computes.

    Parameters lie at ``<site>.<table>.<adapter>``. ``options`` of a site must say everything that ``shapes`` and
    ``merged`` need, as JSON values, and hold the site's ``kind``.

    Class attributes, beside those of ``Method``:
        at_site: form of the options of a site, to check what was read from a file.
        module: the class in front of a site's own; a method with one for each kind overrides ``edit``.
        starts: what new tensors hold by table; zeros where a table is not named.
        is_alone: whether no other adapter may edit the weight at its sites.
        routes: whether the rows of one batch may take different adapters.
        has_parts: whether one adapter has a part for each task of the stage.
    """

    at_site: ClassVar[type[AtSite]]
    module: ClassVar[type[Edit]]
    starts: ClassVar[Mapping[str, Start]] = MappingProxyType({})
    kinds: ClassVar[frozenset[SiteKind]] = frozenset({SiteKind.LINEAR, SiteKind.CONV1D})
    trains_site: ClassVar[bool] = False
    is_alone: ClassVar[bool] = False
    routes: ClassVar[bool] = True
    has_parts: ClassVar[bool] = False

    def bound(
        self,
        rule: Rule,
        *,
        tasks: Sequence[str],  # noqa: ARG002
        view: ModelView,  # noqa: ARG002
        below: Sequence[Below],  # noqa: ARG002
    ) -> Rule:
        """Return ``rule`` as it is for a stage of ``tasks`` on a network that looks like ``view``: here the same for any.

        ``below`` are the adapters in it that stay as they are.
        """
        return rule

    def edit(self, kind: SiteKind) -> type[Edit]:  # noqa: ARG002
        """Return the class that stands in front of a module of ``kind``; its ``place`` is the order of merging."""
        return self.module

    def shapes(self, site: Site, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return the shape of each table's tensor at ``site``."""
        raise NotImplementedError

    def start(
        self,
        sites: SiteMap,  # noqa: ARG002
        site: Site,
        options: Mapping[str, Any],
        *,
        seed: int,
    ) -> dict[str, Tensor]:
        """Return what a new adapter starts from at ``site``, by table, fp32."""
        return {
            table: self.starts[table](shape, seed=seed) if table in self.starts else torch.zeros(shape)
            for table, shape in self.shapes(site, options).items()
        }

    def options(self, site: Site, rule: Rule) -> dict[str, Any]:
        """Return what must be known of ``rule`` at ``site``, as JSON values: an entry of ``config['sites']``."""
        raise NotImplementedError

    def stands_at(self, view: ModelView, site: Site) -> bool:  # noqa: ARG002
        """Return whether the method can act at ``site``, which is of one of its ``kinds``: here at each; others are left out."""
        return True

    def check(self, view: ModelView, sites: Sequence[Site], rule: Rule) -> None:
        """Refuse sites of a rule that cannot be had together, or not in this model: here nothing.

        Raises:
            StrategyError: with the reason.
        """

    def keeps_function(self, rule: Rule) -> bool:  # noqa: ARG002
        """Return whether a new adapter leaves the network's function as it is: all do that start from nothing."""
        return True

    def sees_rows(self, options: Mapping[str, Any]) -> bool:
        """Return whether what it does to a token follows from others of its row but by attention: a gate of a row does."""
        return is_by_row(options)

    def rate(self, rule: Rule, table: str) -> float:  # noqa: ARG002
        """Return what the rule's learning rate is multiplied with for the tensors of ``table``."""
        return 1.0

    def params(self, site: Site, rule: Rule, adapter: str) -> tuple[ParamInfo, ...]:
        """Return the parameters that ``install`` will add at ``site``."""
        return self._params(site, self.options(site, rule), adapter)

    def _params(self, site: Site, options: Mapping[str, Any], adapter: str) -> tuple[ParamInfo, ...]:
        return tuple(
            ParamInfo(f"{site.path}.{table}.{adapter}", shape)
            for table, shape in self.shapes(site, options).items()
        )

    def install(self, sites: SiteMap, site: Site, rule: Rule, *, adapter: str, seed: int) -> None:
        """Put a new adapter at ``site``, drawn from (``seed``, method, adapter, path); see ``keeps_function``."""
        options = self.options(site, rule)
        tensors = self.start(sites, site, options, seed=fold(seed, self.name, adapter, site.path))
        self.place(sites, site, adapter, options, tensors)

    def complete(self, sites: SiteMap, adapter: str, *, fresh: Sequence[str], seed: int) -> None:
        """Do what can only be done once ``adapter`` stands at all of its sites: nothing, for most methods.

        ``fresh`` are the paths of those at which it was installed now.
        """

    def place(
        self,
        sites: SiteMap,
        site: Site,
        adapter: str,
        options: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Put an adapter with copies of ``tensors`` (by table) at ``site``.

        Raises:
            StrategyError: there is one of that name already.
        """
        edit = self.edit(site.kind)
        module = edited(sites.module(site.path), edit)
        if adapter in options_at(module, edit):
            raise StrategyError(
                f"{site.path}: must have each adapter once, but has {adapter!r} already. Rename one."
            )
        module.put(adapter, dict(options), tensors, edit=edit)
        sites.replace(site.path, module)
        sites.network.sees_rows |= self.sees_rows(options)

    def extract(self, sites: SiteMap, adapter: str) -> AdapterState | None:
        """Return copies of the tensors of ``adapter``, where they are; None where this method has none so called."""
        found: dict[str, dict[str, Any]] = {}
        tensors: dict[str, Tensor] = {}
        for site in sites.view.sites:
            if site.kind not in self.kinds:
                continue
            module, edit = sites.module(site.path), self.edit(site.kind)
            if adapter not in options_at(module, edit):
                continue
            found[site.path] = dict(options_at(module, edit)[adapter])
            for table in self.shapes(site, found[site.path]):
                tensor = cast(Factors, getattr(module, table))[adapter]
                tensors[f"{site.path}.{table}.{adapter}"] = tensor.detach().clone()
        return AdapterState(adapter, self.name, {"sites": found}, tensors) if found else None

    def restore(self, sites: SiteMap, state: AdapterState) -> None:
        """Install a saved adapter; everything is checked before anything is changed.

        Raises:
            StrategyError: a site is missing or of another kind, or a tensor is missing, too many or misshapen.
        """
        name = check_name(state.name)
        options: Mapping[str, dict[str, Any]] = state.config["sites"]
        known = {site.path: site for site in sites.view.sites}
        expected: dict[str, tuple[int, ...]] = {}
        for path, at_site in options.items():
            if path not in known or known[path].kind not in self.kinds:
                what = known[path].kind if path in known else "no site of this model"
                words = " or ".join(sorted(self.kinds))
                raise StrategyError(
                    f"adapter {name}: {path} must be a {words} site, but is {what}. Use its own base model."
                )
            if not self.stands_at(sites.view, known[path]):
                raise StrategyError(
                    f"adapter {name}: {path} must be a site where {self.name} can stand, but is not. Use its own base model."
                )
            if at_site["kind"] != known[path].kind:
                raise StrategyError(
                    f"adapter {name}: {path} must be {at_site['kind']}, but is {known[path].kind}."
                )
            expected |= {info.path: info.shape for info in self._params(known[path], at_site, name)}
        actual = {path: tuple(tensor.shape) for path, tensor in state.tensors.items()}
        if actual != expected:
            wrong = sorted(p for p in actual.keys() | expected.keys() if actual.get(p) != expected.get(p))[0]
            raise StrategyError(
                f"adapter {name}: {wrong} must have shape {expected.get(wrong, 'none')}, "
                f"but has {actual.get(wrong, 'none')}. Use the base model that it was trained on."
            )
        for path, at_site in options.items():
            tables = self.shapes(known[path], at_site)
            tensors = {table: state.tensors[f"{path}.{table}.{name}"] for table in tables}
            self.place(sites, known[path], name, at_site, tensors)

    def joined(self, states: Sequence[AdapterState], *, name: str) -> AdapterState:
        """Return one adapter called ``name`` that does what ``states``, one on the other, do: here only one.

        Raises:
            StrategyError: several, which this method cannot make one of.
        """
        if len(states) != 1:
            raise StrategyError(
                f"{name}: adapters of {self.name} cannot be joined into one, but there are {len(states)}. Export one."
            )
        return renamed(states[0], name)

    def part(self, state: AdapterState, part: str) -> AdapterState:
        """Return what rows that take ``part`` of ``state`` pass through, as an adapter, maybe of another method.

        Asked only where ``has_parts``.
        """
        raise NotImplementedError

    def merged(self, weights: Mapping[str, Tensor], state: AdapterState) -> dict[str, Tensor]:  # noqa: ARG002
        """Return new values of the trunk parameters that ``state`` folds into; pure, in fp32, in the inputs' dtype.

        ``weights`` holds current values by canonical path.

        Raises:
            StrategyError: this method does not edit weights.
        """
        raise StrategyError(
            f"{state.name}: only methods that edit weights can be merged, but {self.name} edits {self.edits}."
        )


def renamed(state: AdapterState, name: str) -> AdapterState:
    """Return ``state`` under another name."""
    tensors = {f"{path.rpartition('.')[0]}.{name}": tensor for path, tensor in state.tensors.items()}
    return AdapterState(name, state.method, state.config, tensors)


def side_by_side(states: Sequence[AdapterState], *, name: str) -> AdapterState:
    """Return one adapter called ``name`` that stands wherever one of ``states`` does.

    Raises:
        StrategyError: two stand at one site.
    """
    sites: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for state in states:
        twice = sorted(sites.keys() & state.config["sites"].keys())
        if twice:
            raise StrategyError(
                f"{name}: adapters of {state.method} must stand apart to be joined into one, but two are at {twice[0]}. Export one."
            )
        sites |= state.config["sites"]
        tensors |= renamed(state, name).tensors
    return AdapterState(name, states[0].method, {"sites": sites}, tensors)


def given(weights: Mapping[str, Tensor], path: str, adapter: str) -> Tensor:
    """Return the weight at ``path``, to merge ``adapter`` into.

    Raises:
        StrategyError: it is not among ``weights``.
    """
    if path not in weights:
        raise StrategyError(f"{path}: must be given to merge adapter {adapter} into, but is not.")
    return weights[path]


def weight_of(site: Site) -> ParamInfo:
    """Return the weight of ``site``."""
    return next(info for info in site.params if info.path == f"{site.path}.weight")


def widths(weight_shape: Sequence[int], kind: SiteKind) -> tuple[int, int]:
    """Return (I, O) of a weight of ``kind``: (O, I) as nn.Linear stores it, (I, O) as GPT-2's Conv1D does."""
    first, second = weight_shape
    return (first, second) if kind is SiteKind.CONV1D else (second, first)


def widths_of(site: Site) -> tuple[int, int]:
    """Return (I, O) of the linear ``site``."""
    return widths(weight_of(site).shape, site.kind)
