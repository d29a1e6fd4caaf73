"""Adapters of methods that PEFT has no folder for: ``adapter.json`` and ``adapter.safetensors``, out and in.

Tensors lie under their canonical paths. What is read may have been tampered with: every option is held against its
method's own form, tensors against the shapes that the options ask for (``Method.restore``), and nothing is executed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from weft.core.parts import AdapterState
from weft.errors import StrategyError
from weft.recipe.names import Name, check_name
from weft.strategy import tensor_file
from weft.strategy.registry import adapter_method

CONFIG_FILE = "adapter.json"
TENSOR_FILE = "adapter.safetensors"


class _Record(BaseModel):
    """``adapter.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1]
    name: Name
    method: str
    sites: dict[str, dict[str, Any]]


def write(folder: Path, state: AdapterState) -> None:
    """Write ``state`` into ``folder``, which is made if it is not there."""
    record = _Record(format=1, name=check_name(state.name), method=state.method, sites=state.config["sites"])
    folder.mkdir(parents=True, exist_ok=True)
    tensor_file.write(folder / TENSOR_FILE, state.tensors)
    (folder / CONFIG_FILE).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> AdapterState:
    """Return the adapter that ``write`` put into ``folder``.

    Raises:
        NameInvalidError: the folder's name is not a plain name.
        StrategyError: not such a folder, an unknown method, or options and tensors that its method does not have.
    """
    name, path = check_name(folder.name), folder / CONFIG_FILE
    try:
        record = _Record.model_validate_json(path.read_bytes())
        at_site = adapter_method(record.method).at_site
        sites = {
            site: at_site.model_validate(one).model_dump(mode="json", exclude_none=True)
            for site, one in record.sites.items()
        }
    except (OSError, ValidationError) as error:
        raise StrategyError(
            f"{path}: must be an adapter as Weft writes it, but is not: {_short(error)}."
        ) from error
    if record.name != name or not sites:
        raise StrategyError(f"{path}: must be of adapter {name} and have sites, but is of {record.name}.")
    tensors = tensor_file.read(folder / TENSOR_FILE)
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise StrategyError(
                f"{folder / TENSOR_FILE}: {key} must hold finite floating-point numbers, but does not."
            )
    return AdapterState(name, record.method, {"sites": sites}, {key: t.float() for key, t in tensors.items()})


def _short(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
    return str(error)
