"""Exact lazy AdamW: rows of a big table are brought up to date only when a step touches or someone reads them.

A row that catches up replays the updates it missed, which had zero gradients, in registers: the bits are those of
the whole-tensor update of :mod:`weft.native.adamw` at every step. Compiled kernels only; see ``available()``.

Shapes: V rows of a table, D their width, R rows of one call, S steps of a history.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import torch
from torch import Tensor

from weft.errors import ModelError
from weft.native.adamw import SCALARS, Step, is_gradient, is_half, touch
from weft.native.library import library


@dataclass(slots=True)
class History:
    """The scalars of every step since ``base``, so that a row can be brought up to date from any of them."""

    base: int = 0
    num_steps: int = 0
    """Steps of the optimizer so far: ``base`` and those recorded here."""
    _rows_S8: Tensor = field(default_factory=lambda: torch.zeros(64, SCALARS))

    def append(self, step: Step) -> None:
        """Record the next step; its bias corrections may count from anywhere."""
        at = self.num_steps - self.base
        if at == self._rows_S8.shape[0]:
            self._rows_S8 = torch.cat([self._rows_S8, torch.zeros_like(self._rows_S8)])
        self._rows_S8[at] = torch.tensor(step.packed())
        self.num_steps += 1

    def restart(self) -> None:
        """Forget all steps. Only for a table that is settled: no row may lag behind."""
        self.base = self.num_steps

    def address(self) -> int:
        """Return where the kernels read the first recorded step."""
        return self._rows_S8.data_ptr()


@dataclass(frozen=True, slots=True)
class Table:
    """A parameter of many rows with its optimizer state, of which a step touches few.

    ``param``, ``exp_avg`` and ``exp_avg_sq`` are fp32 (V, D), ``twin`` bf16 (V, D) or None, ``seen`` int32 (V,): the
    number of optimizer steps that each row has had.
    """

    param: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    seen: Tensor
    twin: Tensor | None = None

    def __post_init__(self) -> None:
        floats = (self.param, self.exp_avg, self.exp_avg_sq)
        fits = (
            all(x.dtype == torch.float32 and x.shape == self.param.shape for x in floats)
            and self.param.dim() == 2
        )
        fits = fits and (
            self.twin is None or (self.twin.dtype, self.twin.shape) == (torch.bfloat16, self.param.shape)
        )
        fits = fits and (self.seen.dtype, tuple(self.seen.shape)) == (torch.int32, (self.param.shape[0],))
        tensors = [x for x in (*floats, self.seen, self.twin) if x is not None]
        if not fits or any(x.device.type != "cpu" or not x.is_contiguous() for x in tensors):
            raise ModelError(
                "Table: param, exp_avg and exp_avg_sq must be dense fp32 (V, D) on the CPU, twin bf16 (V, D) and seen "
                f"int32 (V,), but they are {[(x.dtype, tuple(x.shape), x.device.type) for x in tensors]}. "
                "Keep other tables on the whole-tensor path."
            )


@torch.no_grad()
def catch_up(table: Table, rows_R: Tensor | None, history: History) -> None:
    """Bring rows to the newest step: replay, with zero gradients, every step of ``history`` they have not had.

    The result is bit for bit what :func:`adamw` gives when it updates the whole table at every step.

    Args:
        table: changed in place.
        rows_R: int64, strictly rising; None settles every row (do that before saving or reading the whole table).
        history: of the optimizer.

    Raises:
        ModelError: rows do not rise or are not rows of the table, or there are no kernels (see ``available()``).
    """
    _run_table(table, rows_R, history, None, 1.0)


@torch.no_grad()
def update_rows(
    table: Table, rows_R: Tensor, grads_RD: Tensor, *, history: History, grad_scale: float = 1.0
) -> None:
    """Apply the newest step of ``history`` with these gradients to these rows, and before it what they have missed.

    Args:
        table: changed in place; rows that already had the newest step are left alone.
        rows_R: int64, strictly rising.
        grads_RD: fp32 or bf16, divided by ``grad_scale``.
        history: of the optimizer; the step to apply has been appended.
        grad_scale: what the gradients are too large by.

    Raises:
        ModelError: as for :func:`catch_up`, or gradients of another shape.
    """
    if grads_RD.shape != (rows_R.numel(), table.param.shape[1]) or not is_gradient(grads_RD):
        raise ModelError(
            f"update_rows: gradients must be dense fp32 or bf16 ({rows_R.numel()}, {table.param.shape[1]}), "
            f"but are {grads_RD.dtype} {tuple(grads_RD.shape)}. Pass one gradient per row."
        )
    _run_table(table, rows_R, history, grads_RD, grad_scale)


class _Table(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("p", "m", "v", "twin", "seen", "history")),
        *((name, ctypes.c_int64) for name in ("base", "steps", "width")),
        *(("rows", ctypes.c_void_p), ("count", ctypes.c_int64)),
        *(("grads", ctypes.c_void_p), ("grad_is_bf16", ctypes.c_int64), ("grad_scale", ctypes.c_float)),
    )


def _run_table(
    table: Table, rows_R: Tensor | None, history: History, grads_RD: Tensor | None, grad_scale: float
) -> None:
    kernels = library()
    if kernels is None:
        raise ModelError(
            "lazy rows: compiled kernels must be in use, but are not. Update the whole table instead."
        )
    num_rows, width = table.param.shape
    rows = None if rows_R is None else _checked(rows_R, num_rows)
    _check_history(table, rows, history)
    call = _Table(
        p=table.param.data_ptr(),
        m=table.exp_avg.data_ptr(),
        v=table.exp_avg_sq.data_ptr(),
        twin=None if table.twin is None else table.twin.data_ptr(),
        seen=table.seen.data_ptr(),
        history=history.address(),
        base=history.base,
        steps=history.num_steps,
        width=width,
        rows=None if rows is None else rows.data_ptr(),
        count=num_rows if rows is None else rows.numel(),
        grads=None if grads_RD is None else grads_RD.data_ptr(),
        grad_is_bf16=grads_RD is not None and is_half(grads_RD),
        grad_scale=grad_scale,
    )
    parallel, threads = kernels.team()
    kernels.kernels.weft_table(ctypes.byref(call), ctypes.c_void_p(parallel), ctypes.c_int64(threads))
    touch(
        [x for x in (table.param, table.exp_avg, table.exp_avg_sq, table.seen, table.twin) if x is not None]
    )


def _checked(rows_R: Tensor, num_rows: int) -> Tensor:
    rows_R = rows_R.contiguous()
    if rows_R.dtype != torch.int64 or rows_R.dim() != 1:
        raise ModelError(
            f"lazy rows: rows must be int64 (R,), but are {rows_R.dtype} {tuple(rows_R.shape)}. Cast them."
        )
    if rows_R.numel() and not (rows_R[0] >= 0 and rows_R[-1] < num_rows and bool((rows_R.diff() > 0).all())):
        raise ModelError(
            f"lazy rows: rows must rise strictly within 0..{num_rows - 1}, but do not. Pass torch.unique(ids)."
        )
    return rows_R


def _check_history(table: Table, rows_R: Tensor | None, history: History) -> None:
    seen = table.seen if rows_R is None else table.seen[rows_R]
    if seen.numel() and not (history.base <= int(seen.min()) and int(seen.max()) <= history.num_steps):
        raise ModelError(
            f"lazy rows: every row must have had {history.base} to {history.num_steps} steps, but they have had "
            f"{int(seen.min())} to {int(seen.max())}. Settle the table before the history restarts."
        )
