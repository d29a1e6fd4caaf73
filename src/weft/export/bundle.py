"""The bundle: one portable folder that answers every task (DESIGN section 7)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field

import weft
from weft.build.network import META, Base, head_values, load_values
from weft.core.network import Network, Trunk
from weft.core.parts import HeadState, Parts
from weft.core.sites import SiteMap
from weft.errors import ExportError, HandOverError, ModelError, StrategyError, WeftError, nearest
from weft.export.parts import check_tensor, load_parts, read_json, read_record, save_parts, write_json
from weft.model.device import pick_device, pick_precision
from weft.model.folder import ModelFolder, locate
from weft.model.tokenizer import HFTokenizer, load_tokenizer
from weft.native.memory import keep_freed_memory
from weft.recipe.names import Name
from weft.recipe.spec import ModelSpec, Precision, Quantize
from weft.strategy.adapters import restore
from weft.task.base import Task
from weft.task.registry import FAMILIES

FORMAT = 1
OWN_BASE = "base"
"""Folder of a bundle with the base that it brings along."""


class BaseRecord(BaseModel):
    """Which pretrained model a bundle stands on."""

    model_config = ConfigDict(frozen=True)

    path: str
    revision: str | None
    digest: str


class BundleRecord(BaseModel):
    """What ``weft.json`` must say; what else it says is for readers."""

    model_config = ConfigDict(frozen=True, strict=True)

    base: BaseRecord
    lm_head: bool
    max_tokens: int = Field(ge=1)
    tasks: list[Name]
    quantize: Literal["int8", "nf4"] | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle opened for use.

    Attributes:
        folder: where it lies.
        sites: the network in eval mode with its canonical names.
        parts: what it differs by from its base.
        tasks: by name, able to encode rows and give answers.
        tokenizer: of the base model.
        base: the pretrained model it stands on.
        dtype: of matrix products.
    """

    folder: Path
    sites: SiteMap
    parts: Parts
    tasks: Mapping[str, Task]
    tokenizer: HFTokenizer
    base: Base
    dtype: torch.dtype

    @property
    def network(self) -> Network:
        """Trunk and heads, in eval mode."""
        return self.sites.network

    @property
    def trunk(self) -> Trunk:
        """The network's trunk."""
        return cast(Trunk, self.network.trunk)


def write_bundle(
    folder: Path,
    parts: Parts,
    *,
    base: Base,
    model: ModelSpec,
    tokenizer: HFTokenizer,
    about: Mapping[str, Any],
) -> None:
    """Write ``parts`` and all that is needed to use them into ``folder`` (made if need be).

    Args:
        folder: the bundle's folder.
        parts: what the run made.
        base: the model that was trained; a pretrained one is named with its digest, one of random weights is copied.
        model: as the recipe says.
        tokenizer: copied into the bundle.
        about: JSON values kept for the reader (recipe digest, scores, ...).
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = model.path if base.folder.name == model.path else str(base.folder.path)
    if base.is_new:
        name = OWN_BASE
        shutil.copytree(base.folder.path, folder / name, dirs_exist_ok=True)
    save_parts(folder, parts, base.sites(base.network({}, device=META)).view, base=name)
    tokenizer.save(folder)
    own = {
        "format": FORMAT,
        "weft": weft.__version__,
        "base": {"path": name, "revision": model.revision, "digest": base.folder.digest},
        "lm_head": base.wants_lm_head,
        "max_tokens": model.max_tokens,
        **({} if base.quantize is None else {"quantize": str(base.quantize)}),
        "tasks": list(parts.heads),
    }
    write_json(folder / "weft.json", {**own, **about, **own})


def open_bundle(
    folder: Path,
    *,
    base: Path | None = None,
    device: torch.device | None = None,
    precision: Precision = Precision.AUTO,
    keeps_whole: bool = False,
) -> Bundle:
    """Return the bundle in ``folder``, ready to answer. Nothing in it is executed, whoever made it.

    Args:
        folder: a bundle, or a run folder that holds one.
        base: where the base model lies now, if not where the bundle says.
        device: default: GPU where there is one.
        precision: of matrix products; the parameters of the opened network have it too, fp32 to export them.
        keeps_whole: whether the base's weights stay whole where the bundle was trained on them in few bits, to export it.

    Raises:
        ExportError: not a bundle, a newer format, tampered with, or on another base model than it was trained on.
        ModelError: the base model cannot be found or opened.
    """
    found = read_bundle(folder, base=base)
    where = replace(found.base, quantize=None) if keeps_whole else found.base
    target = device or pick_device()
    network = where.network(found.tasks, device=target)
    try:
        sites = put_parts(where, network, found.parts)
    except (HandOverError, StrategyError) as error:
        raise ExportError(f"{found.folder}: must fit its base model, but does not: {error}") from error
    dtype = pick_precision(precision, target)
    network.compute_only_in(dtype)
    keep_freed_memory()
    return Bundle(
        folder=found.folder,
        sites=sites,
        parts=found.parts,
        tasks=found.tasks,
        tokenizer=load_tokenizer(where.folder, max_tokens=found.max_tokens),
        base=where,
        dtype=dtype,
    )


@dataclass(frozen=True, slots=True)
class Contents:
    """What a bundle says, checked, with no weights of its base read.

    Attributes:
        folder: where it lies.
        base: the pretrained model it stands on.
        parts: what it differs by from its base; every tensor fits.
        tasks: by name.
        max_tokens: longest text, in tokens.
    """

    folder: Path
    base: Base
    parts: Parts
    tasks: Mapping[str, Task]
    max_tokens: int


def read_bundle(folder: Path, *, base: Path | None = None) -> Contents:
    """Return what the bundle in ``folder`` holds; arguments and errors are those of ``open_bundle``."""
    home = _home(folder)
    record = _record(home)
    own = home / OWN_BASE if record.base.path == OWN_BASE else None
    found = _base_folder(record.base, base or own)
    where = Base(found, wants_lm_head=record.lm_head, seed=0, is_new=own is not None)
    if record.quantize is not None:
        where = replace(where, quantize=Quantize(record.quantize))
    parts = load_parts(home, where.sites(where.network({}, device=META)).view)
    if list(parts.heads) != record.tasks:
        raise ExportError(
            f"{home}: weft.json and parts.json must name the same tasks, but say {record.tasks} and {list(parts.heads)}."
        )
    tasks = {name: _task(home, head) for name, head in parts.heads.items()}
    _check_heads(home, where, parts, tasks)
    return Contents(home, where, parts, tasks, record.max_tokens)


def is_bundle(folder: Path) -> bool:
    """Return whether ``folder`` is a bundle or a run that holds one; whatever is no path at all is none."""
    try:
        return any((path / "weft.json").is_file() for path in (folder, folder / "bundle"))
    except OSError:  # longer than a path may be
        return False


def put_parts(base: Base, network: Network, parts: Parts) -> SiteMap:
    """Put ``parts`` into a network that has the base's weights; return its sites. The network is left in eval mode."""
    sites = base.sites(network)
    load_values(sites, parts.delta)
    for head in parts.heads.values():
        load_values(sites, head_values(head))
    for adapter in parts.adapters:
        restore(sites, adapter)
        sites = base.sites(network)
    network.requires_grad_(requires_grad=False).eval()
    return sites


