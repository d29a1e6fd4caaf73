"""The two files of a PEFT adapter's folder, whatever adapter it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors.torch import save_file
from torch import Tensor

from weft.strategy.peft_layout import CONFIG_FILE, TENSOR_FILE


def save(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write ``config`` and ``tensors`` into ``folder``, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
    save_file(dict(sorted(plain.items())), folder / TENSOR_FILE, metadata={"format": "pt"})
    (folder / TENSOR_FILE).chmod(0o644)  # others may read it, as they may the config
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def type_of(folder: Path) -> Any:
    """Return the ``peft_type`` that ``folder`` says it holds; None where it says none."""
    try:
        config: Any = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", config).get("peft_type") if isinstance(config, dict) else None
