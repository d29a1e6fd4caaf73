"""What a method is, and what a plan is. One file a method; ``weft.strategy.registry`` lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from torch import Tensor

from weft.core.parts import AdapterState
from weft.core.sites import SiteMap
from weft.core.table import ParamTable
from weft.core.view import ParamInfo, Site, SiteKind
from weft.recipe.spec import Rule


class Edits(StrEnum):
    """What a method changes; legality of combinations follows from this, never from pairs of names."""

    NOTHING = "nothing"  # freeze or train what is there
    WEIGHT = "weight"  # adds to a site's weight: merges exactly (LoRA)
    OUTPUT = "output"  # acts on a site's output (bottleneck adapters, IA3)
    POSITIONS = "positions"  # adds virtual tokens or keys (prompt, prefix)


class Method(Protocol):
    """One way of moving parameters at a site. Methods that edit NOTHING are these declarations and no more."""

    name: ClassVar[str]
    rule: ClassVar[type[Rule]]
    edits: ClassVar[Edits]
    lr: ClassVar[float]  # default peak learning rate; 0 where nothing is trained
    kinds: ClassVar[frozenset[SiteKind]]  # where it can act
    trains_site: ClassVar[bool]  # whether the site's own parameters move


class AdapterMethod(Method, Protocol):
    """A method that brings parameters of its own: every method whose ``edits`` is not NOTHING."""

    def params(self, site: Site, rule: Rule, adapter: str) -> tuple[ParamInfo, ...]:
        """Return the parameters that ``install`` will add at ``site``."""
        ...

    def options(self, site: Site, rule: Rule) -> dict[str, Any]:
        """Return what must be known of ``rule`` at ``site``, as JSON values: an entry of ``config['sites']``."""
        ...

    def install(self, sites: SiteMap, site: Site, rule: Rule, *, adapter: str, seed: int) -> None:
        """Put the method's module at ``site``, initialised from ``seed`` such that the function stays the same."""
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
    """What a strategy does to a network: modules to install, and the exact ParamTable there will be after that."""

    installs: tuple[Install, ...]
    table: ParamTable
