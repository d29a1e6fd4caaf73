"""The network: one trunk and one head a task. A batch passes the trunk once, whatever number of tasks it serves."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor, nn

from weft.core.batch import Batch, Target
from weft.core.decoding import Decoding
from weft.core.features import Features, Pooling
from weft.core.layout import Layout
from weft.core.outputs import Outputs
from weft.core.routing import NONE, Routable, Routes, Routing, groups_in, routed, routing_of
from weft.core.twins import Twins
from weft.errors import StrategyError

Pooler = Callable[[Tensor], Tensor]
Activation = Callable[[Tensor], Tensor]
Heard = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class TrunkInfo:
    """What a head needs to know of its trunk.

    Attributes:
        width: D, the hidden size.
        vocabulary: V of the output embedding; 0 where the trunk has none.
        pooling: the pooling of the architecture's own stock classification model.
        has_pooler: whether the trunk brings a pooler.
        has_bias: whether the stock sequence classification head of this architecture has a bias.
        is_causal: whether tokens see only earlier ones.
        max_positions: longest row in tokens that the trunk takes.
        init_range: standard deviation of the architecture's weight initialisation.
        is_encoder_decoder: whether a decoder of its own writes what it is asked to; heads read the encoder's states.
    """

    width: int
    vocabulary: int
    pooling: Pooling
    has_pooler: bool
    has_bias: bool
    is_causal: bool
    max_positions: int
    init_range: float
    is_encoder_decoder: bool = False


class Trunk(Protocol):
    """A pretrained backbone behind canonical names (``weft.model``)."""

    info: TrunkInfo

    @property
    def packs(self) -> bool:
        """Whether packed batches are computed as they are, so that padding and rows of like length gain nothing."""
        ...

    @property
    def recomputes(self) -> bool:
        """Whether its layers can be run again for their gradient."""
        ...

    def num_virtual(self, groups: Iterable[Sequence[str]], /) -> int:
        """Return the most positions that methods take from a row that takes one of ``groups`` of adapters."""
        ...

    def __call__(self, batch: Batch, /, *, perturb: Tensor | None = None) -> Features:
        """Return features of ``batch``; ``perturb`` is added to the input embeddings (same shape)."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], how: Decoding, /, *, heard: Heard | None = None
    ) -> list[list[int]]:
        """Return continuations, one list of token ids a prompt, without prompt and stop token.

        ``heard`` is told the tokens of a single prompt as they come, its stop token too; not with beams.
        """
        ...


class Head(Protocol):
    """Maps features to a task's outputs for the rows or tokens that ``target`` addresses."""

    def __call__(self, features: Features, target: Target, /) -> Outputs:
        """Return the outputs, one row for each unit that the target addresses."""
        ...

    def reads(self, target: Target, layout: Layout, /) -> Tensor | None:
        """Return the flat positions of the states that the outputs follow from, int64; None for all of them."""
        ...


