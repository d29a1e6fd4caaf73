"""Rules that choose: which modules they mean follows from gradients, and once they are chosen, plain rules are left.

This room knows gradients by path only; where they come from is the affair of who enters a stage (``weft.build``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from torch import Tensor

from weft.core.view import ModelView, Site
from weft.errors import SiteError, StrategyError
from weft.recipe.spec import Rule
from weft.strategy.selector import select_sites


class ChoosingRule(Rule):
    """A rule that means some of its candidates; a subclass says which they are and what becomes of the others."""

    source: ClassVar[str] = ""  # where it was published

    batches: int
    """Batches of training rows that the choice is made by."""

    def candidates(self, view: ModelView) -> tuple[Site, ...]:
        """Return the modules that may be chosen, in view order."""
        raise NotImplementedError

    def count(self, num_candidates: int) -> int:
        """Return how many are chosen."""
        raise NotImplementedError

    def score(self, gradient: Tensor) -> float:
        """Return how much is to be said for choosing the module whose weight has ``gradient`` (two dimensions)."""
        raise NotImplementedError

    def plain(self, view: ModelView, chosen: Sequence[str]) -> tuple[Rule, ...]:
        """Return the rules that this one stands for, once the sites ``chosen`` are."""
        raise NotImplementedError


class Choose(Protocol):
    """Chooses for the rule with this number (from 1) among ``candidates``: paths of sites, best first."""

    def __call__(self, rule: ChoosingRule, candidates: Sequence[Site], /, *, number: int) -> Sequence[str]:
        """Return as many paths as the rule counts."""
        ...


def expanded(
    rules: Sequence[Rule], view: ModelView, choose: Choose | None
) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """Return the plain rules that ``rules`` stand for, and a line on each choice.

    Args:
        rules: of a stage.
        view: the network that it is entered with.
        choose: makes choices; None where there are no weights: the largest candidates then stand for those chosen.

    Raises:
        StrategyError: a rule has nothing to choose from.
    """
    found: list[Rule] = []
    lines: list[str] = []
    for number, rule in enumerate(rules, start=1):
        if not isinstance(rule, ChoosingRule):
            found.append(rule)
            continue
        candidates = rule.candidates(view)
        if not candidates:
            raise StrategyError(
                f"rule {number}: {rule.sites} must name linear modules to choose from, but names none. Use sites: linear."
            )
        count = rule.count(len(candidates))
        words = f"rule {number}, {rule.train}: {count} of {len(candidates)} modules are trained fully"
        if choose is None:
            chosen = [site.path for site in sorted(candidates, key=_size, reverse=True)[:count]]
            lines.append(
                f"{words}, chosen by gradients of {rule.batches} batches when the stage is entered; here the largest "
                f"stand for them"
            )
        else:
            chosen = list(choose(rule, candidates, number=number))
            lines.append(
                f"{words}, chosen by gradients of {rule.batches} batches, best first: {', '.join(chosen)}"
            )
        found += rule.plain(view, chosen)
    return tuple(found), tuple(lines)


def best(rule: ChoosingRule, gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the sites that ``rule`` means with their scores, best first; equal ones in the order of ``gradients``.

    Args:
        rule: counts and scores.
        gradients: of the weight of each candidate, by the site's path.
    """
    scores = {path: rule.score(gradient) for path, gradient in gradients.items()}
    ranked = sorted(scores, key=lambda path: -scores[path])
    return {path: scores[path] for path in ranked[: rule.count(len(scores))]}


def exactly(view: ModelView, path: str) -> str:
    """Return a selector that means the site at ``path`` and no other."""
    try:
        if select_sites(view, path) == (path,):
            return path
    except SiteError:  # no words for it in a model without a name table
        pass
    raw = next(site.raw for site in view.sites if site.path == path)
    return f"re:^{re.escape(raw)}$"


def _size(site: Site) -> int:
    return max(info.size for info in site.params)
