"""Which tuners the installed ``peft`` has, and their options: checked before anything is built.

``peft`` is imported only when something is asked of it: it takes seconds to load.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, cast

from weft.errors import StrategyError, nearest

OWN: Mapping[str, str] = MappingProxyType({"LORA": "lora", "IA3": "ia3"})
"""PEFT's types whose arithmetic and folders Weft has itself, by method."""
_NOT_HERE = frozenset(
    {"ADALORA", "ADAMSS", "ADAPTION_PROMPT", "SHADOW"}  # called between steps, or built around whole models
)
_DECIDED = frozenset(
    "task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode target_modules "
    "exclude_modules modules_to_save layers_to_transform layers_pattern fan_in_fan_out bias target_parameters "
    "megatron_config megatron_core trainable_token_indices save_projection".split()
)
"""Fields of PEFT's configs that rules, sites or the folder decide."""
_SILENT = frozenset(
    "task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode target_modules "
    "exclude_modules layers_to_transform layers_pattern fan_in_fan_out save_projection megatron_core".split()
)
"""Those of them that say nothing of the function which saved tensors compute."""
_LARGEST = 65536
_FAILURES = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    RuntimeError,
    ImportError,
    OSError,
)
"""What PEFT raises where it cannot do something."""


def names() -> tuple[str, ...]:
    """Return the tuners that edit modules and that Weft has no method of its own for, as PEFT calls them."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    tuners = {str(one.value) for one in PEFT_TYPE_TO_TUNER_MAPPING} - OWN.keys() - _NOT_HERE
    configs = {str(one.value): kind for one, kind in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    return tuple(sorted(name for name in tuners if "target_modules" in _fields(configs[name])))


def checked(word: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return PEFT's name of a tuner and its options, both as PEFT writes them.

    Two defaults differ: what is drawn at random is drawn from a fixed seed, and where PEFT leaves it open, the start is
    the model's own function.

    Raises:
        StrategyError: no such tuner, unknown options, or values that its config refuses.
    """
    word = word.upper()
    if word in OWN:
        raise StrategyError(
            f"method: must be a tuner that Weft does not have itself, but is {word}. Write train: {OWN[word]}."
        )
    known = names()
    if word not in known:
        raise StrategyError(
            f"method: must be a tuner of the installed peft that edits modules, but is {word!r}. {nearest(word, known)} "
            f"What puts virtual tokens in front of a text is a strategy of its own (weft methods)."
        )
    fields = {name: field for name, field in _fields(_config_type(word)).items() if _is_open(name)}
    for key, value in options.items():
        if key not in fields:
            raise StrategyError(f"options: {key!r} must be an option of {word}. {nearest(key, fields)}")
        _check_value(word, key, value, fields[key].default)
    chosen = dict(options)
    if "random_seed" in fields and fields["random_seed"].default is None:
        chosen.setdefault("random_seed", 0)
    if "init_weights" in fields and fields["init_weights"].default in (False, "xavier_uniform"):
        chosen.setdefault("init_weights", True)
    make_config(word, chosen, ["x"])
    return word, {key: value for key, value in chosen.items() if value != fields[key].default}


def read_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the tuner and its options that an ``adapter_config.json`` says, as ``checked`` does.

    Raises:
        StrategyError: it says more than what one tuner does at its sites.
    """
    word = config.get("peft_type")
    if word not in names():
        raise StrategyError(f"peft_type: must be a tuner of the installed peft, but is {word!r}.")
    fields = {name for name in _fields(_config_type(word)) if _is_open(name)}
    for key, value in config.items():
        is_plain = not value or value == "none" or key in _SILENT
        if key not in fields and not is_plain:
            raise StrategyError(
                f"{key}: must be empty in a plain {word} adapter, but is {value!r}, which changes what it computes."
            )
    return checked(word, {key: value for key, value in config.items() if key in fields and value is not None})


def written_config(word: str, options: Mapping[str, Any], targets: list[str] | str) -> dict[str, Any]:
    """Return the fields of PEFT's config, as JSON values; what it draws from a seed is left to be drawn again."""
    kind = _config_type(word)
    projections = {"save_projection": False} if "save_projection" in _fields(kind) else {}
    with as_ours(f"options of {word}"):
        made = kind(**options, **projections, target_modules=targets, inference_mode=True).to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in made.items()}


def _is_open(name: str) -> bool:
    return name not in _DECIDED and not name.endswith("_pattern")


def _check_value(word: str, key: str, value: Any, default: Any) -> None:
    """Refuse what is no number, word or list of them, and what is of another type than the default."""
    simple = (bool, int, float, str)
    many: list[Any] = cast(list[Any], value) if isinstance(value, list) else [value]
    is_known = all(one is None or isinstance(one, simple) for one in many)
    if is_known and isinstance(default, bool | int | float) and not isinstance(value, str | bool | None):
        is_known = not isinstance(default, bool) and isinstance(value, int | float)
        is_known = is_known and not (isinstance(default, int) and isinstance(value, float))
    elif is_known and isinstance(default, int | float) and not isinstance(default, bool):
        is_known = value is None
    is_seed = "seed" in key or "prng" in key
    if is_known and not is_seed and any(isinstance(one, int | float) and abs(one) > _LARGEST for one in many):
        raise StrategyError(f"options: {key} of {word} must be at most {_LARGEST}, but is {value!r}.")
    if not is_known:
        raise StrategyError(
            f"options: {key} of {word} must be like its default {default!r}, but is {value!r}. Write such a value."
        )


def _config_type(word: str) -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(word)]


def _fields(config: Any) -> dict[str, Any]:
    return {field.name: field for field in dataclasses.fields(config)}


def make_config(word: str, options: Mapping[str, Any], targets: Sequence[str]) -> Any:
    """Return PEFT's config of a tuner for modules called ``targets``."""
    with as_ours(f"options of {word}"):
        return _config_type(word)(**options, target_modules=list(targets))


@contextmanager
def as_ours(what: str) -> Generator[None]:
    """Turn PEFT's warnings into silence and its errors into ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except StrategyError:
        raise
    except _FAILURES as error:
        said = " ".join(str(error).split())
        raise StrategyError(
            f"{what}: must be what the installed peft can do, but peft says: {said or type(error).__name__}"
        ) from error
