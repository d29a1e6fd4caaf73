"""Adapters as PEFT's folders: ``adapter_config.json`` and ``adapter_model.safetensors``, out and in.

PEFT has one dropout and one orientation of weights for a whole adapter, where Weft has them by site. The config says
the largest dropout and whether any weight is transposed (PEFT puts the latter right by itself); sites that differ are
noted in the metadata of the tensor file, which PEFT passes over, so that what is read back is what was written.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import safe_open
from torch import Tensor

from weft.core.parts import AdapterState
from weft.core.view import SiteKind
from weft.errors import StrategyError
from weft.recipe.names import check_name
from weft.strategy import tensor_file
from weft.strategy.peft_files import CONFIG_FILE, TENSOR_FILE, save

METHODS = frozenset({"lora", "dora", "ia3"})
"""What PEFT's layout can say here; other methods have ``weft.strategy.adapter_layout``."""
KEY_PREFIX = "base_model.model."
NOTES = "weft"

# What says nothing about the function that the saved tensors compute.
_NEUTRAL = frozenset(
    "task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode r target_modules "
    "exclude_modules lora_alpha lora_dropout fan_in_fan_out bias init_lora_weights layers_to_transform layers_pattern "
    "rank_pattern alpha_pattern megatron_core qalora_group_size eva_config ensure_weight_tying use_rslora use_dora feedforward_modules "
    "init_ia3_weights".split()
)
_HEADS = frozenset({"classifier", "score"})  # what PEFT saves whole for classifiers without being asked
_KEYS = {
    "lora_A": "lora_A.weight",
    "lora_B": "lora_B.weight",
    "lora_embedding_A": "lora_embedding_A",
    "lora_embedding_B": "lora_embedding_B",
    "dora_A": "lora_A.weight",
    "dora_B": "lora_B.weight",
    "dora_magnitude": "lora_magnitude_vector",
    "ia3_l": "ia3_l",
}
"""PEFT's name of each of our tables."""
_ANY_KEY = "|".join(re.escape(key) for key in dict.fromkeys(_KEYS.values()))
_PLAIN_INIT = (True, False, None, "gaussian", "eva", "orthogonal")  # others change the base weights as well


def write(
    folder: Path,
    state: AdapterState,
    *,
    raw: Mapping[str, str],
    base: str,
    task_type: str | None,
    prefix: str = "",
    modules_to_save: Mapping[str, Tensor] | None = None,
) -> None:
    """Write ``state`` into ``folder`` so that PEFT loads it.

    Args:
        folder: made if it is not there.
        state: of one of ``METHODS``.
        raw: the model's module name by canonical site path; of all sites, or at least of the adapter's.
        base: what PEFT shall know the base model by.
        task_type: PEFT's (``SEQ_CLS``, ``TOKEN_CLS``, ``CAUSAL_LM``), None for a bare trunk.
        prefix: put before raw names (``bert.`` when the target is an ``AutoModelFor...`` around the trunk).
        modules_to_save: fully trained tensors that travel along, by full parameter name (``classifier.weight``).

    Raises:
        NameInvalidError: the adapter's name is not a plain name.
        StrategyError: of another method, or a site without a raw name.
    """
    check_name(state.name)
    if state.method not in METHODS:
        raise StrategyError(
            f"{state.name}: must be {' or '.join(sorted(METHODS))} to be written in PEFT's layout, but is {state.method}."
        )
    options: Mapping[str, Mapping[str, Any]] = state.config["sites"]
    unnamed = sorted(options.keys() - raw.keys())
    if unnamed:
        raise StrategyError(
            f"{unnamed[0]}: must have a module name to be written in PEFT's layout, but has none."
        )
    names = {path: prefix + raw[path] for path in options}
    whole = dict(modules_to_save or {})
    by_module = {names[path]: at_site for path, at_site in options.items()}
    others = {prefix + name for name in raw.values()} - set(names.values())
    config = (
        _ia3_config(by_module, others=others)
        if state.method == "ia3"
        else _config(by_module, others=others, is_dora=state.method == "dora")
    )
    config |= {
        "base_model_name_or_path": base,
        "task_type": task_type,
        "modules_to_save": whole_modules(whole, names.values()),
    }
    tensors = {KEY_PREFIX + name: tensor for name, tensor in whole.items()} | _keyed(state, names)
    save(folder, config, tensors, notes=_notes(names, options, config))


