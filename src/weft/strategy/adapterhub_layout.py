"""Bottleneck adapters of AdapterHub's older layout: ``adapter_config.json`` and safetensors of the ``adapters`` library, read.

What its configurations say is not always what their names promise: with ``original_ln_before`` an adapter reads what the
block's norm makes of output and residual (Weft's form ``normed``), without it the output itself. Each setting that
Weft's adapters cannot say is refused by name. Weights that only pickle can read are not read.

Source: the ``adapters`` library (arXiv:2311.11077), its ``BnConfig``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from torch import Tensor

from weft.core.parts import AdapterState
from weft.core.view import Site
from weft.errors import StrategyError, nearest
from weft.recipe.names import check_name
from weft.strategy import tensor_file
from weft.strategy.bottleneck import Bottleneck, Form

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter.safetensors"
PICKLE_FILE = "pytorch_adapter.bin"
MODEL_TYPES = frozenset({"bert", "roberta", "xlm-roberta"})
_ACTIVATIONS = MappingProxyType(
    {"relu": "relu", "gelu": "gelu", "swish": "silu", "silu": "silu", "tanh": "tanh"}
)
_NEUTRAL: Mapping[str, Any] = MappingProxyType(
    {
        "original_ln_after": True,
        "residual_before_ln": True,
        "ln_before": False,
        "ln_after": False,
        "cross_adapter": False,
        "inv_adapter": None,
        "phm_layer": False,
        "use_gating": False,
        "stochastic_depth": 0.0,
    }
)
"""The settings with which an adapter is two products and an activation, added to what the block gives."""
_KEY = re.compile(
    r"(?:\w+\.)??(?P<block>encoder\.layer\.\d+\.(?:attention\.)?output)\."
    r"(?P<holder>adapters|(?:layer|attention)_(?:text_task|text_lang)_adapters)\.(?P<adapter>[^.]+)\."
    r"(?P<part>adapter_down\.0\.weight|adapter_down\.0\.bias|adapter_up\.weight|adapter_up\.bias)"
)
_TABLES = MappingProxyType(
    {
        "adapter_down.0.weight": "bottleneck_down",
        "adapter_down.0.bias": "bottleneck_down_bias",
        "adapter_up.weight": "bottleneck_up",
        "adapter_up.bias": "bottleneck_up_bias",
    }
)


def is_here(folder: Path) -> bool:
    """Return whether ``folder`` holds an adapter of the ``adapters`` library."""
    try:
        config: Any = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "config" in config and "peft_type" not in config


def read(folder: Path, *, sites: Mapping[str, Site]) -> AdapterState:
    """Return the adapter in ``folder``, named like it; nothing in it is executed.

    Args:
        folder: ``is_here``.
        sites: of a BERT or RoBERTa, by module name.

    Raises:
        NameInvalidError: the folder's name is not a plain name.
        StrategyError: a setting that Weft's adapters do not have, pickled weights, or tensors that fit no site.
    """
    name = check_name(folder.name)
    about: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if about.get("model_type") not in MODEL_TYPES:
        raise StrategyError(
            f"{folder}: model_type must be one whose adapters sit where Weft's do, but is {about.get('model_type')!r}. "
            f"{nearest(str(about.get('model_type')), MODEL_TYPES)}"
        )
    options = _options(folder, about["config"])
    by_site: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _tensors(folder).items():
        match = _KEY.fullmatch(key)
        raw = "" if match is None else f"{match['block']}.dense"
        if match is None or raw not in sites:
            raise StrategyError(
                f"{folder}: every tensor must be of a bottleneck adapter at a site of this model, but {key!r} is not."
            )
        if match["holder"] != "adapters" and options["activation"] == "gelu":
            raise StrategyError(
                f"{folder}: non_linearity must be clear, but in a file as old as {key!r} gelu may be another function than today. "
                f"Load and save it with the library first."
            )
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise StrategyError(f"{folder}: {key} must hold finite numbers, but does not.")
        by_site.setdefault(raw, {})[_TABLES[match["part"]]] = tensor.float()
    return _state(folder, name, options, {sites[raw]: own for raw, own in by_site.items()})


def _state(
    folder: Path, name: str, options: Mapping[str, Any], found: Mapping[Site, Mapping[str, Tensor]]
) -> AdapterState:
    at_sites: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for site, own in found.items():
        missing = sorted(set(_TABLES.values()) - own.keys())
        if missing:
            raise StrategyError(f"{folder}: {site.path} must have {missing[0]}, but it is missing.")
        if site.path.endswith("attention.output") and options["form"] != Form.HOULSBY:
            raise StrategyError(
                f"{folder}: mh_adapter must be false with original_ln_before or is_parallel, but {site.path} has one. "
                f"Weft has such adapters at the feed-forward block alone."
            )
        size = own["bottleneck_down"].shape[0]
        at_sites[site.path] = {**options, "size": size, "kind": str(site.kind)}
        tensors |= {f"{site.path}.{table}.{name}": tensor for table, tensor in own.items()}
    if not at_sites:
        raise StrategyError(f"{folder}: must hold at least one adapter, but holds none.")
    return AdapterState(name, Bottleneck.name, {"sites": at_sites}, tensors)


def _options(folder: Path, config: Any) -> dict[str, Any]:
    """Return form, activation and scale that the library's configuration says."""
    if not isinstance(config, dict) or "non_linearity" not in config:
        raise StrategyError(
            f"{folder}: config must be that of a bottleneck adapter (with non_linearity), but is {config!r}. "
            f"Prefixes, LoRA and unions of the library are not read."
        )
    said = cast("dict[str, Any]", config)
    for key, wanted in _NEUTRAL.items():
        if said.get(key, wanted) != wanted:
            raise StrategyError(
                f"{folder}: {key} must be {json.dumps(wanted)}, but is {json.dumps(said[key])}: Weft has no such adapter."
            )
    activation, scale = str(said["non_linearity"]).lower(), said.get("scaling", 1.0)
    if activation not in _ACTIVATIONS:
        raise StrategyError(
            f"{folder}: non_linearity must be known here, but is {activation!r}. {nearest(activation, _ACTIVATIONS)}"
        )
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= 1000:
        raise StrategyError(f"{folder}: scaling must be a number above 0, but is {scale!r}.")
    form = Form.HOULSBY if said.get("mh_adapter") else Form.PFEIFFER
    if said.get("original_ln_before"):
        form = Form.NORMED
    if said.get("is_parallel"):
        form = Form.PARALLEL
    return {"form": str(form), "activation": _ACTIVATIONS[activation], "scale": float(scale)}


def _tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / TENSOR_FILE
    if not path.is_file() and (folder / PICKLE_FILE).is_file():
        raise StrategyError(
            f"{folder / PICKLE_FILE}: must be safetensors to be read, but is pickle, which can run code. Where you trust it, save "
            f"what torch.load(..., weights_only=True) gives with safetensors.torch.save_file as {TENSOR_FILE}."
        )
    return tensor_file.read(path)
