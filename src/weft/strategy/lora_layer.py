"""A linear module with low-rank updates beside its weight, one a named adapter, added up.

Legend: I input width, O output width, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.core import linear
from weft.core.routing import Routing
from weft.core.view import SiteKind
from weft.native import low_rank as native
from weft.strategy.edit import Edit, Factors, plus
from weft.strategy.low_rank import Part, is_uniform, low_rank, routed_parts
from weft.strategy.low_rank_runs import routed_runs, with_runs

STARTS = (
    "lora_starts"  # attribute of a module: what its adapters began with, by name, where the weight gave it up
)


class LoraSite(Edit):
    """In front of a linear class: the base's output plus ``scale * B A x`` for every adapter at this site."""

    key = "lora"
    place = 0
    tables = ("lora_A", "lora_B")
    lora_A: Factors
    lora_B: Factors
    lora_options: dict[str, dict[str, Any]]
    is_plain: ClassVar[bool]  # whether the base computes nothing but its product

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (..., O) for ``inputs`` (..., I)."""
        if torch.is_grad_enabled() and "_stack" in self.__dict__:
            self.__dict__.pop("_stack", None)  # what is trained may change behind torch's back
        if self.routing is not None:
            return self._routed(inputs, self.routing)
        first, *others = self.lora_options or (None,)
        if first is None:
            return super().forward(inputs)
        if self._is_fused(inputs, (first,)):
            factors = self.lora_A[first], self.lora_B[first]
            outputs = low_rank(self, inputs, *factors, parts=(Part(self.scale(first)),))
        else:
            outputs = super().forward(inputs) + self._update(inputs, first)
        for name in others:  # one after the other: a new one, whose B is zero, leaves every bit as it was
            outputs = outputs + self._update(inputs, name)
        return outputs

    def scale(self, name: str) -> float:
        """Return the factor of one adapter's update."""
        return scale(self.lora_options[name])

    def given_up(self) -> Tensor | None:
        """Return the sum of what adapters began with."""
        starts: Mapping[str, tuple[Tensor, Tensor]] = vars(self).get(STARTS, {})
        parts = [
            update(A_RI, B_OR, scale=self.scale(name), kind=SiteKind(self.lora_options[name]["kind"]))
            for name, (A_RI, B_OR) in starts.items()
        ]
        return torch.stack(parts).sum(0) if parts else None

    def _is_fused(self, inputs: Tensor, names: tuple[str, ...]) -> bool:
        """Return whether the updates of ``names`` and the base's product may be one function."""
        if not names or not self.is_plain or torch.compiler.is_compiling():  # the compiler fuses by itself
            return False
        if self.training and any(self.lora_options[name]["dropout"] for name in names):
            return False
        down, up, (weight, _) = self.lora_A, self.lora_B, linear.values(self)
        return is_uniform(inputs, weight, *[down[name] for name in names], *[up[name] for name in names])

    def _stacked(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return A (R, I) and B (O, R) of ``names`` side by side; the rows of B^T are in one piece, to be cut."""
        A_RI = torch.cat([self.lora_A[name] for name in names])
        return A_RI, torch.cat([self.lora_B[name].t() for name in names]).t()

    def _routed(self, inputs: Tensor, routing: Routing) -> Tensor:
        """Return outputs of which each row has the update of its own adapter and of those that are not routed."""
        shared = tuple(name for name in self.lora_options if name not in routing.named)
        lanes = routing.lanes(tuple(name for name in routing.present if name in self.lora_options))
        names, leading = (*shared, *chain(*lanes)), inputs.shape[:-1]
        if not self._is_fused(inputs, names):
            return self._routed_plainly(inputs, routing, shared, lanes)
        updates = self._thin(names)
        if updates is not None:
            runs = routing.once(
                ("runs", leading, len(shared), names),
                lambda: routed_runs(routing, leading, num_shared=len(shared), lanes=lanes),
            )
            return with_runs(self, inputs, updates, runs)
        return self._routed_side_by_side(inputs, routing, shared)

    def _thin(self, names: Sequence[str]) -> list[native.Thin] | None:
        """Return the updates of ``names`` for the compiled kernels, None where one is not for them."""
        updates: list[native.Thin] = []
        for name in names:
            update = native.thin(self.lora_A[name], self.lora_B[name], self.scale(name))
            if update is None:
                return None
            updates.append(update)
        return updates

    def _routed_side_by_side(self, inputs: Tensor, routing: Routing, shared: tuple[str, ...]) -> Tensor:
        """Return outputs from one pair of thin products a block of tokens, with all adapters in it and a mask."""
        # Gradients are for the adapters of this batch's rows; without gradients one stack serves all batches.
        choice = routing.present if torch.is_grad_enabled() else routing.adapters
        lanes = routing.lanes(tuple(name for name in choice if name in self.lora_options))
        names = (*shared, *chain(*lanes))
        grad = torch.is_grad_enabled()
        A_RI, B_OR = self._stacked(names) if grad else self._kept(names, (*shared, *routing.present))
        leading, shape = inputs.shape[:-1], self._shape(names)
        parts = routing.once(
            (leading, len(shared), names, shape, inputs.dtype),
            lambda: routed_parts(routing, inputs, shape, num_shared=len(shared), lanes=lanes),
        )
        return low_rank(self, inputs, A_RI, B_OR, parts=parts)

    def _routed_plainly(
        self, inputs: Tensor, routing: Routing, shared: Sequence[str], lanes: Sequence[tuple[str, ...]]
    ) -> Tensor:
        outputs = super().forward(inputs)
        for name in shared:
            outputs = outputs + self._update(inputs, name)
        for lane in lanes:
            index = routing.index_N(inputs.shape[:-1], lane, inputs.device).view(*inputs.shape[:-1], 1)
            for place, name in enumerate(lane):
                outputs = outputs + self._update(inputs, name, gate=index == place)
        return outputs

    def _shape(self, names: Sequence[str]) -> tuple[tuple[int, float], ...]:
        """Return rank and scale of each of ``names``: sites where these agree share their gates."""
        return tuple((self.lora_options[name]["rank"], self.scale(name)) for name in names)

    def _kept(self, names: tuple[str, ...], used: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the factors of ``names`` side by side, made anew only if one of ``used`` has changed."""
        pairs = {name: (self.lora_A[name], self.lora_B[name]) for name in used if name in self.lora_options}
        stack: _Stack | None = self.__dict__.get("_stack")
        if stack is None or not stack.holds(names, pairs):
            pairs = {name: (self.lora_A[name], self.lora_B[name]) for name in names}
            stack = _Stack(pairs, *self._stacked(names))
            self.__dict__["_stack"] = stack
        return stack.A_RI, stack.B_OR

    def _update(self, inputs: Tensor, name: str, gate: Tensor | None = None) -> Tensor:
        dropout = self.lora_options[name]["dropout"]
        hidden = F.dropout(inputs, dropout, self.training) if dropout else inputs
        # The scale goes onto the narrow middle: R values a token instead of O.
        narrow = F.linear(hidden, self.lora_A[name]) * self.scale(name)
        return F.linear(narrow if gate is None else narrow * gate.to(narrow.dtype), self.lora_B[name])

    def add(self, name: str, options: dict[str, Any], A_RI: Tensor, B_OR: Tensor) -> None:
        """Add one adapter with copies of its factors; frozen until a table says otherwise."""
        self.put(name, options, {"lora_A": A_RI, "lora_B": B_OR}, edit=LoraSite)


class _Stack:
    """The factors of several adapters side by side, and by what they were made of, whether they still are."""

    def __init__(self, pairs: Mapping[str, tuple[Tensor, Tensor]], A_RI: Tensor, B_OR: Tensor) -> None:
        self.names = tuple(pairs)
        self.pairs = dict(pairs)
        self.versions = {name: tuple(map(_version, pair)) for name, pair in pairs.items()}
        self.A_RI = A_RI
        self.B_OR = B_OR

    def holds(self, names: tuple[str, ...], pairs: Mapping[str, tuple[Tensor, Tensor]]) -> bool:
        """Return whether this is the stack of ``names``, and ``pairs``, some of it, are what it was made of."""
        if names != self.names:
            return False
        for name, (A_RI, B_OR) in pairs.items():
            own_A, own_B = self.pairs[name]
            if own_A is not A_RI or own_B is not B_OR or A_RI.dtype is not self.A_RI.dtype:
                return False
            if self.versions[name] != (_version(A_RI), _version(B_OR)):
                return False
        return True


def _version(tensor: Tensor) -> float:
    """Return how often ``tensor`` was changed in place; not a number, which equals nothing, where nobody counts."""
    return math.nan if tensor.is_inference() else tensor._version


class LoraEmbedding(Edit):
    """In front of an embedding: a look-up in the table plus ``scale * B A``, of which only rows in use are computed."""

    key = "lora"
    place = 0
    tables = ("lora_embedding_A", "lora_embedding_B")
    lora_embedding_A: Factors
    lora_embedding_B: Factors
    lora_options: dict[str, dict[str, Any]]

    def forward(self, ids: Tensor) -> Tensor:
        """Return vectors (..., D) of ``ids`` (...)."""
        outputs = super().forward(ids)
        for name, positions_N in self.acting(LoraEmbedding, ids.shape):
            down_VR, up_DR = self.lora_embedding_A[name].t(), self.lora_embedding_B[name]
            chosen = ids if positions_N is None else ids.flatten()[positions_N]
            added = F.linear(F.embedding(chosen, down_VR) * scale(self.lora_options[name]), up_DR)
            outputs = plus(outputs, added, positions_N)
        return outputs


def scale(options: Mapping[str, Any]) -> float:
    """Return the factor of an update: alpha / rank, or alpha / sqrt(rank) where it is to be stable in the rank.

    Source: arXiv:2106.09685, section 4.1; arXiv:2312.03732, theorem 3.2.
    """
    rank = options["rank"]
    return options["alpha"] / (math.sqrt(rank) if options.get("rslora") else rank)


def initial(shape: tuple[int, ...], /, *, seed: int) -> Tensor:
    """Return a fresh A of ``shape`` (R, I) in fp32: kaiming uniform with a = sqrt(5), as in the authors' code.

    Source: arXiv:2106.09685, section 4.1, has A random and B zero; github.com/microsoft/LoRA draws it so.
    """
    generator = torch.Generator().manual_seed(seed)
    return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)


def update(A_RI: Tensor, B_OR: Tensor, *, scale: float, kind: SiteKind) -> Tensor:
    """Return ``scale * B A`` in fp32, in the orientation in which ``kind`` stores its weight."""
    delta_OI = scale * (B_OR.float() @ A_RI.float())
    return delta_OI if kind is SiteKind.LINEAR else delta_OI.T
