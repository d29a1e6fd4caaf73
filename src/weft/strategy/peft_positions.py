"""Prompts and prefixes as PEFT's folders, out and in: one tensor ``prompt_embeddings`` for the whole model.

A prompt's is (P, D). A prefix's is (P, 2 L W): keys, then values of the first layer, and so on; a projection is applied
before, as PEFT does when it saves. PEFT gives all layers the same number of positions and knows no gate.

Legend: P virtual positions, D width of embeddings, L layers, W width of all heads' keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from weft.core.parts import AdapterState
from weft.core.view import Site
from weft.errors import StrategyError
from weft.recipe.names import check_name
from weft.strategy import peft_files
from weft.strategy.peft_layout import CONFIG_FILE, TENSOR_FILE, whole_modules
from weft.strategy.prefix import KEY, VALUE, Prefix, plain_tables, sides_of
from weft.strategy.prompt import Prompt

METHODS = frozenset({Prompt.name, Prefix.name})
TENSOR, KEY_PREFIX = "prompt_embeddings", "base_model."
PROMPT, PREFIX = "PROMPT_TUNING", "PREFIX_TUNING"
_LAYER = re.compile(r"layers\.(?P<number>\d+)\.attention\.(?:key|value|qkv)")


def obstacle(state: AdapterState, sites: Sequence[Site]) -> str:
    """Return why PEFT's folder cannot say ``state``, in words that end a sentence; empty where it can.

    Args:
        state: of one of ``METHODS``.
        sites: all of the model that it is for.
    """
    if state.method == Prompt.name:
        return ""
    options: Mapping[str, Mapping[str, Any]] = state.config["sites"]
    if any(one.get("gate") for one in options.values()):
        return "it has gates"
    if set(options) != {site.path for site in sites if _LAYER.fullmatch(site.path)}:
        return "it is not in all layers"
    if len({one["tokens"] for one in options.values()}) > 1:
        return "layers have different numbers of positions"
    return ""


def write(
    folder: Path,
    state: AdapterState,
    *,
    sites: Sequence[Site],
    base: str,
    task_type: str,
    modules_to_save: Mapping[str, Tensor] | None = None,
) -> None:
    """Write ``state`` into ``folder`` so that PEFT loads it.

    Args:
        folder: made if it is not there.
        state: without ``obstacle``.
        sites: all of the model that it is for.
        base: what PEFT shall know the base model by.
        task_type: PEFT's: it decides where PEFT puts positions; ``FEATURE_EXTRACTION`` for a bare trunk.
        modules_to_save: fully trained tensors that travel along, by full parameter name (``classifier.weight``).

    Raises:
        NameInvalidError: the adapter's name is not a plain name.
        StrategyError: PEFT's folder cannot say it.
    """
    name = check_name(state.name)
    if why := obstacle(state, sites):
        raise StrategyError(f"{name}: must be what PEFT's folder can say, but {why}. Use the bundle itself.")
    if state.method == Prompt.name:
        (table,) = state.tensors.values()
        config: dict[str, Any] = {"peft_type": PROMPT, "token_dim": table.shape[1]}
    else:
        tables = plain_tables(state)
        order = [tables[key] for key in _order(state.config["sites"])]
        table = torch.cat([one.detach().float() for one in order], dim=1)
        num_layers = len(order) // 2
        config = {
            "peft_type": PREFIX,
            "prefix_projection": False,
            "num_layers": num_layers,
            "token_dim": table.shape[1] // len(order),
        }
    config |= {
        "num_virtual_tokens": table.shape[0],
        "num_transformer_submodules": 1,
        "base_model_name_or_path": base,
        "task_type": task_type,
        "inference_mode": True,
        "modules_to_save": whole_modules(modules_to_save or {}, ()),
    }
    tensors = {KEY_PREFIX + key: tensor for key, tensor in (modules_to_save or {}).items()} | {TENSOR: table}
    peft_files.save(folder, config, tensors)


def is_here(folder: Path) -> bool:
    """Return whether ``folder`` says that it holds a prompt or a prefix of PEFT's."""
    return peft_files.type_of(folder) in (PROMPT, PREFIX)


def read(folder: Path, *, sites: Sequence[Site], words: str) -> AdapterState:
    """Return the adapter that PEFT (or ``write``) put into ``folder``; named like the folder.

    Args:
        folder: ``is_here``; nothing in it is executed.
        sites: all of the model that it is for.
        words: path of the table of token embeddings.

    Raises:
        NameInvalidError: the folder's name is not a plain name.
        StrategyError: a tensor that fits neither the config nor the model.
    """
    name = check_name(folder.name)
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSOR_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise StrategyError(f"{folder}: must be a folder of PEFT, but cannot be read: {error}.") from error
    table, tokens = tensors.get(TENSOR), config.get("num_virtual_tokens")
    if table is None or len(tensors) > 1 or table.dim() != 2 or table.shape[0] != tokens:
        found = ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in sorted(tensors.items()))
        raise StrategyError(
            f"{folder / TENSOR_FILE}: must hold {TENSOR} of {tokens} positions and nothing else, but holds {found or 'nothing'}."
        )
    if not table.is_floating_point() or not bool(table.isfinite().all()):
        raise StrategyError(
            f"{folder / TENSOR_FILE}: {TENSOR} must hold finite floating-point numbers, but does not."
        )
    if config.get("num_transformer_submodules") not in (None, 1):
        raise StrategyError(f"{folder}: must be for a model of one stack, but is for an encoder-decoder.")
    kinds = {site.path: str(site.kind) for site in sites}
    if config["peft_type"] == PROMPT:
        options = {"tokens": tokens, "kind": kinds[words]}
        return AdapterState(
            name, Prompt.name, {"sites": {words: options}}, {f"{words}.prompt.{name}": table.float()}
        )
    return _prefix(name, table.float(), kinds)


def _prefix(name: str, table: Tensor, kinds: Mapping[str, str]) -> AdapterState:
    places = {
        path: {"tokens": len(table), "kind": kind} for path, kind in kinds.items() if _LAYER.fullmatch(path)
    }
    order = _order(places)
    if not order or table.shape[1] % len(order):
        raise StrategyError(
            f"adapter {name}: {TENSOR} must have one width for keys and values of each of {len(order) // 2} layers, but has "
            f"{table.shape[1]} columns. Use the base model that it was trained on."
        )
    parts = table.chunk(len(order), dim=1)
    tensors = {f"{key}.{name}": part.contiguous() for key, part in zip(order, parts, strict=True)}
    return AdapterState(name, Prefix.name, {"sites": places}, tensors)


def _order(paths: Mapping[str, object]) -> list[str]:
    """Return the tables at ``paths`` in PEFT's order: layer by layer, keys before values."""

    def rank(key: str) -> tuple[int, bool]:
        match = _LAYER.match(key)
        assert match is not None, "a prefix stands at attention"
        return int(match["number"]), key.endswith(VALUE)

    tables = [f"{path}.prefix_{side}" for path in paths for side in sides_of(path)]
    assert all(table.endswith((KEY, VALUE)) for table in tables)
    return sorted(tables, key=rank)
