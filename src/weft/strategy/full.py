"""Full training: the site's own parameters move."""

from __future__ import annotations

from typing import ClassVar, Literal

from weft.core.view import SiteKind
from weft.recipe.spec import Rule
from weft.strategy.base import Edits


class FullRule(Rule):
    """``{sites: "layers[10:]", train: full, lr: 2e-5}``."""

    train: Literal["full"] = "full"  # pyright: ignore[reportIncompatibleVariableOverride]


class Full:
    """Trains every parameter that a rule's selector names.

    The default rate is the upper end of what BERT's authors recommend for fine-tuning (arXiv:1810.04805, A.3).
    """

    name: ClassVar[str] = "full"
    rule: ClassVar[type[Rule]] = FullRule
    edits: ClassVar[Edits] = Edits.NOTHING
    lr: ClassVar[float] = 5e-5
    kinds: ClassVar[frozenset[SiteKind]] = frozenset(SiteKind)
    trains_site: ClassVar[bool] = True
