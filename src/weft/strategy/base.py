"""What a method is, and what a plan is. One file a method; ``weft.strategy.registry`` lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, Protocol

from pydantic import BaseModel
from torch import Tensor

from weft.core.parts import AdapterState
from weft.core.routing import Routes
from weft.core.sites import SiteMap
from weft.core.table import Draw, ParamTable
from weft.core.view import ModelView, ParamInfo, Site, SiteKind
from weft.recipe.spec import Rule
from weft.strategy.edit import Edit


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


class Timed:
    """Moves from the share of the stage that a rule says to its end: what nearly every method does."""

    def timing(self, rule: Rule, place: Place) -> Timing:  # noqa: ARG002
        """Return when the parameters at ``place`` move."""
        return Timing(rule.since)


class Method(Protocol):
    """One way of moving parameters at a site. Methods that edit NOTHING are these declarations and no more."""

    name: ClassVar[str]
    rule: ClassVar[type[Rule]]
    edits: ClassVar[Edits]
    lr: ClassVar[float]  # default peak learning rate; 0 where nothing is trained
    advice: ClassVar[str]  # where that rate and the default sites come from, in words that end a sentence
    kinds: ClassVar[frozenset[SiteKind]]  # where it can act
    trains_site: ClassVar[bool]  # whether the site's own parameters move
    source: ClassVar[str]  # where it was published; empty for what everybody knows

    def timing(self, rule: Rule, place: Place) -> Timing:
        """Return when within a stage the parameters at ``place`` move."""
        ...


class AdapterRule(Rule):
    """A rule of a method that brings parameters of its own."""

    per_task: bool = False
    """One adapter for each task of the stage; each row passes through its own task's, also in mixed batches."""


class Below(NamedTuple):
    """An adapter of an earlier stage that stays as it is: its name, its method, and its options by site."""

    name: str
    method: str
    options: Mapping[str, Mapping[str, Any]]


class AdapterMethod(Method, Protocol):
    """A method that brings parameters of its own: every method whose ``edits`` is not NOTHING."""

    is_alone: ClassVar[bool]  # whether no other adapter may edit the weight at its sites
    routes: ClassVar[bool]  # whether the rows of one batch may take different adapters
    needs_others: ClassVar[bool]  # whether it acts only on what adapters below it add
    has_parts: ClassVar[bool]  # whether one adapter has a part for each task of the stage
    at_site: ClassVar[type[BaseModel]]  # form of the options of a site, to check what was read from a file

    def bound(self, rule: Rule, *, tasks: Sequence[str], view: ModelView, below: Sequence[Below]) -> Rule:
        """Return ``rule`` as it is for a stage of ``tasks`` on a network that looks like ``view``.

        ``below`` are the adapters in it that stay as they are.
        """
        ...

    def edit(self, kind: SiteKind) -> type[Edit]:
        """Return the class that stands in front of a module of ``kind``; its ``place`` is the order of merging."""
        ...

    def stands_at(self, view: ModelView, site: Site) -> bool:
        """Return whether the method can act at ``site``, which is of one of its ``kinds``; others are left out."""
        ...

    def check(self, view: ModelView, sites: Sequence[Site], rule: Rule) -> None:
        """Refuse sites of a rule that cannot be had together, or not in this model.

        Raises:
            StrategyError: with the reason.
        """
        ...

    def keeps_function(self, rule: Rule) -> bool:
        """Return whether a new adapter of ``rule`` leaves the network's function as it is."""
        ...

    def rate(self, rule: Rule, table: str) -> float:
        """Return what the rule's learning rate is multiplied with for the tensors of ``table``."""
        ...

    def params(self, site: Site, rule: Rule, adapter: str) -> tuple[ParamInfo, ...]:
        """Return the parameters that ``install`` will add at ``site``."""
        ...

    def options(self, site: Site, rule: Rule) -> dict[str, Any]:
        """Return what must be known of ``rule`` at ``site``, as JSON values: an entry of ``config['sites']``."""
        ...

    def install(self, sites: SiteMap, site: Site, rule: Rule, *, adapter: str, seed: int) -> None:
        """Put the method's module at ``site``, initialised from ``seed``; see ``keeps_function``."""
        ...

    def complete(self, sites: SiteMap, adapter: str, *, fresh: Sequence[str], seed: int) -> None:
        """Do what can only be done once ``adapter`` stands at all of its sites; ``fresh`` ones were installed now."""
        ...

    def extract(self, sites: SiteMap, adapter: str) -> AdapterState | None:
        """Return copies of the tensors of ``adapter`` and its options; None where this method has none so called."""
        ...

    def restore(self, sites: SiteMap, state: AdapterState) -> None:
        """Install a saved adapter with its tensors."""
        ...

    def joined(self, states: Sequence[AdapterState], *, name: str) -> AdapterState:
        """Return one adapter called ``name`` that does what ``states``, one on the other, do."""
        ...

    def part(self, state: AdapterState, part: str) -> AdapterState:
        """Return what rows that take ``part`` of ``state`` pass through, as an adapter, maybe of another method."""
        ...

    def merged(self, weights: Mapping[str, Tensor], state: AdapterState) -> dict[str, Tensor]:
        """Return new values of the trunk parameters that ``state`` folds into; pure, in fp32, in the inputs' dtype.

        ``weights`` holds current values by canonical path. Methods that do not edit WEIGHT refuse.
        """
        ...


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
