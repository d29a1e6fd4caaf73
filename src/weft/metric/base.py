"""What a metric is: a value from a well-kept library, and row statistics that make its interval cheap and exact.

Legend: N rows, K statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.core.example import Answer

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metric:
    """One number about answers.

    A metric is a function of the SUM of row statistics, so a bootstrap is one matrix product: resample counts
    (B, N) times statistics (N, K), then ``finish``. ``value`` (from the library) and ``finish`` of the plain sum agree.

    Attributes:
        name: as reported (``accuracy``, ``span_f1``).
        value: golds, answers -> float.
        statistics: golds, answers -> (N, K).
        finish: sums (..., K) -> values (...,).
        best: the value of perfect answers (1.0, or 0.0 for errors).
        higher_is_better: the direction.
    """

    name: str
    value: Callable[[Sequence[Any], Sequence[Answer]], float]
    statistics: Callable[[Sequence[Any], Sequence[Answer]], FloatArray]
    finish: Callable[[FloatArray], FloatArray]
    best: float = 1.0
    higher_is_better: bool = True
