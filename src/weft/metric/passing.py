"""pass@k: the share of rows that some of k programs solves, from answers whose tests were run."""

from __future__ import annotations

from math import comb
from typing import Any

from weft.core.example import Answer
from weft.errors import DataError
from weft.metric.base import Metric, mean_metric, mean_of

NUM_RUN, NUM_PASSED = "programs", "passed"
"""Under these names ``Answer.extra`` says how many programs were run and how many of them passed."""


def pass_at(k: int) -> Metric:
    """Return the mean over rows of the chance that one of ``k`` programs, drawn from those that were run, passes."""

    def row_score(_gold: Any, answer: Answer) -> float:
        if NUM_RUN not in answer.extra:
            raise DataError(
                f"pass@{k}: answers must have been run against their tests, but were not. Running generated code must be "
                f"allowed: execute: true in the recipe, --set TASK.execute=true with a bundle."
            )
        return chance(answer.extra[NUM_RUN], answer.extra[NUM_PASSED], k)

    return mean_metric(f"pass@{k}", mean_of(row_score), row_score)


def chance(num_run: int, num_passed: int, k: int) -> float:
    """Return the unbiased estimate of pass@k: 1 - C(n - c, k) / C(n, k).

    Source: Chen et al. 2021, Evaluating large language models trained on code, equation 1 (arXiv:2107.03374).

    Raises:
        ValueError: fewer than ``k`` programs were run.

    Example:
        >>> chance(4, 1, 1), chance(4, 1, 2), chance(4, 3, 2)
        (0.25, 0.5, 1.0)
    """
    if num_run < k:
        raise ValueError(f"pass@{k}: needs {k} programs a row at least, but has {num_run}. Draw more.")
    return 1 - comb(num_run - num_passed, k) / comb(num_run, k)
