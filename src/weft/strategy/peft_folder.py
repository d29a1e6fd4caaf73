"""Adapters of PEFT's own tuners as PEFT's folders, out and in. Those of Weft's own methods: ``weft.strategy.peft_layout``.

What PEFT saves beside trained tensors (random projections, masks) follows from the config, so it is not written. Where
a folder holds it, it must be what the config draws: then what is computed from the config is what was trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from weft.core.parts import AdapterState
from weft.core.view import Site, SiteKind
from weft.errors import StrategyError
from weft.recipe.names import check_name
from weft.strategy import peft_config, peft_files, peft_tuner
from weft.strategy.peft import Peft, common, table_of
from weft.strategy.peft_files import CONFIG_FILE, TENSOR_FILE
from weft.strategy.peft_layout import KEY_PREFIX, targets, whole_modules

METHODS = frozenset({Peft.name})


def write(
    folder: Path,
    state: AdapterState,
    *,
    sites: Sequence[Site],
    base: str,
    task_type: str | None,
    prefix: str = "",
    modules_to_save: Mapping[str, Tensor] | None = None,
) -> None:
    """Write ``state`` into ``folder`` so that PEFT loads it.

    Args:
        folder: made if it is not there.
        state: of one of ``METHODS``.
        sites: of the trunk, at least the adapter's.
        base: what PEFT shall know the base model by.
        task_type: PEFT's (``SEQ_CLS``, ``TOKEN_CLS``, ``CAUSAL_LM``), None for a bare trunk.
        prefix: put before raw names (``bert.`` when the target is an ``AutoModelFor...`` around the trunk).
        modules_to_save: fully trained tensors that travel along, by full parameter name.

    Raises:
        NameInvalidError: the adapter's name is not a plain name.
        StrategyError: it sits at a site that is not among ``sites``.
    """
    name = check_name(state.name)
    word, options = common(state.config["sites"], name)
    known = {site.path: site for site in sites}
    tensors: dict[str, Tensor] = dict(modules_to_save or {})
    names: list[str] = []
    for path in state.config["sites"]:
        if path not in known:
            raise StrategyError(
                f"{path}: must be a site of the model that adapter {name} is for, but is not."
            )
        names.append(prefix + known[path].raw)
        for local in peft_tuner.found(word, options, known[path]).shapes:
            tensors[f"{names[-1]}.{local}"] = state.tensors[f"{path}.{table_of(local)}.{name}"]
    others = {prefix + site.raw for site in sites} - set(names)
    config = peft_config.written_config(word, options, targets(sorted(names), others)) | {
        "base_model_name_or_path": base,
        "task_type": task_type,
        "modules_to_save": whole_modules(modules_to_save or {}, names),
    }
    if "fan_in_fan_out" in config:
        config["fan_in_fan_out"] = any(known[path].kind is SiteKind.CONV1D for path in state.config["sites"])
    peft_files.save(folder, config, {KEY_PREFIX + key: tensor for key, tensor in tensors.items()})


def is_here(folder: Path) -> bool:
    """Return whether ``folder`` says that it holds an adapter of a tuner that Weft has no method of its own for."""
    return peft_files.type_of(folder) in peft_config.names()


def read(folder: Path, *, sites: Mapping[str, Site]) -> AdapterState:
    """Return the adapter that PEFT (or ``write``) put into ``folder``; named like the folder.

    Args:
        folder: ``is_here``; nothing in it is executed.
        sites: by module name, with the prefix that the folder was written with.

    Raises:
        NameInvalidError: the folder's name is not a plain name.
        StrategyError: options that change more than its sites, or tensors that fit neither them nor the model.
    """
    name = check_name(folder.name)
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        word, options = peft_config.read_config(config)
        tensors = load_file(folder / TENSOR_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise StrategyError(f"{folder}: must be an adapter as PEFT writes it, but: {error}") from error
    by_module, others = _sorted(tensors, sites)
    if not by_module:
        raise StrategyError(f"{folder / TENSOR_FILE}: must hold at least one adapted module, but holds none.")
    found: dict[str, Tensor] = {}
    for raw, own in by_module.items():
        shapes = peft_tuner.found(word, options, sites[raw]).shapes
        for local, tensor in own.items():
            if local not in shapes:
                others[f"{raw}.{local}"] = tensor
                continue
            if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
                raise StrategyError(f"{folder}: {raw}.{local} must hold finite numbers, but does not.")
            found[f"{sites[raw].path}.{table_of(local)}.{name}"] = tensor.float()
    here = [site for raw, site in sites.items() if raw in by_module]
    if others:
        _check_derived(folder, others, peft_tuner.derived(word, options, here))
    at_site = {"method": word, "options": options}
    return AdapterState(
        name, Peft.name, {"sites": {site.path: {**at_site, "kind": str(site.kind)} for site in here}}, found
    )


def _sorted(
    tensors: Mapping[str, Tensor], sites: Mapping[str, Site]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Return tensors by module and local name, and those of no module."""
    by_module: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        parts = key.removeprefix(KEY_PREFIX).split(".")
        raws = (".".join(parts[:size]) for size in range(len(parts) - 1, 0, -1))
        raw = next((raw for raw in raws if raw in sites), None)
        if raw is None:
            others[key.removeprefix(KEY_PREFIX)] = tensor
        else:
            by_module.setdefault(raw, {})[".".join(parts)[len(raw) + 1 :]] = tensor
    return by_module, others


def _check_derived(folder: Path, others: Mapping[str, Tensor], drawn: Mapping[str, Tensor]) -> None:
    for key, tensor in others.items():
        mine = drawn.get(key)
        if mine is None or mine.shape != tensor.shape or not torch.equal(mine.to(tensor.dtype), tensor):
            raise StrategyError(
                f"{folder}: {key} must be what the adapter's config draws at modules of this model, but is not. "
                f"Use its own base model, and save it with a fixed seed."
            )
