"""What of a pass is kept for its gradient: everything where it fits into memory, else as much less as it takes."""

from __future__ import annotations

from collections.abc import Callable

from weft.errors import ModelError
from weft.recipe.spec import Activations

_SHARE = 0.9  # of the memory: the rest is for what an estimate does not know
_LESS = (Activations.KEEP, Activations.RECOMPUTE, Activations.OFFLOAD)


def choose(
    asked: Activations,
    needed: Callable[[Activations], int],
    *,
    memory_bytes: int,
    is_gpu: bool,
    recomputes: bool = True,
) -> Activations:
    """Return what is kept.

    Args:
        asked: by the stage; ``AUTO`` for the most that fits.
        needed: bytes that a stage takes at its peak if it keeps so much.
        memory_bytes: of the device.
        is_gpu: whether there is a host's memory besides, which ``OFFLOAD`` could use.
        recomputes: whether the trunk's layers can run again; else everything is kept.

    Raises:
        ModelError: less is asked for than a trunk keeps whose layers cannot run again.

    Example:
        >>> choose(Activations.AUTO, {"keep": 12, "recompute": 5}.__getitem__, memory_bytes=10, is_gpu=False)
        <Activations.RECOMPUTE: 'recompute'>
    """
    if not recomputes:
        if asked not in (Activations.AUTO, Activations.KEEP):
            raise ModelError(
                f"activations: must be keep, as the layers of this model are not known one by one, but is {asked}. "
                f"Remove it, or lower the stage's budget."
            )
        return Activations.KEEP
    if asked is not Activations.AUTO:
        return asked
    choices = _LESS if is_gpu else _LESS[:-1]
    return next((how for how in choices if needed(how) <= _SHARE * memory_bytes), choices[-1])
