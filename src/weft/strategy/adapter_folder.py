"""Adapters in folders, of whatever layout: Weft's own, PEFT's (LoRA, (IA)3, positions, any tuner), AdapterHub's older one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from weft.core.parts import AdapterState
from weft.core.sites import HEAD_PREFIX
from weft.core.view import ModelView, Site
from weft.strategy import adapter_layout, adapterhub_layout, peft_folder, peft_layout, peft_positions


def read_folder(folder: Path, view: ModelView, *, prefix: str = "") -> AdapterState:
    """Return the adapter in ``folder``, named like it; nothing in it is executed.

    Args:
        folder: of any layout that is known.
        view: of the base model that the adapter is for.
        prefix: what transformers calls a trunk inside of a model with a head (``bert``): names of modules may have it, as
            an adapter may have been trained on either.

    Raises:
        NameInvalidError: the folder's name is not a plain name.
        StrategyError: not an adapter that Weft has, or not of this model.
    """
    sites = _by_module(view, prefix)
    if (folder / adapter_layout.CONFIG_FILE).is_file():
        return adapter_layout.read(folder)
    if peft_folder.is_here(folder):
        return peft_folder.read(folder, sites=sites)
    if peft_positions.is_here(folder):
        return peft_positions.read(folder, sites=view.sites, words=view.words)
    if adapterhub_layout.is_here(folder):
        return adapterhub_layout.read(folder, sites=sites)
    return peft_layout.read(folder, canonical={raw: site.path for raw, site in sites.items()})


def _by_module(view: ModelView, prefix: str) -> Mapping[str, Site]:
    """Return the trunk's sites by the names that their modules have with and without ``prefix``."""
    own = {site.raw: site for site in view.sites if not site.path.startswith(HEAD_PREFIX)}
    if not prefix:
        return own
    inside = f"{prefix}."
    longer = {inside + raw: site for raw, site in own.items()}
    shorter = {raw.removeprefix(inside): site for raw, site in own.items()}
    return {**longer, **shorter, **own}
