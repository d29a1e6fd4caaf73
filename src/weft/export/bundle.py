"""The bundle: one portable folder that answers every task (DESIGN section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

import weft
from weft.build.network import META, Base, head_values, load_values
from weft.core.network import Network, Trunk
from weft.core.parts import Parts
from weft.core.sites import SiteMap
from weft.errors import ExportError
from weft.export.parts import load_parts, read_json, save_parts, write_json
from weft.model.device import pick_device, pick_precision
from weft.model.folder import ModelFolder, locate
from weft.model.tokenizer import HFTokenizer, load_tokenizer
from weft.recipe.spec import ModelSpec, Precision
from weft.strategy.adapters import restore
from weft.task.base import Task
from weft.task.registry import FAMILIES

FORMAT = 1


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
        return self.sites.network

    @property
    def trunk(self) -> Trunk:
        return cast(Trunk, self.network.trunk)


def write_bundle(
    folder: Path, parts: Parts, *, base: Base, model: ModelSpec, tokenizer: HFTokenizer, about: Mapping[str, Any]
) -> None:
    """Write ``parts`` and all that is needed to use them into ``folder`` (made if need be).

    Args:
        folder: the bundle's folder.
        parts: what the run made.
        base: the pretrained model; it is named with its digest, not copied.
        model: as the recipe says.
        tokenizer: copied into the bundle.
        about: JSON values kept for the reader (recipe digest, scores, ...).
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = model.path if base.folder.name == model.path else str(base.folder.path)
    save_parts(folder, parts, base.sites(base.network({}, device=META)).view, base=name)
    tokenizer.save(folder)
    write_json(
        folder / "weft.json",
        {
            "format": FORMAT,
            "weft": weft.__version__,
            "base": {"path": name, "revision": model.revision, "digest": base.folder.digest},
            "lm_head": base.wants_lm_head,
            "max_tokens": model.max_tokens,
            "tasks": list(parts.heads),
            **about,
        },
    )


def open_bundle(
    folder: Path, *, base: Path | None = None, device: torch.device | None = None, precision: Precision = Precision.AUTO
) -> Bundle:
    """Return the bundle in ``folder``, ready to answer.

    Args:
        folder: a bundle, or a run folder that holds one.
        base: where the base model lies now, if not where the bundle says.
        device: default: GPU where there is one.
        precision: of matrix products.

    Raises:
        ExportError: not a bundle, a newer format, or another base model than it was trained on.
        ModelError: the base model cannot be found or opened.
    """
    home = folder if (folder / "weft.json").is_file() else folder / "bundle"
    if not (home / "weft.json").is_file():
        raise ExportError(f"{folder}: must be a bundle or a finished run, but has no weft.json. Train one first.")
    record = read_json(home / "weft.json")
    if record.get("format") != FORMAT:
        raise ExportError(f"{home}: must have format {FORMAT}, but has {record.get('format')}. Use a matching Weft.")
    where = Base(_base_folder(record, base), wants_lm_head=bool(record["lm_head"]), seed=0)
    sites = where.sites(where.network({}, device=META))
    parts = load_parts(home, sites.view)
    tasks = {name: FAMILIES[head.kind].from_config(name, head.config) for name, head in parts.heads.items()}
    target = device or pick_device()
    network = where.network(tasks, device=target)
    return Bundle(
        folder=home,
        sites=put_parts(where, network, parts),
        parts=parts,
        tasks=tasks,
        tokenizer=load_tokenizer(where.folder, max_tokens=int(record["max_tokens"])),
        base=where,
        dtype=pick_precision(precision, target),
    )


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


def _base_folder(record: Mapping[str, Any], base: Path | None) -> ModelFolder:
    said = record["base"]
    path = said["path"] if base is None else str(base.resolve())
    folder = locate(path, said["revision"] if base is None else None, root=Path.cwd())
    if folder.digest != said["digest"]:
        raise ExportError(
            f"{path}: must be the base model that the bundle was trained on (sha256 {said['digest'][:12]}), but is "
            f"{folder.digest[:12]}. Give the right one with --base."
        )
    return folder
