"""What a method is, and what a plan is. One file a method; ``weft.strategy.registry`` lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple

from weft.core.routing import Routes
from weft.core.table import Draw, ParamTable
from weft.core.view import SiteKind
from weft.recipe.spec import Rule


class Edits(StrEnum):
    """What a method changes; legality of combinations follows from this, never from pairs of names."""

    NOTHING = "nothing"  # freeze or train what is there
    WEIGHT = "weight"  # adds to a site's weight: merges exactly (LoRA)
    OUTPUT = "output"  # acts on a site's output (bottleneck adapters, IA3)
    POSITIONS = "positions"  # adds virtual tokens or keys (prompt, prefix)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parameter lies.

    Attributes:
        layer: its layer's canonical path (``encoder.layers.3``), empty outside of layers.
        above: layers of its stack between it and the output: all of them for embeddings, none for what follows layers.
        num_layers: of its stack.
    """

    layer: str
    above: int
    num_layers: int


@dataclass(frozen=True, slots=True)
class Timing:
    """When within a stage a parameter moves: see ``weft.core.table.ParamRow``."""

    since: float = 0.0
    draw: Draw | None = None


class Method:
    """One way of moving parameters at a site; what freezes or trains what is there is these declarations and no more."""

    name: ClassVar[str]
    rule: ClassVar[type[Rule]]
    lr: ClassVar[float]  # default peak learning rate in a trunk as wide as BERT-base; 0: nothing is trained
    moves_matrices: ClassVar[bool] = False  # whether that rate falls with the width (weft.strategy.rates)
    advice: ClassVar[str]  # where that rate and the default sites come from, in words that end a sentence
    source: ClassVar[str]  # where it was published; empty for what everybody knows
    edits: ClassVar[Edits] = Edits.NOTHING
    kinds: ClassVar[frozenset[SiteKind]] = frozenset(SiteKind)  # where it can act
    trains_site: ClassVar[bool] = True  # whether the site's own parameters move

    def usual(self, rule: Rule) -> float:  # noqa: ARG002
        """Return the default peak rate under ``rule``, in a trunk as wide as BERT-base."""
        return self.lr

    def counts_layers(self, rule: Rule) -> bool:
        """Return whether what ``rule`` says differs from layer to layer, so that layers must be known."""
        return rule.layer_decay != 1

    def timing(self, rule: Rule, place: Place) -> Timing:  # noqa: ARG002
        """Return when the parameters at ``place`` move: from the share of the stage that the rule says to its end."""
        return Timing(rule.since)


class AdapterRule(Rule):
    """A rule of a method that brings parameters of its own."""

    per_task: bool = False
    """One adapter for each task of the stage; each row passes through its own task's, also in mixed batches."""


class Below(NamedTuple):
    """An adapter of an earlier stage that stays as it is: its name, its method, and its options by site."""

    name: str
    method: str
    options: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Install:
    """One site that gets a method's module."""

    site: str
    method: str
    rule: Rule
    adapter: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a strategy does to a network.

    Attributes:
        installs: modules to install.
        table: the exact ParamTable that there will be after that.
        routes: the new adapters by task, for tasks whose rows pass through adapters of their own.
        defaults: a line on each learning rate that nobody named, and where it comes from.
    """

    installs: tuple[Install, ...]
    table: ParamTable
    routes: Routes = field(default_factory=dict[str, tuple[str, ...]])
    defaults: tuple[str, ...] = ()