def _home(folder: Path) -> Path:
    homes = (folder, folder / "bundle")
    home = next((path for path in homes if (path / "weft.json").is_file()), None)
    if home is None:
        raise ExportError(
            f"{folder}: must be a bundle or a finished run, but has no weft.json. Give one that 'weft train' made."
        )
    return home


def _record(home: Path) -> BundleRecord:
    found = read_json(home / "weft.json").get("format")
    if found != FORMAT:
        raise ExportError(f"{home}: must have format {FORMAT}, but has {found}. Use a matching Weft.")
    return read_record(home / "weft.json", BundleRecord)


def _base_folder(said: BaseRecord, base: Path | None) -> ModelFolder:
    path = said.path if base is None else str(base.resolve())
    try:
        folder = locate(path, said.revision if base is None else None, root=Path.cwd())
    except ModelError as error:
        hint = "" if base is not None else " Say with --base where the bundle's base model lies now."
        raise ModelError(f"{error}{hint}") from error
    if folder.digest != said.digest:
        raise ExportError(
            f"{path}: must be the base model that the bundle was trained on (sha256 {said.digest[:12]}), but is "
            f"{folder.digest[:12]}. Give the right one with --base."
        )
    return folder


def _task(home: Path, head: HeadState) -> Task:
    where = home / "heads" / head.task / "head.json"
    if head.kind not in FAMILIES:
        raise ExportError(
            f"{where}: kind must be a task family, but is {head.kind!r}. {nearest(head.kind, FAMILIES)}"
        )
    try:
        return FAMILIES[head.kind].from_config(head.task, head.config)
    except (WeftError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ExportError(
            f"{where}: config must be one of a {head.kind} task, but {type(error).__name__}: {error}."
        ) from error


def _check_heads(home: Path, base: Base, parts: Parts, tasks: Mapping[str, Task]) -> None:
    """Hold every head's tensors against its task: none missing, which would stay random, none too many."""
    try:
        network = base.network(tasks, device=META)
    except (WeftError, TypeError, ValueError, RuntimeError) as error:
        raise ExportError(f"{home}: its heads must fit its base model, but do not: {error}") from error
    for name, head in parts.heads.items():
        where = home / "heads" / name / "head.safetensors"
        shapes = {local: tuple(value.shape) for local, value in network.heads[name].named_parameters()}
        odd = sorted(shapes.keys() ^ head.tensors.keys())
        if odd:
            raise ExportError(
                f"{where}: must hold {', '.join(sorted(shapes)) or 'nothing'}, but {odd[0]} is "
                f"{'missing' if odd[0] in shapes else 'there too'}."
            )
        for local, tensor in head.tensors.items():
            check_tensor(local, tensor, shapes[local], where=where)