class Heads(nn.ModuleDict):
    """Heads by task. Unlike its parent it takes every name of a recipe, also those that modules use (``train``)."""

    def __setitem__(self, key: str, module: nn.Module) -> None:
        self._modules[key] = module

    @property
    def by_task(self) -> Mapping[str, nn.Module]:
        """The heads without the cost of looking a module up."""
        return cast("dict[str, nn.Module]", vars(self)["_modules"])

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 (the parent's)
        """Set the mode of every head; the parent would take a head called ``training`` for the mode itself."""
        for head in self.values():
            head.train(mode)
        vars(self)["training"] = mode
        return self


class Network(nn.Module):
    """One trunk, many heads.

    Args:
        trunk: module that satisfies ``Trunk``.
        heads: one module a task that satisfies ``Head``; may own no parameters.

    Attributes:
        routes: adapters by task. Of the adapters named here, rows pass through those of their own task and no others:
            rows of a task that is not named through none. Adapters that are not named act on all rows.
        sees_rows: whether some module must be told which tokens are one row's.
    """

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = Heads(dict(heads))
        self.routes: Routes = {}
        self.sees_rows = False
        self._twins: Twins | None = None
        self._only: torch.dtype | None = None

    @contextmanager
    def computing(self, dtype: torch.dtype) -> Generator[Twins | None]:
        """Run the trunk in ``dtype`` within the block, also its backward pass; heads stay in fp32.

        Parameters that are looked at outside of the block are the fp32 ones, always. Modules must not be replaced any
        more once a block was entered.

        Args:
            dtype: float32 for the parameters themselves, else that of their twins.

        Yields:
            The twins in use, None in fp32.
        """
        if self._only is not None and dtype is not self._only:
            raise ValueError(
                f"dtype: this network was made to compute in {self._only} only, but {dtype} is asked."
            )
        if dtype is torch.float32 or self._only is not None:
            yield None
            return
        if self._twins is None or self._twins.dtype is not dtype:
            with torch.inference_mode(mode=False):
                self._twins = Twins(self.trunk, dtype)
        with self._twins.standing_in():
            yield self._twins

    def forget_twins(self) -> None:
        """Make the twins anew when they are next needed: which parameters are trained has changed."""
        self._twins = None

    def compute_only_in(self, dtype: torch.dtype) -> None:
        """Round the trunk's parameters to ``dtype`` for good: for a network that answers and is never trained or saved."""
        if dtype is not torch.float32:
            Twins(self.trunk, dtype).stay()
        self._only = dtype

    def features(
        self, batch: Batch, *, tasks: Iterable[str] | None = None, perturb: Tensor | None = None
    ) -> Features:
        """Return the trunk's features of ``batch``: one pass.

        Args:
            batch: rows.
            tasks: whose heads alone will read the features, which may then hold no others; None for anybody.
            perturb: added to the input embeddings.
        """
        trunk = cast(Trunk, self.trunk)
        if tasks is not None and batch.layout.is_packed and batch.replies is None and not self.sees_rows:
            batch = replace(batch, reads_M=self._reads(batch, tasks))
        if not self.routes and not self.sees_rows:
            return trunk(batch, perturb=perturb)
        routing = routing_of(batch, self.routes)
        with routed(self.trunk, routing):
            features = trunk(batch, perturb=perturb)
        if any(isinstance(part, Routable) for project in _projects(features) for part in project.modules()):
            raise StrategyError(
                "lm_head: must have no adapter where rows have adapters of their own, but has one. Leave it out of sites."
            )
        return replace(features, pooler=self._routed(features.pooler, routing))

    def _reads(self, batch: Batch, tasks: Iterable[str]) -> Tensor | None:
        """Return the flat positions that the heads of ``tasks`` read, ascending and distinct; None for all."""
        found, heads = list[Tensor](), self.heads.by_task
        for name in tasks:
            positions_M = cast(Head, heads[name]).reads(batch.targets[name], batch.layout)
            if positions_M is None:
                return None
            if not any(positions_M is known for known in found):
                found.append(positions_M)
        if not found:
            return None
        # A target may name a row twice, and with it its positions. Where each row is named once there is no need to look.
        is_once = sum(len(target.rows_R) for target in batch.targets.values()) == batch.layout.num_rows
        positions_M = found[0] if len(found) == 1 and is_once else torch.cat(found).unique()
        return positions_M if len(positions_M) else None

    def _routed(self, pooler: Pooler | None, routing: Routing) -> Pooler | None:
        """Return a trunk's pooler, which heads call after the pass, such that it computes by ``routing`` too."""
        if pooler is None:
            return None

        def pool(first_BD: Tensor) -> Tensor:
            with routed(self.trunk, routing):
                return pooler(first_BD)

        return pool

    def generate(
        self, task: str, prompts: Sequence[Sequence[int]], how: Decoding, *, heard: Heard | None = None
    ) -> list[list[int]]:
        """Return what the trunk says next to each of one task's ``prompts`` (``Trunk.generate``)."""
        trunk = cast(Trunk, self.trunk)
        if not self.routes:
            return trunk.generate(prompts, how, heard=heard)
        groups = groups_in(self.routes)
        row = groups.index(self.routes[task]) if task in self.routes else NONE
        with routed(self.trunk, Routing.uniform(groups, row)):
            return trunk.generate(prompts, how, heard=heard)

    def forward(
        self, batch: Batch, *, tasks: Iterable[str] | None = None, perturb: Tensor | None = None
    ) -> dict[str, Outputs]:
        """Return each task's outputs (default: every task in ``batch.targets``) from one trunk pass."""
        names = batch.targets if tasks is None else tuple(tasks)
        features = self.features(batch, tasks=names, perturb=perturb)
        return {name: self.heads[name](features, batch.targets[name]) for name in names}

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device


class Inference:
    """One batch being answered: the trunk pass is made on first use and shared by all tasks that ask."""

    def __init__(self, network: Network, batch: Batch) -> None:
        self.network = network
        self.batch = batch
        self._outputs: dict[str, Any] = {}
        self._mates: dict[str, Sequence[str]] = {}
        self._lists: dict[tuple[str, Activation], list[list[float]]] = {}

    @cached_property
    def features(self) -> Features:
        """The trunk's features of the batch."""
        return self.network.features(self.batch, tasks=self.batch.targets)

    def outputs(self, task: str) -> Any:
        """Return the outputs of one task's head for its target in the batch; the task knows their type.

        Heads that can be computed together are, when the first of them is asked for.
        """
        if task not in self._outputs:
            all_heads, all_targets = self.network.heads.by_task, self.batch.targets
            head = all_heads[task]
            kind = getattr(head, "kind", None)
            mates = [] if kind is None else _mates(type(head), kind, all_heads, all_targets)
            if len(mates) > 1:
                heads, targets = [all_heads[name] for name in mates], [all_targets[name] for name in mates]
                made = cast(Any, head).together(heads, self.features, targets)
                self._outputs |= dict(zip(mates, made, strict=True))
                self._mates |= dict.fromkeys(mates, mates)
            else:
                self._outputs[task] = cast(Any, head)(self.features, self.batch.targets[task])
        return self._outputs[task]

    def numbers(self, task: str, activation: Activation) -> list[list[float]]:
        """Return ``activation`` of one task's outputs (R, C) as numbers; heads computed together are taken together.

        Args:
            task: whose outputs are one tensor.
            activation: works on the last dimension.
        """
        if (task, activation) not in self._lists:
            shape = self.outputs(task).shape
            mates = [name for name in self._mates.get(task, (task,)) if self._outputs[name].shape == shape]
            stacked = torch.stack([self._outputs[name] for name in mates]).detach().float()
            for name, found in zip(mates, activation(stacked).tolist(), strict=True):
                self._lists[name, activation] = found
        return self._lists[task, activation]


def _projects(features: Features) -> list[nn.Module]:
    """Return the output embedding where there is one."""
    found = (features.project, None if features.decoder is None else features.decoder.project)
    return [project for project in found if project is not None]


def _mates(which: type, kind: Any, heads: Mapping[str, nn.Module], names: Iterable[str]) -> list[str]:
    """Return those of ``names`` whose heads are of one class that can compute several at a time, and of one kind of it."""
    return [name for name in names if type(heads[name]) is which and cast(Any, heads[name]).kind == kind]
