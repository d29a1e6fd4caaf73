"""Fused AdamW made of a parameter table, with its state under canonical paths, never under indices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from weft.core.sites import SiteMap
from weft.core.table import ParamTable
from weft.errors import CheckpointError

PATHS = "paths"  # key of an optimizer group: the canonical paths of its parameters, in their order
PEAK = "peak_lr"  # key of an optimizer group: the learning rate that the schedule's factor is applied to
_STATE = ("exp_avg", "exp_avg_sq", "step")


class FusedAdamW(torch.optim.AdamW):
    """Torch's fused AdamW, with the two inputs of its kernel that a gradient scaler would set made explicit.

    Attributes:
        grad_scale: what gradients are divided by within the kernel: clipping costs no pass of its own.
        found_inf: 1.0 leaves weights, moments and step counters as they are, without the host knowing.
    """

    grad_scale: Tensor
    found_inf: Tensor


def make_optimizer(table: ParamTable, sites: SiteMap, *, decay: float) -> FusedAdamW:
    """Return AdamW (Loshchilov & Hutter 2019) over exactly the trained rows of ``table``, one group a rate and decay.

    Args:
        table: what moves.
        sites: the network that the table is of.
        decay: decoupled weight decay of the rows that have it.

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
    optimizer = FusedAdamW(groups, fused=True)
    device = next(iter(parameters.values())).device
    optimizer.grad_scale = torch.ones((), device=device)
    optimizer.found_inf = torch.zeros((), device=device)
    return optimizer


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
    """Return the state by ``<path>/exp_avg``, ``<path>/exp_avg_sq`` and ``<path>/step``; nothing is copied.

    Parameters that never had a gradient have none.
    """
    return {
        f"{path}/{name}": optimizer.state[parameter][name]
        for path, parameter in _parameters(optimizer)
        if parameter in optimizer.state
        for name in _STATE
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
    optimizer.state.clear()
    for path, state in loaded.items():
        device = parameters[path].device
        optimizer.state[parameters[path]] = {
            name: state[name].to(device, torch.float32, copy=True) for name in _STATE
        }


def _check_state(path: str, state: Mapping[str, Tensor], parameter: nn.Parameter) -> None:
    if sorted(state) != sorted(_STATE):
        raise CheckpointError(
            f"{path}: optimizer state must be {', '.join(_STATE)}, but is {', '.join(sorted(state))}."
        )
    for name in ("exp_avg", "exp_avg_sq"):
        if state[name].shape != parameter.shape:
            raise CheckpointError(
                f"{path}/{name}: must have the parameter's shape {tuple(parameter.shape)}, but has "
                f"{tuple(state[name].shape)}."
            )


def _parameters(optimizer: FusedAdamW) -> Iterator[tuple[str, nn.Parameter]]:
    for group in optimizer.param_groups:
        yield from zip(group[PATHS], group["params"], strict=True)
