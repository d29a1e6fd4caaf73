"""The tensors of an adapter as one safetensors file: nothing in it is executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.errors import StrategyError


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write ``tensors``, which may share memory, in the order of their names; others may read the file."""
    copies = {name: tensors[name].detach().to("cpu", copy=True).contiguous() for name in sorted(tensors)}
    save_file(copies, path, metadata=metadata)
    path.chmod(0o644)  # safetensors makes files that only their owner can read


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file.

    Raises:
        StrategyError: it is none that can be read.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StrategyError(f"{path}: must be a safetensors file, but cannot be read: {error}.") from error