def _keyed(state: AdapterState, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the adapter's tensors under PEFT's keys; factors of an (IA)3 are a row for inputs, a column for outputs."""
    tensors: dict[str, Tensor] = {}
    for path, tensor in state.tensors.items():
        site, table, _ = path.rsplit(".", 2)
        turned = tensor[None] if state.config["sites"][site].get("side") == "input" else tensor[:, None]
        tensors[f"{KEY_PREFIX}{names[site]}.{_KEYS[table]}"] = turned if table == "ia3_l" else tensor
    return tensors


def _general(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what PEFT's config says of every site alike."""
    kind = SiteKind.CONV1D if config.get("fan_in_fan_out") else SiteKind.LINEAR
    return {"dropout": float(config.get("lora_dropout", 0.0)), "kind": str(kind)}


def _notes(
    names: Mapping[str, str], options: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]
) -> dict[str, str]:
    general = _general(config)
    notes = {
        names[path]: {
            key: one[key]
            for key, value in general.items()
            if one.get(key, value) != value and one["kind"] != SiteKind.EMBEDDING
        }
        for path, one in options.items()
    }
    notes = {module: note for module, note in notes.items() if note}
    return {NOTES: json.dumps(notes, sort_keys=True)} if notes else {}


def _ia3_config(options: Mapping[str, Mapping[str, Any]], *, others: set[str]) -> dict[str, Any]:
    """Return PEFT's config of an (IA)3 for ``options`` by module name."""
    names = sorted(options)
    return {
        "peft_type": "IA3",
        "target_modules": targets(names, others),
        "feedforward_modules": targets([n for n in names if options[n]["side"] == "input"], others),
        "fan_in_fan_out": any(one["kind"] == SiteKind.CONV1D for one in options.values()),
        "init_ia3_weights": True,
        "inference_mode": True,
    }


def _config(options: Mapping[str, Mapping[str, Any]], *, others: set[str], is_dora: bool) -> dict[str, Any]:
    """Return PEFT's config for ``options`` by module name; the most common rank and alpha become the general ones."""
    is_stable = all(one.get("rslora") for one in options.values())
    if (
        not is_stable
    ):  # PEFT has one scaling for all: those that are rank-stable get the alpha that comes to the same
        options = {
            name: {**one, "alpha": one["alpha"] * math.sqrt(one["rank"])} if one.get("rslora") else one
            for name, one in options.items()
        }
    rank = Counter(one["rank"] for one in options.values()).most_common(1)[0][0]
    alpha = Counter(one["alpha"] for one in options.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": _number(alpha),
        "lora_dropout": max(one["dropout"] for one in options.values()),
        "target_modules": targets(sorted(options), others),
        "rank_pattern": {_exactly(name): one["rank"] for name, one in options.items() if one["rank"] != rank},
        "alpha_pattern": {
            _exactly(name): _number(one["alpha"]) for name, one in options.items() if one["alpha"] != alpha
        },
        "fan_in_fan_out": any(one["kind"] == SiteKind.CONV1D for one in options.values()),
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
        "use_dora": is_dora,
        "use_rslora": is_stable,
    }


def targets(names: list[str], others: set[str]) -> list[str] | str:
    """Return ``names``, or a regex where PEFT, which compares the ends of names, would match one of ``others`` too."""
    if any(other.endswith(f".{name}") for other in others for name in names):
        return "|".join(re.escape(name) for name in names)
    return names


def _exactly(name: str) -> str:
    return "^" + re.escape(name)


def _number(value: float) -> float:
    return int(value) if value == int(value) else value


def whole_modules(tensors: Iterable[str], adapted: Iterable[str]) -> list[str] | None:
    """Return the topmost modules that hold ``tensors`` and no adapted module: PEFT replaces them whole."""
    adapted = tuple(adapted)
    modules: dict[str, None] = {}
    for tensor in tensors:
        parts = tensor.split(".")[:-1]
        tops = (".".join(parts[:size]) for size in range(1, len(parts) + 1))
        top = next((t for t in tops if not any(a == t or a.startswith(f"{t}.") for a in adapted)), None)
        if top is None:
            raise StrategyError(
                f"{tensor}: must lie in a module without adapters to be saved whole, but does not."
            )
        modules[top] = None
    return list(modules) or None


