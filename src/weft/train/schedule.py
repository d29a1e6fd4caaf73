"""The learning rate over a stage, on the share of the stage that is done: the same for steps, tokens and minutes."""

from __future__ import annotations

import math

from weft.recipe.spec import Schedule


def lr_factor(done: float, *, schedule: Schedule, warmup: float) -> float:
    """Return the factor on every group's peak learning rate, 0 to 1.

    It rises in a straight line from 0 at ``done == 0`` to 1 at ``done == warmup``, then follows ``schedule``:
    ``linear`` and ``cosine`` (half a period; Loshchilov & Hutter 2017, equation 5) fall to 0 at ``done == 1``.

    Args:
        done: share of the stage that is done; beyond 1 counts as 1.
        schedule: what follows the warm-up.
        warmup: share of the stage over which the rate rises, 0 <= warmup < 1.

    Raises:
        ValueError: ``done`` is negative or not a number.

    Example:
        >>> [lr_factor(done, schedule=Schedule.LINEAR, warmup=0.2) for done in (0.1, 0.2, 0.6, 1.0)]
        [0.5, 1.0, 0.5, 0.0]
    """
    if not done >= 0:
        raise ValueError(f"done: must be a share from 0 on, but is {done}.")
    if done < warmup:
        return done / warmup
    rest = (min(done, 1.0) - warmup) / (1 - warmup)
    match schedule:
        case Schedule.LINEAR:
            return 1 - rest
        case Schedule.COSINE:
            return 0.5 * (1 + math.cos(math.pi * rest))
        case Schedule.CONSTANT:
            return 1.0
