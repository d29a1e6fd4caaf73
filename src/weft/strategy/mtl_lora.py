"""MTL-LoRA: one down-projection for all tasks, a small matrix for each, and several up-projections weighed by task.

A row of task t gets ``W x + scale * sum_i softmax(w_t / temperature)_i B_i Lambda_t A x``. The adapter is one; rows of
a task take their part of it, so that what they pass through is a plain LoRA with ``B = sum_i p_ti B_i Lambda_t``.

Legend: N positions, I input width, O output width, R rank, U up-projections, K tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from weft.core.parts import AdapterState, routes_to
from weft.core.routing import Routing
from weft.core.sites import SiteMap
from weft.core.view import ModelView, Site
from weft.errors import StrategyError
from weft.recipe.names import Name
from weft.recipe.spec import Rule
from weft.strategy.base import Below, Edits
from weft.strategy.edit import Edit, Factors
from weft.strategy.lora import Lora
from weft.strategy.lora_layer import initial, scale
from weft.strategy.site_method import AtSite, SiteMethod, widths_of


class MtlLoraRule(Rule):
    """``{train: mtl-lora, rank: 8, up_projections: 3}``."""

    sites: str = "linear"
    """Selector; default: every linear site but the output embedding."""
    train: Literal["mtl-lora"] = "mtl-lora"  # pyright: ignore[reportIncompatibleVariableOverride]
    rank: int = Field(default=8, ge=1, le=4096)
    """Rank of the update of each task."""
    alpha: float | None = Field(default=None, gt=0, le=1e6)
    """The update is scaled by alpha / rank; default: twice the rank."""
    up_projections: int = Field(default=3, ge=1, le=64)
    """Up-projections that tasks share, each task with weights of its own."""
    temperature: float = Field(default=0.5, gt=0, le=1000)
    """The smaller, the more a task's weights prefer one up-projection."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the update's input while training."""


class _BoundRule(MtlLoraRule):
    """The rule as it is in a stage: with the tasks that have a part."""

    tasks: tuple[Name, ...]


class MtlLoraSite(Edit):
    """In front of a linear class: the base's output plus each row's part of every adapter at this site."""

    key = "mtl"
    place = 1  # LoRA multiplies with the weight itself, so it must be nearer
    tables = ("mtl_A", "mtl_B", "mtl_mix", "mtl_weights")
    mtl_A: Factors
    mtl_B: Factors
    mtl_mix: Factors
    mtl_weights: Factors
    mtl_options: dict[str, dict[str, Any]]

    @classmethod
    def routes_in(cls, name: str, options: Mapping[str, Any]) -> Sequence[str]:
        """Return a route for each task's part of adapter ``name``."""
        return tuple(routes_to(name, options["tasks"], options["tasks"]).values())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (..., O) for ``inputs`` (..., I)."""
        outputs = super().forward(inputs)
        for name in self.mtl_options:
            outputs = outputs + self._update(inputs, name)
        return outputs

    def _update(self, inputs: Tensor, name: str) -> Tensor:
        """Return what adapter ``name`` adds; where nobody says whose rows these are, all parts of it."""
        options = self.mtl_options[name]
        hidden = F.dropout(inputs, options["dropout"], self.training) if options["dropout"] else inputs
        narrow = F.linear(hidden, self.mtl_A[name]) * scale(options)
        mixed = mixing(self.mtl_mix[name], self.mtl_weights[name], temperature=options["temperature"])
        gate = None if self.routing is None else self._gate(self.routing, inputs, name)
        if gate is None:
            coefficients = narrow @ mixed.sum(0)
        else:
            # Each position's R values in its own task's columns: one product picks the task and mixes.
            own = gate.unsqueeze(-1) * narrow.unsqueeze(-2)
            coefficients = own.flatten(-2) @ mixed.flatten(0, 1)
        return F.linear(coefficients, self.mtl_B[name])

    def _gate(self, routing: Routing, inputs: Tensor, name: str) -> Tensor | None:
        """Return which parts of ``name`` act at each position, 0 or 1, shape (..., K); None where all do everywhere."""
        parts = self.routes_in(name, self.mtl_options[name])
        routes = (name, *parts)
        if routing.named.isdisjoint(routes):
            return None
        leading = inputs.shape[:-1]

        def make() -> Tensor:
            of_whole, of_none = inputs.new_ones(1, len(parts)), inputs.new_zeros(1, len(parts))
            one_K = torch.eye(len(parts), dtype=inputs.dtype, device=inputs.device)
            index_N = routing.index_N(leading, routes, inputs.device)  # -1 is the last row: none
            return torch.cat([of_whole, one_K, of_none])[index_N].view(*leading, len(parts))

        return routing.once((MtlLoraSite, leading, routes, inputs.dtype), make)


def mixing(mix_KRR: Tensor, weights_KU: Tensor, *, temperature: float) -> Tensor:
    """Return for each task what its narrow states are multiplied with before all up-projections: (K, R, U * R)."""
    shares_KU = torch.softmax(weights_KU.float() / temperature, -1).to(mix_KRR.dtype)
    mixed_KRUR = shares_KU[:, None, :, None] * mix_KRR.transpose(1, 2).unsqueeze(2)
    return mixed_KRUR.flatten(2)


class MtlLoraAt(AtSite):
    """Options of a site."""

    rank: Annotated[int, Field(ge=1)]
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    up_projections: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    tasks: Annotated[list[Name], Field(min_length=1)]


def _identities(shape: tuple[int, ...], /, *, seed: int) -> Tensor:  # noqa: ARG001
    return torch.eye(shape[-1]).expand(shape).clone()


class MtlLora(SiteMethod):
    """Low-rank updates that tasks share and tell apart.

    Starts as the authors' code does: A random, all B zero, each Lambda the identity. The weights of up-projections are
    drawn too, for were they equal, all B would get the same gradient and stay the same.
    """

    name = "mtl-lora"
    rule = MtlLoraRule
    edits = Edits.WEIGHT
    lr = 5e-4
    moves_matrices = True
    advice = "LoRA's, whose places and rate it shares (arXiv:2410.09437)"
    module = MtlLoraSite
    starts = MappingProxyType({"mtl_A": initial, "mtl_mix": _identities, "mtl_weights": initial})
    has_parts = True
    source = "arXiv:2410.09437"
    at_site = MtlLoraAt

    def bound(
        self,
        rule: Rule,
        *,
        tasks: Sequence[str],
        view: ModelView,  # noqa: ARG002
        below: Sequence[Below],  # noqa: ARG002
    ) -> Rule:
        """Return ``rule`` with a part for each of ``tasks``."""
        return _BoundRule.model_validate({**rule.model_dump(), "tasks": tuple(tasks)})

    def options(self, site: Site, rule: Rule) -> dict[str, Any]:
        """Return rank, alpha, the rest of the rule, whose parts there are, and the kind of the site."""
        assert isinstance(rule, _BoundRule)
        return {
            "rank": rule.rank,
            "alpha": 2.0 * rule.rank if rule.alpha is None else rule.alpha,
            "up_projections": rule.up_projections,
            "temperature": rule.temperature,
            "dropout": rule.dropout,
            "tasks": list(rule.tasks),
            "kind": str(site.kind),
        }

    def shapes(self, site: Site, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return A (R, I), all B side by side (O, U * R), Lambda of each task (K, R, R) and weights (K, U)."""
        rank, (width_in, width_out) = options["rank"], widths_of(site)
        count, tasks = options["up_projections"], len(options["tasks"])
        shapes = ((rank, width_in), (width_out, count * rank), (tasks, rank, rank), (tasks, count))
        return dict(zip(MtlLoraSite.tables, shapes, strict=True))

    def part(self, state: AdapterState, part: str) -> AdapterState:
        """Return the LoRA that rows of task ``part`` pass through.

        Raises:
            StrategyError: there is no part of that name.
        """
        options: dict[str, dict[str, Any]] = {}
        tensors: dict[str, Tensor] = {}
        for site, at_site in state.config["sites"].items():
            own = _place(state.name, at_site, part)
            A_RI, B_OX, mix, weights = (
                state.tensors[f"{site}.{table}.{state.name}"] for table in MtlLoraSite.tables
            )
            mixed_RX = mixing(mix, weights, temperature=at_site["temperature"])[own]
            options[site] = {key: at_site[key] for key in ("rank", "alpha", "dropout", "kind")}
            tensors[f"{site}.lora_A.{state.name}"] = A_RI
            tensors[f"{site}.lora_B.{state.name}"] = B_OX @ mixed_RX.t()
        return AdapterState(state.name, Lora.name, {"sites": options}, tensors)

    def restore(self, sites: SiteMap, state: AdapterState) -> None:
        """Install a saved adapter.

        Raises:
            StrategyError: it does not fit the network, or a task takes a part that it does not have.
        """
        for at_site in state.config["sites"].values():
            for part in state.parts:
                _place(state.name, at_site, part)
        super().restore(sites, state)

    def merged(self, weights: Mapping[str, Tensor], state: AdapterState) -> dict[str, Tensor]:
        """Return ``W + scale * sum_i p_i B_i Lambda A`` for each site of ``state``: computed in fp32, in the dtype of W.

        Raises:
            StrategyError: several tasks have a part, so that no weights do the same for all; or a weight is not given.
        """
        tasks = next(iter(state.config["sites"].values()))["tasks"]
        if len(tasks) > 1:
            raise StrategyError(
                f"{state.name}: must be for one task to be folded into weights, but has a part for each of "
                f"{', '.join(tasks)}. Carry the trunk with stack, continue or drop, or keep one task."
            )
        return Lora().merged(weights, self.part(state, tasks[0]))


def _place(adapter: str, options: Mapping[str, Any], part: str) -> int:
    """Return the place of ``part`` among the parts of ``adapter``."""
    if part not in options["tasks"]:
        raise StrategyError(
            f"adapter {adapter}: {part} must be one of its parts {', '.join(options['tasks'])}, but is not."
        )
    return options["tasks"].index(part)