def read(folder: Path, *, canonical: Mapping[str, str]) -> AdapterState:
    """Return the LoRA that PEFT (or ``write``) put into ``folder``; named like the folder. A classifier's head stays out.

    Args:
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``; nothing in it is executed.
        canonical: the canonical site path by module name, with the prefix that the folder was written with.

    Raises:
        NameInvalidError: the folder's name is not a plain name.
        StrategyError: not a plain LoRA, or tensors that fit neither its config nor the model.
    """
    name = check_name(folder.name)
    config = _read_config(folder / CONFIG_FILE)
    pairs, notes = _pairs(folder / TENSOR_FILE, canonical, _heads(config)), _read_notes(folder / TENSOR_FILE)
    if config["peft_type"] == "IA3":
        return _read_ia3(folder, config, pairs, notes, canonical)
    word = "dora" if config.get("use_dora") else "lora"
    sites: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for module, factors in pairs.items():
        is_table = "lora_embedding_A" in factors or "lora_embedding_B" in factors
        a, b = ("lora_embedding_A", "lora_embedding_B") if is_table else ("lora_A.weight", "lora_B.weight")
        wanted = {a, b} | ({"lora_magnitude_vector"} if word == "dora" else set())
        if odd := sorted(wanted ^ factors.keys()):
            raise StrategyError(
                f"{folder}: {module} must have {', '.join(sorted(wanted))}, but {odd[0]} is "
                f"{'missing' if odd[0] in wanted else 'there too'}."
            )
        path, rank = canonical[module], _pattern(config, "rank_pattern", "r", module)
        A_RI, B_OR = factors[a], factors[b]
        if A_RI.dim() != 2 or B_OR.dim() != 2 or not A_RI.shape[0] == B_OR.shape[1] == rank:
            raise StrategyError(
                f"{folder}: {module} must have the rank {rank} of its config, but has lora_A {tuple(A_RI.shape)} and "
                f"lora_B {tuple(B_OR.shape)}."
            )
        sites[path] = {
            "rank": rank,
            "alpha": float(_pattern(config, "alpha_pattern", "lora_alpha", module)),
            **_general(config),
            **({"kind": str(SiteKind.EMBEDDING)} if is_table else {}),
            **notes.get(module, {}),
            **({"rslora": True} if config.get("use_rslora") else {}),
        }
        tables = (a, b) if is_table else (f"{word}_A", f"{word}_B")
        for table, tensor in zip(tables, (A_RI, B_OR), strict=True):
            tensors[f"{path}.{table}.{name}"] = tensor.float()
        if word == "dora":
            tensors[f"{path}.dora_magnitude.{name}"] = factors["lora_magnitude_vector"].float().flatten()
    if not sites:
        raise StrategyError(f"{folder / TENSOR_FILE}: must hold at least one adapted module, but holds none.")
    return AdapterState(name, word, {"sites": sites}, tensors)


def _read_ia3(
    folder: Path,
    config: Mapping[str, Any],
    found: Mapping[str, Mapping[str, Tensor]],
    notes: Mapping[str, Mapping[str, Any]],
    canonical: Mapping[str, str],
) -> AdapterState:
    """Return the factors of an (IA)3: a row of them scales inputs, a column outputs."""
    kind = SiteKind.CONV1D if config.get("fan_in_fan_out") else SiteKind.LINEAR
    sites: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for module, factors in found.items():
        factor = factors.get("ia3_l")
        if len(factors) != 1 or factor is None or factor.dim() != 2 or 1 not in factor.shape:
            raise StrategyError(f"{folder}: {module} must have one row or column ia3_l, but has not.")
        side = "input" if factor.shape[0] == 1 else "output"
        sites[canonical[module]] = {"side": side, "kind": notes.get(module, {}).get("kind", str(kind))}
        tensors[f"{canonical[module]}.ia3_l.{folder.name}"] = factor.float().flatten()
    if not sites:
        raise StrategyError(f"{folder / TENSOR_FILE}: must hold at least one adapted module, but holds none.")
    return AdapterState(folder.name, "ia3", {"sites": sites}, tensors)


