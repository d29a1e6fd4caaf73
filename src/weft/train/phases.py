"""Which trained parameters move at the moment, where a strategy changes that within a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from weft.core.network import Network
from weft.core.sites import SiteMap
from weft.core.table import ParamTable
from weft.train.optimizer import FusedAdamW


class Phases:
    """Lets the parameters of ``table`` move that are to move in a step, and no others.

    What is not moving has no gradient, and layers below the lowest that moves have no backward pass. A parameter that
    stops moving loses its optimizer state; one that begins has none yet, so that its bias correction begins too.

    Args:
        table: of the stage.
        sites: of its network.
        optimizer: over all trained rows.
        seed: of draws.
        entered: told the paths that move from now on, after each change.
    """

    def __init__(
        self,
        table: ParamTable,
        sites: SiteMap,
        optimizer: FusedAdamW,
        *,
        seed: int,
        entered: Callable[[frozenset[str]], None],
    ) -> None:
        self._table = table
        self._network: Network = sites.network
        parameters = dict(sites.parameters())
        self._parameters: Mapping[str, nn.Parameter] = {
            row.path: parameters[row.path] for row in table.trained()
        }
        self._optimizer = optimizer
        self._seed = seed
        self._entered = entered
        self._now = frozenset(self._parameters)
        self._is_constant = table.is_constant

    def enter(self, *, step: int, fraction: float) -> None:
        """Be ready for one step.

        Args:
            step: its number within the stage, from 0.
            fraction: share of the stage that is done before it.
        """
        if self._is_constant:
            return
        moving = self._table.moving(step=step, fraction=fraction, seed=self._seed)
        if moving == self._now:
            return
        self._optimizer.settle()
        for path in self._now - moving:
            self._parameters[path].requires_grad_(False)
            self._parameters[path].grad = None
            self._optimizer.drop(self._parameters[path])
        for path in moving - self._now:
            self._parameters[path].requires_grad_(True)
        self._now = moving
        self._network.forget_twins()
        self._entered(moving)
