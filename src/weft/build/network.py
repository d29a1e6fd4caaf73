"""Networks for a recipe, real or on the meta device, and the parts that they differ by from their base."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from weft.core import linear
from weft.core.caches import cache_home
from weft.core.network import Network
from weft.core.parts import AdapterState, HeadState, Parts
from weft.core.quantized import quantized
from weft.core.seeds import fold
from weft.core.sites import HEAD_PREFIX, SiteMap
from weft.core.table import ParamTable, Role
from weft.errors import HandOverError, ModelError, NameInvalidError, StrategyError
from weft.model.describe import describe, in_layer
from weft.model.folder import ModelFolder, locate
from weft.model.scratch import from_scratch
from weft.model.trunk import empty_trunk, load_trunk
from weft.recipe.spec import Init, Quantize, Recipe
from weft.strategy.adapter_folder import read_folder
from weft.strategy.adapters import extract, given_back, joined
from weft.task.base import Task
from weft.task.registry import FAMILIES

META = torch.device("meta")


def open_base(recipe: Recipe, *, root: Path) -> Base:
    """Return the recipe's model, found and checked but not loaded; one of random weights is made if need be.

    Raises:
        ModelError: it cannot be found, or is not safe or not known.
    """
    model, is_new = recipe.model, recipe.model.init is Init.RANDOM
    folder = locate(model.path, model.revision, root=root, needs_weights=not is_new)
    if is_new:
        folder = from_scratch(folder, seed=recipe.seed, home=cache_home() / "scratch")
    wants = any(FAMILIES[spec.kind].wants_lm_head for spec in recipe.tasks.values())
    base = Base(folder, wants_lm_head=wants, seed=recipe.seed, quantize=model.quantize, is_new=is_new)
    return replace(base, adapters=_adapters(base, model.adapters, root=root)) if model.adapters else base


def _adapters(base: Base, folders: Mapping[str, str], *, root: Path) -> tuple[AdapterState, ...]:
    """Return the adapters that the recipe puts on the base model, under the recipe's names."""
    network = base.network({}, device=META)
    view, prefix = base.sites(network).view, str(cast(Any, network.trunk.model).base_model_prefix)
    found: list[AdapterState] = []
    for name, path in folders.items():
        folder = root / Path(path).expanduser()
        if not folder.is_dir():
            raise ModelError(
                f"model.adapters.{name}: must be a folder that holds an adapter, but {path} is none. Give the one with its "
                f"adapter_config.json, from the recipe's folder on."
            )
        try:
            found.append(joined([read_folder(folder, view, prefix=prefix)], name=name))
        except (StrategyError, NameInvalidError) as error:
            raise ModelError(f"model.adapters.{name}: {error}") from error
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Base:
    """The pretrained model of a recipe: where it is and how it is to be opened.

    ``wants_lm_head`` holds for the whole run, so that canonical and raw names mean the same in every stage. One that
    ``is_new`` has random weights that nobody else has: a bundle takes it along. ``adapters`` were trained on it before the
    run: stages that have no parent start from them.
    """

    folder: ModelFolder
    wants_lm_head: bool
    seed: int
    quantize: Quantize | None = None
    is_new: bool = False
    adapters: tuple[AdapterState, ...] = ()

    @property
    def parts(self) -> Parts:
        """What a stage without a parent starts from."""
        return Parts(adapters=self.adapters)

    @property
    def digest(self) -> str:
        """SHA-256 over weights and adapters, hex: equal digests are equal starts."""
        if not self.adapters:
            return self.folder.digest
        found = hashlib.sha256(self.folder.digest.encode())
        for adapter in self.adapters:
            found.update(json.dumps([adapter.name, adapter.method, adapter.config], sort_keys=True).encode())
            for path, tensor in sorted(adapter.tensors.items()):
                found.update(
                    path.encode() + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                )
        return found.hexdigest()

    def network(self, tasks: Mapping[str, Task], *, device: torch.device, dropout: float = 0.0) -> Network:
        """Return base trunk plus new heads for ``tasks``; on the meta device no weights are read."""
        opener = empty_trunk if device == META else load_trunk
        trunk = opener(self.folder, wants_lm_head=self.wants_lm_head, dropout=dropout, device=device)
        info = trunk.info
        heads = {
            name: task.head(info, dropout=dropout, seed=fold(self.seed, "head", name)).to(device)
            for name, task in tasks.items()
        }
        network = Network(trunk, heads)
        if self.quantize is not None:
            _quantize(self.sites(network), self.quantize)
        return network

    def sites(self, network: Network) -> SiteMap:
        """Return the map of canonical sites of ``network``."""
        return SiteMap(network, describe(network))


