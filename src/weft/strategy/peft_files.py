"""The two files of a PEFT adapter's folder, whatever adapter it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from weft.strategy import tensor_file

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"


def save(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write ``config`` and ``tensors`` into ``folder``, which is made if it is not there.

    Args:
        folder: of the adapter.
        config: as PEFT has it.
        tensors: by PEFT's names.
        notes: put beside the tensors, where PEFT passes over them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensor_file.write(folder / TENSOR_FILE, tensors, {"format": "pt", **(notes or {})})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def type_of(folder: Path) -> Any:
    """Return the ``peft_type`` that ``folder`` says it holds; None where it says none."""
    try:
        config: Any = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", config).get("peft_type") if isinstance(config, dict) else None