def _pattern(config: Mapping[str, Any], patterns: str, general: str, module: str) -> Any:
    """Return the value for ``module``: that of the first matching pattern, found as PEFT finds it, or the general one."""
    for pattern, value in config.get(patterns, {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return config[general]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StrategyError(f"{path}: must be a JSON file, but cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise StrategyError(f"{path}: must hold a JSON object, but holds {type(config).__name__}.")
    config = cast(dict[str, Any], config)
    if config.get("peft_type") not in ("LORA", "IA3"):
        raise StrategyError(
            f"{path}: peft_type must be LORA or IA3, but is {config.get('peft_type')!r}. Choices: LORA, IA3."
        )
    if config.get("bias", "none") != "none":
        raise StrategyError(
            f"{path}: bias must be 'none', but is {config['bias']!r}: trained biases are no adapter."
        )
    if config.get("init_lora_weights", True) not in _PLAIN_INIT:
        raise StrategyError(
            f"{path}: init_lora_weights must leave the base weights alone, but is {config['init_lora_weights']!r}. "
            f"Convert the adapter to a plain LoRA with PEFT first."
        )
    for key, value in config.items():
        if value and key not in _NEUTRAL and not (key == "modules_to_save" and _are_heads(value)):
            raise StrategyError(
                f"{path}: must be a plain LoRA, but {key} is {value!r}, which changes what it computes."
            )
    if config["peft_type"] == "LORA":
        _check_numbers(path, config)
    return config


def _check_numbers(path: Path, config: dict[str, Any]) -> None:
    ranks = {"r": config.get("r"), **_mapping(path, config, "rank_pattern")}
    alphas = {"lora_alpha": config.get("lora_alpha"), **_mapping(path, config, "alpha_pattern")}
    for key, value in ranks.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise StrategyError(f"{path}: the rank {key} must be a positive whole number, but is {value!r}.")
    for key, value in alphas.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise StrategyError(f"{path}: the alpha {key} must be a finite number, but is {value!r}.")
    dropout = config.get("lora_dropout", 0.0)
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise StrategyError(f"{path}: lora_dropout must be at least 0 and below 1, but is {dropout!r}.")


def _mapping(path: Path, config: dict[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise StrategyError(f"{path}: {key} must be a mapping, but is {value!r}.")
    patterns = cast(dict[str, Any], value)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise StrategyError(
                f"{path}: {key} must hold regular expressions, but {pattern!r} is not: {error}."
            ) from error
    config[key] = patterns
    return patterns


def _read_notes(path: Path) -> dict[str, dict[str, Any]]:
    """Return what ``write`` noted by module name; empty for PEFT's own files."""
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(NOTES, "{}")
    try:
        notes = json.loads(text)
        for note in notes.values():
            if note.keys() - {"dropout", "kind"} or not 0 <= note.get("dropout", 0.0) < 1:
                raise ValueError(note)
            SiteKind(note.get("kind", SiteKind.LINEAR))
    except (ValueError, TypeError, AttributeError) as error:
        raise StrategyError(
            f"{path}: its notes must be dropout and kind by module, but cannot be read: {error}."
        ) from error
    return notes


def _are_heads(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) and name in _HEADS for name in names)


def _heads(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how the names of tensors begin that are a head's, and not the trunk's."""
    return tuple(f"{KEY_PREFIX}{name}." for name in config.get("modules_to_save") or ())


def _pairs(path: Path, canonical: Mapping[str, str], heads: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """Return the factors by module name; every key of the file is accounted for."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensor_file.read(path).items():
        if key.startswith(heads):
            continue
        match = re.fullmatch(rf"{re.escape(KEY_PREFIX)}(?P<module>.+?)\.(?P<factor>{_ANY_KEY})", key)
        if match is None or match["module"] not in canonical:
            raise StrategyError(
                f"{path}: every tensor must be a factor at a module of this model, but {key!r} is not. "
                f"Use the base model that the adapter was trained on."
            )
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise StrategyError(f"{path}: {key} must hold finite floating-point numbers, but does not.")
        pairs.setdefault(match["module"], {})[match["factor"]] = tensor
    return pairs
