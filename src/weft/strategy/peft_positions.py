"""Prompts and prefixes as PEFT's folders, out and in: one tensor ``prompt_embeddings`` for the whole model.

A prompt's is (P, D). A prefix's is (P, 2 L W): keys, then values of the first layer, and so on; a projection is applied
before, as PEFT does when it saves. PEFT gives all layers the same number of positions and knows no gate.

On an encoder-decoder PEFT's prefix stands in front of the decoder's own tokens alone, and its prompt in front of the
encoder's. Of the N pairs of keys and values in the folder it gives layer i the pair 2 i modulo N (``PeftModel.get_prompt``
cuts twice the pairs, end to end, into L parts and takes the first pair of each): with its own N = L, where L is even,
every other pair is used by two layers and the rest by none. An odd N gives each layer its own, so that is what is written.

Legend: P virtual positions, D width of embeddings, L layers, W width of all heads' keys, N pairs of keys and values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
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
from weft.strategy.peft_files import CONFIG_FILE, TENSOR_FILE
from weft.strategy.peft_layout import whole_modules
from weft.strategy.prefix import KEY, VALUE, Prefix, plain_tables, sides_of
from weft.strategy.prompt import Prompt

METHODS = frozenset({Prompt.name, Prefix.name})
TENSOR, KEY_PREFIX = "prompt_embeddings", "base_model."
PROMPT, PREFIX, TWO_STACKS = "PROMPT_TUNING", "PREFIX_TUNING", "SEQ_2_SEQ_LM"
_DECODER = "decoder."
_LAYER = re.compile(
    r"(?P<stack>(?:encoder\.|decoder\.)?)layers\.(?P<number>\d+)\.attention\.(?:key|value|qkv)"
)


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
    places = _places(sites)
    if _has_two(sites) and not set(options) <= places.keys():
        return "PEFT's stands in front of a decoder's own tokens alone (sites: decoder.self_attention)"
    if set(options) != places.keys():
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
        pairs = _pairs(plain_tables(state), state.config["sites"])
        if _has_two(sites):
            pairs = _cut_twice(pairs)
        table = torch.cat([one.detach().float() for pair in pairs for one in pair], dim=1)
        config = {
            "peft_type": PREFIX,
            "prefix_projection": False,
            "num_layers": len(pairs),
            "token_dim": table.shape[1] // (2 * len(pairs)),
        }
    config |= {
        "num_virtual_tokens": table.shape[0],
        "num_transformer_submodules": 2 if _has_two(sites) and state.method == Prefix.name else 1,
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
    table, tokens = _table(folder, config, tensors), config["num_virtual_tokens"]
    kinds = {site.path: str(site.kind) for site in sites}
    num_stacks = _num_stacks(config)
    if num_stacks != 1 and not _has_two(sites):
        raise StrategyError(f"{folder}: must be for a model of one stack, but is for an encoder-decoder.")
    if config["peft_type"] == PROMPT:
        options = {"tokens": tokens, "kind": kinds[words]}
        tensor = table[:tokens].float()  # PEFT's encoder reads these, and nobody the others
        return AdapterState(
            name, Prompt.name, {"sites": {words: options}}, {f"{words}.prompt.{name}": tensor}
        )
    places = {path: {"tokens": tokens, "kind": kinds[path]} for path in _places(sites)}
    if _has_two(sites) and (not places or num_stacks == 1):
        raise StrategyError(
            f"{folder}: must be for a decoder that sees its encoder's states, which this model has or which PEFT says "
            f"(num_transformer_submodules: 2), but is not. Use the model that it was trained on, with a task that writes."
        )
    return _prefix(folder, table.float(), places, num_pairs=config.get("num_layers"))


def _table(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the one tensor in ``folder``, of as many positions as its config says."""
    table, tokens = tensors.get(TENSOR), config.get("num_virtual_tokens")
    counts = [tokens]
    if config["peft_type"] == PROMPT and isinstance(tokens, int):
        counts.append(tokens * _num_stacks(config))
    if table is None or len(tensors) > 1 or table.dim() != 2 or table.shape[0] not in counts:
        found = ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in sorted(tensors.items()))
        raise StrategyError(
            f"{folder / TENSOR_FILE}: must hold {TENSOR} of {tokens} positions and nothing else, but holds {found or 'nothing'}."
        )
    if not table.is_floating_point() or not bool(table.isfinite().all()):
        raise StrategyError(
            f"{folder / TENSOR_FILE}: {TENSOR} must hold finite floating-point numbers, but does not."
        )
    return table


def _num_stacks(config: Mapping[str, Any]) -> Any:
    """Return how many stacks PEFT counts: what it was told, else what follows from the kind of task."""
    return config.get("num_transformer_submodules") or (2 if config.get("task_type") == TWO_STACKS else 1)


def _prefix(
    folder: Path, table: Tensor, places: Mapping[str, Mapping[str, Any]], *, num_pairs: Any
) -> AdapterState:
    name, layers = folder.name, len({_number(path) for path in places})
    has_two = any(path.startswith(_DECODER) for path in places)
    count = num_pairs if has_two else layers
    if not isinstance(count, int) or count < max(layers, 1) or table.shape[1] % (2 * count):
        raise StrategyError(
            f"adapter {name}: {TENSOR} must have one width for keys and values of each of {layers} layers, but has "
            f"{table.shape[1]} columns. Use the base model that it was trained on."
        )
    parts = table.chunk(2 * count, dim=1)
    tensors: dict[str, Tensor] = {}
    for path in places:
        number = _number(path)
        pair = 2 * number % count if has_two else number
        for side in sides_of(path):
            part = parts[2 * pair + (KEY, VALUE).index(side)]
            tensors[f"{path}.prefix_{side}.{name}"] = part.contiguous()
    return AdapterState(name, Prefix.name, {"sites": dict(places)}, tensors)


def _pairs(tables: Mapping[str, Tensor], paths: Iterable[str]) -> list[tuple[Tensor, Tensor]]:
    """Return keys and values layer by layer."""
    found: dict[int, dict[str, Tensor]] = {}
    for path in paths:
        for side in sides_of(path):
            found.setdefault(_number(path), {})[side] = tables[f"{path}.prefix_{side}"]
    return [(found[number][KEY], found[number][VALUE]) for number in sorted(found)]


def _cut_twice(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Return an odd number of pairs such that PEFT takes for each layer of a decoder what stands at its place in ``pairs``."""
    count = len(pairs) | 1
    nothing = (torch.zeros_like(pairs[0][0]), torch.zeros_like(pairs[0][1]))
    by_place = {2 * layer % count: pair for layer, pair in enumerate(pairs)}
    return [by_place.get(place, nothing) for place in range(count)]


def _places(sites: Sequence[Site]) -> dict[str, Site]:
    """Return the sites where PEFT puts a prefix: of the only stack, or of a decoder beside an encoder."""
    stack = _DECODER if _has_two(sites) else ""
    matches = ((_LAYER.fullmatch(site.path), site) for site in sites)
    return {site.path: site for match, site in matches if match is not None and match["stack"] == stack}


def _has_two(sites: Sequence[Site]) -> bool:
    """Return whether a model is an encoder-decoder, or the encoder of one."""
    return any(
        match["stack"] for match in (_LAYER.fullmatch(site.path) for site in sites) if match is not None
    )


def _number(path: str) -> int:
    match = _LAYER.fullmatch(path)
    assert match is not None, "a prefix stands at attention"
    return int(match["number"])
