"""A large embedding table in training: a step touches the rows it looks up, the others get their updates when they are.

AdamW moves every row at every step, by its moments and by decay, also rows without a gradient. Rows that are not
looked up can wait: the updates they miss are replayed, bit for bit, before they are read again.

Legend: V rows of the table, R rows of a step, D width, T tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from weft.core.twins import Twin
from weft.native.adamw import Step
from weft.native.table import History, Table, catch_up, update_rows

LEAST_ROWS = 2048  # below, updating the whole table costs less than finding the rows


class LazyRows:
    """The optimizer's side of one embedding table whose gradients are sparse.

    Args:
        module: the embedding, on the CPU, as it is outside of ``computing``: its fp32 weight (V, D) is the master. Its
            gradients become sparse, and rows are brought up to date as it looks them up.
    """

    def __init__(self, module: nn.Embedding) -> None:
        self.master = module.weight
        self._table: Table | None = None
        self._twin: Twin | None = None
        self._history = History()
        module.sparse = True
        module.register_forward_pre_hook(self._before_look_up)

    @property
    def count(self) -> int:
        """Steps taken."""
        return self._history.num_steps

    def begin(self, state: dict[str, Any], twin: Twin | None, *, count: int) -> None:
        """Work on these moments, which have had ``count`` steps; a table at work goes on."""
        if self._table is not None and self._table.exp_avg is state["exp_avg"] and self._twin is twin:
            return
        assert self._history.base == self._history.num_steps, (
            "a table is settled before its state is replaced"
        )
        seen = torch.full((self.master.shape[0],), count, dtype=torch.int32)
        copy = None if twin is None else twin.copy.detach()
        self._table = Table(self.master.detach(), state["exp_avg"], state["exp_avg_sq"], seen, copy)
        self._history = History(base=count, num_steps=count)
        self._twin = twin

    def update(self, rows_R: Tensor, grads_RD: Tensor, step: Step, *, grad_scale: float) -> None:
        """Take one step with these gradients; all other rows have none and wait."""
        assert self._table is not None, "begin comes first"
        self._history.append(step)
        update_rows(self._table, rows_R, grads_RD, history=self._history, grad_scale=grad_scale)
        self._wrote()

    def settle(self) -> None:
        """Bring every row up to date."""
        if self._table is not None and self._history.num_steps > self._history.base:
            catch_up(self._table, None, self._history)
            self._history.restart()
            self._wrote()

    def _before_look_up(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        del module
        if self._table is not None and self._history.num_steps > self._history.base:
            catch_up(self._table, torch.unique(inputs[0]), self._history)
            self._wrote()

    def _wrote(self) -> None:
        torch.autograd.graph.increment_version(self.master)
        if self._twin is not None:
            self._twin.kept()


def summed(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a sparse gradient, rising, and the sum of each row's gradients in fp32, (R,) and (R, D)."""
    rows_R, place_T = torch.unique(grad._indices()[0], return_inverse=True)
    values_TD = grad._values().float()
    return rows_R, values_TD.new_zeros(len(rows_R), values_TD.shape[1]).index_add_(0, place_T, values_TD)
