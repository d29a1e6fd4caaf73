"""Several branches into one: what their stages changed, averaged or added up, as weights that one stage starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from weft.core.parts import AdapterState, HeadState, Parts
from weft.core.seeds import fold
from weft.core.sites import SiteMap
from weft.errors import HandOverError, StrategyError
from weft.recipe.spec import Combine, CombineMethod
from weft.strategy.adapters import merged
from weft.task.registry import FAMILIES


def combined(branches: Mapping[str, Parts], sites: SiteMap, how: Combine, *, seed: int) -> Parts:
    """Return one delta and one head a task made of ``branches``; adapters are folded into weights first, but for a union.

    A trunk parameter that a branch did not change counts as unchanged in it. A head that only one branch has stays as it
    is; one that several have is averaged with the branches' weights, whatever the method.

    Args:
        branches: what each parent stage left, by its name, in the recipe's order.
        sites: a network with the base model's weights, on any device.
        how: the method and its numbers.
        seed: of what is dropped at random.

    Raises:
        HandOverError: an adapter cannot be folded into weights, or two heads of one task do not fit one another.

    Source: model soups (arXiv:2203.05482), task arithmetic (arXiv:2212.04089), TIES (arXiv:2306.01708), DARE
    (arXiv:2311.03099); the formulas are those of ``peft.utils.merge_utils``.
    """
    if how.method is CombineMethod.UNION:
        return _side_by_side(branches, how)
    base = {path: parameter.detach() for path, parameter in sites.parameters()}
    deltas = {name: merge(parts, sites) for name, parts in branches.items()}
    paths = [path for path in base if any(path in delta for delta in deltas.values())]
    shares = _shares(tuple(branches), how)
    delta = {
        path: _joined(
            base[path], [deltas[name].get(path) for name in branches], shares, how, seed=fold(seed, path)
        )
        for path in paths
    }
    return Parts(delta=delta, heads=_heads(branches, shares))


def _side_by_side(branches: Mapping[str, Parts], how: Combine) -> Parts:
    """Return the adapters of all branches, each once, on the one trunk that they have."""
    (first_name, first), *others = branches.items()
    adapters: dict[str, AdapterState] = {}
    for name, parts in branches.items():
        for adapter in parts.adapters:
            known = adapters.setdefault(adapter.name, adapter)
            if not _is_same(known.tensors, adapter.tensors):
                raise HandOverError(
                    f"combine: an adapter must be one, but {adapter.name} of {name} differs from that of a parent before."
                )
    for name, parts in others:
        if not _is_same(first.delta, parts.delta):
            raise HandOverError(
                f"combine: adapters side by side need one trunk, but {name} has changed it otherwise than {first_name}. "
                f"Let both start from one stage and train adapters alone."
            )
    heads = _heads(branches, _shares(tuple(branches), how))
    return Parts(delta=first.delta, adapters=tuple(adapters.values()), heads=heads)


def _is_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Return whether both hold the same values; without weights, the same names."""
    return ours.keys() == theirs.keys() and all(
        value.is_meta or torch.equal(value, theirs[path]) for path, value in ours.items()
    )


def merge(parts: Parts, sites: SiteMap) -> dict[str, Tensor]:
    """Return the delta of ``parts`` with every adapter folded in, in stacking order.

    Args:
        parts: delta and adapters.
        sites: a network with the base weights.

    Raises:
        HandOverError: an adapter's method does not edit weights, so it cannot be folded into them.
    """
    base = {path: parameter.detach() for path, parameter in sites.parameters()}
    fixed = {info.path for site in sites.view.sites for info in site.params if info.is_fixed}
    touched = (f"{path}.weight" for one in parts.adapters for path in one.config["sites"])
    if path := next((path for path in touched if path in fixed), None):
        raise HandOverError(
            f"carry.trunk: {path} must be whole to take an adapter in, but is kept in few bits (model.quantize). "
            f"Carry the trunk with stack or continue, or export the bundle, which folds into the original weights."
        )
    try:
        return {**parts.delta, **merged({**base, **parts.delta}, parts.adapters)}
    except StrategyError as error:
        raise HandOverError(f"carry.trunk: {error}") from error


def _shares(names: Sequence[str], how: Combine) -> list[float]:
    """Return the factor of each branch: what the recipe says, else equal ones; an average's sum to 1."""
    given = [how.weights.get(name, 1.0) for name in names]
    total = sum(given)
    return [one / total for one in given] if how.method is CombineMethod.AVERAGE else given


def _joined(
    base: Tensor, values: Sequence[Tensor | None], shares: Sequence[float], how: Combine, *, seed: int
) -> Tensor:
    """Return ``base`` plus the combination of what each branch added to it, computed in fp32."""
    from peft.utils import merge_utils

    start = base.float()
    moves = [
        torch.zeros_like(start) if value is None else value.to(base.device).float() - start
        for value in values
    ]
    factors = torch.tensor(shares, device=base.device)
    with torch.random.fork_rng(devices=[base.device] if base.device.type == "cuda" else []):
        torch.manual_seed(seed)
        match how.method:
            case CombineMethod.AVERAGE | CombineMethod.ARITHMETIC:
                move = merge_utils.task_arithmetic(moves, factors)
            case CombineMethod.TIES:
                move = merge_utils.ties(moves, factors, how.density)
            case CombineMethod.DARE:
                move = merge_utils.dare_linear(moves, factors, how.density)
            case CombineMethod.DARE_TIES:
                move = merge_utils.dare_ties(moves, factors, how.density)
            case CombineMethod.UNION:
                raise AssertionError("a union joins no weights")
    return (start + move).to(base.dtype)


def _heads(branches: Mapping[str, Parts], shares: Sequence[float]) -> dict[str, HeadState]:
    found: dict[str, list[tuple[float, HeadState]]] = {}
    for parts, share in zip(branches.values(), shares, strict=True):
        for task, head in parts.heads.items():
            found.setdefault(task, []).append((share, head))
    return {task: _head(task, heads) for task, heads in found.items()}


def _differ(first: HeadState, other: HeadState) -> str | None:
    """Return what keeps two heads from being one; what each branch fitted to dev rows does not, it is fitted anew."""
    return FAMILIES[first.kind].from_config(first.task, first.config).same_head(other.config)


def _head(task: str, heads: Sequence[tuple[float, HeadState]]) -> HeadState:
    (_, first), *others = heads
    for _, other in others:
        shapes = [{path: tensor.shape for path, tensor in one.tensors.items()} for one in (first, other)]
        if other.kind != first.kind or _differ(first, other) or shapes[0] != shapes[1]:
            raise HandOverError(
                f"heads.{task}: heads must be of one form to be averaged, but those of two branches differ. "
                f"Train the task in one branch only, or drop its heads before."
            )
    if not others:
        return first
    total = sum(share for share, _ in heads)
    tensors = {
        path: sum(
            (share / total * head.tensors[path].float() for share, head in heads),
            torch.zeros((), device=tensor.device),
        ).to(tensor.dtype)
        for path, tensor in first.tensors.items()
    }
    return HeadState(first.task, first.kind, first.config, tensors)