def _quantize(sites: SiteMap, how: Quantize) -> None:
    """Keep the linear weights of the layers in few bits; what is tied to another weight stays whole."""
    tied = {info.tied_to for site in sites.view.sites for info in site.params} - {None}
    for site in sites.view.sites:
        own = {info.path for info in site.params if info.tied_to is None} - tied
        module = sites.module(site.path)
        if in_layer(site.path) and f"{site.path}.weight" in own and linear.is_plain(type(module)):
            sites.replace(site.path, quantized(module, how))


def load_values(sites: SiteMap, values: Mapping[str, Tensor]) -> None:
    """Copy ``values`` (by canonical path) into the network's parameters.

    Raises:
        HandOverError: a path that the network does not have, or another shape.
    """
    parameters = dict(sites.parameters())
    fixed = {info.path for site in sites.view.sites for info in site.params if info.is_fixed}
    with torch.no_grad():
        for path, value in values.items():
            if path not in parameters:
                raise HandOverError(
                    f"{path}: must be a parameter of this network, but there is none of that name."
                )
            if parameters[path].shape != value.shape:
                raise HandOverError(
                    f"{path}: must have shape {tuple(parameters[path].shape)}, but the saved value has "
                    f"{tuple(value.shape)}."
                )
            if path in fixed:
                raise HandOverError(
                    f"{path}: must stay what the base model has, as it is kept in few bits, but another value is handed on. "
                    f"Leave out model.quantize."
                )
            parameters[path].copy_(value)


def values_of(sites: SiteMap, paths: Iterable[str]) -> dict[str, Tensor]:
    """Return detached copies of the parameters at ``paths``."""
    parameters = dict(sites.parameters())
    return {path: parameters[path].detach().clone() for path in paths}


def head_values(head: HeadState) -> dict[str, Tensor]:
    """Return a head's tensors under their canonical paths."""
    return {f"{HEAD_PREFIX}{head.task}.{name}": value for name, value in head.tensors.items()}


def parts_of(
    sites: SiteMap, table: ParamTable, tasks: Mapping[str, Task], *, changed: Iterable[str]
) -> Parts:
    """Return what ``sites``' network differs by from its base.

    Args:
        sites: the network at the end of a stage.
        table: its parameter table; trained trunk rows join the delta.
        tasks: the tasks whose heads are in the network.
        changed: trunk parameters that earlier stages have changed.
    """
    trained = {row.path for row in table if row.role is Role.TRAINED and row.owner == "trunk"}
    delta = given_back(sites, values_of(sites, sorted(trained.union(changed))))
    heads = {name: _head_state(sites, name, task) for name, task in tasks.items()}
    return Parts(delta=delta, adapters=extract(sites, table), heads=heads)


def _head_state(sites: SiteMap, name: str, task: Task) -> HeadState:
    prefix = f"{HEAD_PREFIX}{name}."
    tensors = {
        path.removeprefix(prefix): value.detach().clone()
        for path, value in sites.parameters()
        if path.startswith(prefix)
    }
    return HeadState(task=name, kind=task.kind, config=task.config(), tensors=tensors)
