"""Full training: the site's own parameters move."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from weft.recipe.spec import Rule
from weft.strategy.base import Method, Place, Timing


class FullRule(Rule):
    """``{sites: "layers[10:]", train: full, lr: 2e-5}``."""

    train: Literal["full"] = "full"  # pyright: ignore[reportIncompatibleVariableOverride]
    gradual: float = Field(default=0.0, ge=0, lt=1)
    """Share of the stage over which layers join, one after the other from the top (arXiv:1801.06146, section 3.3)."""


class Full(Method):
    """Trains every parameter that a rule's selector names.

    The default rate is the upper end of what BERT's authors recommend for fine-tuning (arXiv:1810.04805, A.3).
    """

    name = "full"
    rule = FullRule
    lr = 5e-5
    moves_matrices = True
    advice = "the upper end of what BERT was fine-tuned with (arXiv:1810.04805, appendix A.3)"
    source = "arXiv:1810.04805"

    def counts_layers(self, rule: Rule) -> bool:
        """Return whether layers join one after the other, or have rates of their own."""
        assert isinstance(rule, FullRule)
        return rule.gradual > 0 or super().counts_layers(rule)

    def timing(self, rule: Rule, place: Place) -> Timing:
        """Return when the parameters at ``place`` move: with ``gradual`` the later, the more layers are above them."""
        assert isinstance(rule, FullRule)
        joined = rule.gradual * (place.above + 1) / (place.num_layers + 1)
        return Timing(max(rule.since, joined))
