"""AdamW made of a parameter table, with its state under canonical paths, never under indices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weft import native
from weft.core.sites import SiteMap
from weft.core.table import ParamTable
from weft.core.twins import Twin, Twins
from weft.core.view import SiteKind
from weft.errors import CheckpointError
from weft.native import eight_bit
from weft.native.adamw import Step, adamw, sum_of_squares
from weft.recipe.spec import Moments
from weft.train.lazy import LEAST_ROWS, LazyRows, summed

PATHS = "paths"  # key of an optimizer group: the canonical paths of its parameters, in their order
PEAK = "peak_lr"  # key of an optimizer group: the learning rate that the schedule's factor is applied to


class FusedAdamW(torch.optim.AdamW):
    """Fused AdamW that clips, skips and, on the CPU, writes bf16 twins in the pass over memory that updates.

    On the CPU the compiled kernels do it where they are at hand, otherwise torch's own fused kernel.

    Attributes:
        grad_scale: what torch's kernel divides gradients by: clipping costs no pass of its own.
        found_inf: 1.0 leaves weights, moments and step counters as they are, without the host knowing.
    """

    grad_scale: Tensor
    found_inf: Tensor

    def __init__(self, groups: list[dict[str, Any]], *, lazy: Iterable[LazyRows] = ()) -> None:
        super().__init__(groups, fused=True)
        device = groups[0]["params"][0].device
        self.grad_scale = torch.ones((), device=device)
        self.found_inf = torch.zeros((), device=device)
        self._is_native = device.type == "cpu" and native.available()
        self._lazy = {one.master: one for one in lazy}
        self._counts: dict[Tensor, int] = {}

    def apply(
        self, twins: Twins | None, *, objective: Tensor, clip: float, lr_factor: float
    ) -> tuple[Tensor, Tensor]:
        """Take a step with the gradients of the masters or of their twins, and clear them.

        Nothing moves where the objective or the gradient is not finite.

        Args:
            twins: in use, None where the network computes with its own parameters.
            objective: what was minimised, a scalar.
            clip: largest norm of all gradients together.
            lr_factor: of the schedule.

        Returns:
            The gradient's norm before clipping, and 1.0 where the step was skipped; scalars on the device.
        """
        for group in self.param_groups:
            group["lr"] = group[PEAK] * lr_factor
        if self._is_native:
            return self._apply_native(twins, objective, clip)
        if twins is not None:
            twins.collect()
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        grad_norm = torch.nn.utils.get_total_norm(grads).to(self.found_inf.device)
        self.found_inf = (~(torch.isfinite(objective) & torch.isfinite(grad_norm))).float()
        self.grad_scale = (grad_norm / clip).clamp(min=1.0)
        self.step()
        self.zero_grad(set_to_none=True)
        return grad_norm, self.found_inf

    def _apply_native(self, twins: Twins | None, objective: Tensor, clip: float) -> tuple[Tensor, Tensor]:
        found: list[tuple[dict[str, Any], list[_Moved]]] = []
        for group in self.param_groups:
            moved = [_Moved.of(p, None if twins is None else twins.of(p)) for p in group["params"]]
            found.append((group, [one for one in moved if one is not None]))
        norm = math.sqrt(sum_of_squares([one.grad for _, moved in found for one in moved]))
        is_fine = math.isfinite(norm) and math.isfinite(float(objective))
        if is_fine:
            for group, moved in found:
                self._move(group, moved, grad_scale=max(1.0, norm / clip))
        return torch.tensor(norm), torch.tensor(0.0 if is_fine else 1.0)

    def _move(self, group: dict[str, Any], moved: Sequence[_Moved], *, grad_scale: float) -> None:
        by_count: dict[int, list[_Moved]] = {}
        for one in moved:
            state = self._begun(one.master)
            count = self._counts[one.master] = self._counts[one.master] + 1
            if one.rows is None:
                by_count.setdefault(count, []).append(one)
            else:
                lazy = self._lazy[one.master]
                lazy.begin(state, one.twin, count=count - 1)
                lazy.update(one.rows, one.grad, _step(group, count), grad_scale=grad_scale)
        for count, ones in by_count.items():
            adamw(
                [one.master for one in ones],
                [one.grad for one in ones],
                exp_avgs=[self.state[one.master]["exp_avg"] for one in ones],
                exp_avg_sqs=[self.state[one.master]["exp_avg_sq"] for one in ones],
                step=_step(group, count),
                twins=[None if one.twin is None else one.twin.copy.detach() for one in ones],
                grad_scale=grad_scale,
            )
            for one in ones:
                if one.twin is not None:
                    one.twin.kept()

    def _begun(self, master: Tensor) -> dict[str, Any]:
        state = self.state[master]
        if not state:
            zeros = (torch.zeros_like(master, memory_format=torch.preserve_format) for _ in range(2))
            state["exp_avg"], state["exp_avg_sq"] = zeros
            state["step"] = torch.zeros((), dtype=torch.float32)
        if master not in self._counts:
            self._counts[master] = int(state["step"])
        return state

    def settle(self) -> None:
        """Bring every weight and all state up to date, for somebody who reads them."""
        for lazy in self._lazy.values():
            lazy.settle()
        for master, count in self._counts.items():
            self.state[master]["step"].fill_(count)

    def drop(self, master: nn.Parameter) -> None:
        """Drop the state of one parameter, which is settled first."""
        if master in self._lazy:
            self._lazy[master].settle()
        self._counts.pop(master, None)
        self.state.pop(master, None)

    def forget(self) -> None:
        """Drop all state."""
        self.settle()
        self._counts.clear()
        self.state.clear()

    def put(self, master: nn.Parameter, state: Mapping[str, Tensor]) -> None:
        """Take copies of ``state``, written by an optimizer of any kind, as that of one parameter."""
        own = {name: tensor.to(master.device, copy=True) for name, tensor in state.items()}
        self.state[master] = eight_bit.wide(own)


class EightBitAdamW(FusedAdamW):
    """AdamW whose moments take two bytes a weight instead of eight, on any device; see ``weft.native.eight_bit``."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups)
        self._is_native = False

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient."""
        assert closure is None, "apply computes the gradients before"
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            rates = eight_bit.Rates(float(group["lr"]), beta1, beta2, group["eps"], group["weight_decay"])
            for master in group["params"]:
                if master.grad is None:
                    continue
                if not self.state[master]:
                    self.put(master, _zeros(master))
                eight_bit.adamw(
                    master,
                    master.grad.to_dense() if master.grad.is_sparse else master.grad,
                    self.state[master],
                    rates,
                    grad_scale=self.grad_scale,
                    found_inf=self.found_inf,
                )

    def put(self, master: nn.Parameter, state: Mapping[str, Tensor]) -> None:
        """Take copies of ``state``, written by an optimizer of any kind, as that of one parameter."""
        own = {name: tensor.to(master.device, copy=True) for name, tensor in state.items()}
        is_small = master.numel() < eight_bit.LEAST_VALUES
        if is_small or eight_bit.is_coded(own):
            self.state[master] = eight_bit.wide(own) if is_small else own
        else:
            self.state[master] = eight_bit.coded(own)


def _zeros(master: Tensor) -> dict[str, Tensor]:
    moments = {name: torch.zeros_like(master, dtype=torch.float32) for name in eight_bit.CODES}
    return {**moments, "step": torch.zeros((), device=master.device)}


@dataclass(slots=True)
class _Moved:
    """A parameter and its gradient: of ``rows`` only where it is sparse."""

    master: nn.Parameter
    twin: Twin | None
    grad: Tensor
    rows: Tensor | None = None

    @classmethod
    def of(cls, master: nn.Parameter, twin: Twin | None) -> _Moved | None:
        """Return ``master`` with the gradient that it or its twin has, which is taken away; None if there is none."""
        grad, master.grad = master.grad, None
        if grad is None and twin is not None:
            grad, twin.copy.grad = twin.copy.grad, None
        if grad is None:
            return None
        if grad.is_sparse:
            rows_R, sums_RD = summed(grad)
            return cls(master, twin, sums_RD, rows_R)
        return cls(master, twin, grad.contiguous())


def _step(group: dict[str, Any], count: int) -> Step:
    beta1, beta2 = group["betas"]
    return Step(float(group["lr"]), beta1, beta2, group["eps"], group["weight_decay"], count)


def make_optimizer(
    table: ParamTable, sites: SiteMap, *, decay: float, moments: Moments = Moments.FP32
) -> FusedAdamW:
    """Return AdamW (Loshchilov & Hutter 2019) over exactly the trained rows of ``table``, one group a rate and decay.

    Args:
        table: what moves.
        sites: the network that the table is of.
        decay: decoupled weight decay of the rows that have it.
        moments: how its state is held.

    Raises:
        ValueError: table and network disagree about what is trained, or nothing is.
    """
    parameters = dict(sites.parameters())
    _check_roles(table, parameters)
    groups = [
        {
            "params": [parameters[row.path] for row in rows],
            PATHS: [row.path for row in rows],
            PEAK: lr,
            "lr": lr,
            "weight_decay": decay if has_decay else 0.0,
        }
        for (lr, has_decay), rows in table.groups().items()
    ]
    if moments is Moments.EIGHT_BIT:
        return EightBitAdamW(groups)
    return FusedAdamW(groups, lazy=_lazy_rows(table, sites))


def _lazy_rows(table: ParamTable, sites: SiteMap) -> list[LazyRows]:
    """Return the trained tables of words that are large and used for nothing else than looking words up."""
    trained = {row.path for row in table.trained()}
    shared = {info.tied_to for site in sites.view.sites for info in site.params}
    found: list[LazyRows] = []
    for site in sites.view.sites:
        module, path = sites.module(site.path), f"{site.path}.weight"
        if site.kind is not SiteKind.EMBEDDING or not isinstance(module, nn.Embedding):
            continue
        is_free = path in trained and path not in shared and len(site.params) == 1
        on_cpu = module.weight.device.type == "cpu" and native.available()
        if is_free and on_cpu and module.num_embeddings >= LEAST_ROWS:
            found.append(LazyRows(module))
    return found


def _check_roles(table: ParamTable, parameters: Mapping[str, nn.Parameter]) -> None:
    moving = {path for path, parameter in parameters.items() if parameter.requires_grad}
    trained = {row.path for row in table.trained()}
    if not trained:
        raise ValueError("table: an optimizer needs one trained row at least, but all are frozen.")
    if odd := sorted(trained ^ moving):
        raise ValueError(
            f"{odd[0]}: table and network must agree on what is trained, but {len(odd)} parameters differ. "
            f"Apply the plan that the table is of."
        )
    grouped = [row.path for rows in table.groups().values() for row in rows]
    assert sorted(grouped) == sorted(trained), "every trained row is in one group"


def optimizer_state(optimizer: FusedAdamW) -> dict[str, Tensor]:
    """Return the state by ``<path>/exp_avg``, ``<path>/exp_avg_sq``, ``<path>/step``, and scales where moments are coded.

    Nothing is copied. Weights and state are settled first. Parameters that never had a gradient have none.
    """
    optimizer.settle()
    return {
        f"{path}/{name}": tensor
        for path, parameter in _parameters(optimizer)
        if parameter in optimizer.state
        for name, tensor in optimizer.state[parameter].items()
    }


def load_optimizer_state(
    optimizer: FusedAdamW, tensors: Mapping[str, Tensor], *, partial: bool = False
) -> None:
    """Replace the optimizer's state by copies of ``tensors``.

    Args:
        optimizer: made of the table of the network in use.
        tensors: as ``optimizer_state`` returned them.
        partial: whether state of paths that the optimizer does not have is left out rather than refused.

    Raises:
        CheckpointError: state of an unknown path, of another shape, or with a part missing; nothing is loaded then.
    """
    parameters = dict(_parameters(optimizer))
    by_path: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        path, _, name = key.rpartition("/")
        by_path.setdefault(path, {})[name] = tensor
    if not partial and (odd := sorted(set(by_path) - set(parameters))):
        raise CheckpointError(
            f"{odd[0]}: optimizer state must belong to a trained parameter, but {len(odd)} paths do not. "
            f"Resume with the strategy it was saved under."
        )
    loaded = {path: state for path, state in by_path.items() if path in parameters}
    for path, state in loaded.items():
        _check_state(path, state, parameters[path])
    optimizer.forget()
    for path, state in loaded.items():
        optimizer.put(parameters[path], state)


def _check_state(path: str, state: Mapping[str, Tensor], parameter: nn.Parameter) -> None:
    scales = (-(-parameter.numel() // eight_bit.BLOCK),)
    expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {"step": ((), torch.float32)}
    for name in eight_bit.CODES:
        expected[name] = (tuple(parameter.shape), torch.float32)
        if eight_bit.is_coded(state):
            expected[name] = (tuple(parameter.shape), torch.uint8)
            expected[name + eight_bit.SCALE] = (scales, torch.float32)
    if sorted(state) != sorted(expected):
        raise CheckpointError(
            f"{path}: optimizer state must be {', '.join(sorted(expected))}, but is {', '.join(sorted(state))}."
        )
    for name, (shape, dtype) in expected.items():
        actual = tuple(state[name].shape), state[name].dtype
        if actual != (shape, dtype):
            raise CheckpointError(
                f"{path}/{name}: must be {shape} of {dtype}, but is {actual[0]} of {actual[1]}."
            )


def _parameters(optimizer: FusedAdamW) -> Iterator[tuple[str, nn.Parameter]]:
    for group in optimizer.param_groups:
        yield from zip(group[PATHS], group["params"], strict=True)
