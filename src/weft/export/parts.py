"""Parts on disk: ``delta.safetensors``, ``adapters/<name>/`` in PEFT's layout, ``heads/<task>/`` (DESIGN section 7)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.core.parts import AdapterState, HeadState, Parts
from weft.core.sites import HEAD_PREFIX
from weft.core.view import ModelView
from weft.errors import ExportError
from weft.recipe.names import check_name
from weft.strategy import peft_layout


def save_parts(folder: Path, parts: Parts, view: ModelView, *, base: str) -> None:
    """Write ``parts`` under ``folder``.

    Args:
        folder: exists; what it holds under the same names is replaced.
        parts: what differs from the base model.
        view: the base network's view, for the raw module names that PEFT's layout needs.
        base: path or id of the base model, as adapters should name it.
    """
    if parts.delta:
        save_tensors(folder / "delta.safetensors", parts.delta)
    raw = {site.path: site.raw for site in view.sites if not site.path.startswith(HEAD_PREFIX)}
    for adapter in parts.adapters:
        peft_layout.write(folder / "adapters" / check_name(adapter.name), adapter, raw=raw, base=base, task_type=None)
    for head in parts.heads.values():
        home = folder / "heads" / check_name(head.task)
        home.mkdir(parents=True, exist_ok=True)
        write_json(home / "head.json", {"task": head.task, "kind": head.kind, "config": dict(head.config)})
        if head.tensors:
            save_tensors(home / "head.safetensors", head.tensors)
    write_json(
        folder / "parts.json",
        {"adapters": [adapter.name for adapter in parts.adapters], "heads": list(parts.heads)},
    )


def load_parts(folder: Path, view: ModelView) -> Parts:
    """Return the parts that ``save_parts`` wrote.

    Raises:
        ExportError: a file is missing or is not what ``parts.json`` says.
    """
    listing = read_json(folder / "parts.json")
    canonical = {site.raw: site.path for site in view.sites if not site.path.startswith(HEAD_PREFIX)}
    delta = load_tensors(folder / "delta.safetensors") if (folder / "delta.safetensors").is_file() else {}
    adapters = [_load_adapter(folder, check_name(name), canonical) for name in listing.get("adapters", [])]
    heads = {name: _load_head(folder / "heads" / check_name(name)) for name in listing.get("heads", [])}
    return Parts(delta=delta, adapters=tuple(adapters), heads=heads)


def _load_adapter(folder: Path, name: str, canonical: Mapping[str, str]) -> AdapterState:
    return peft_layout.read(folder / "adapters" / name, canonical=canonical)


def _load_head(folder: Path) -> HeadState:
    record = read_json(folder / "head.json")
    weights = folder / "head.safetensors"
    tensors = load_tensors(weights) if weights.is_file() else {}
    return HeadState(task=check_name(record["task"]), kind=record["kind"], config=record["config"], tensors=tensors)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write ``tensors`` as one safetensors file that others can read (mode 0644)."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    path.chmod(0o644)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one safetensors file.

    Raises:
        ExportError: not a readable safetensors file.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{path}: must be a whole safetensors file, but reading it says: {error}.") from error


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable UTF-8 JSON."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``.

    Raises:
        ExportError: missing, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: must be a JSON file of a Weft bundle, but {error}.") from error
    if not isinstance(value, dict):
        raise ExportError(f"{path}: must hold a JSON object, but holds a {type(value).__name__}.")
    return value
