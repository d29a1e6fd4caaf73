"""Hybrid-LoRA: full training of the few modules that a low-rank update fits worst, LoRA of the others.

Legend: I input width, O output width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from weft.core.view import ModelView, Site, SiteKind
from weft.recipe.spec import Rule
from weft.strategy.choosing import ChoosingRule, exactly
from weft.strategy.full import FullRule
from weft.strategy.lora import LoraRule
from weft.strategy.selector import is_head, select_sites

_FULL_OF_LORA = 0.1
"""Full training's rate as a share of LoRA's ("LoRA Without Regret", Thinking Machines, 2025)."""


class HybridRule(LoraRule, ChoosingRule):
    """``{train: hybrid-lora, share: 0.1, rank: 8}``.

    A tenth of the modules trained fully is the budget of arXiv:2605.18822, which ranks them by their sensitivity to
    low-rank adaptation. How that paper scores them could not be looked up; the score here is derived from its idea:
    what of a module's gradient no matrix of the rule's rank can follow (``beyond``).
    """

    source: ClassVar[str] = "arXiv:2605.18822"

    train: Literal["hybrid-lora"] = "hybrid-lora"  # pyright: ignore[reportIncompatibleVariableOverride]
    share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the modules that are trained fully; at least one is."""
    batches: int = Field(default=8, ge=1, le=10_000)
    """Batches of training rows whose summed gradient says which: as the heads stand when the stage is entered."""
    full_lr: float | None = Field(default=None, gt=0, le=10)
    """Peak learning rate of the modules trained fully; default: a tenth of lr, else the stage's or full training's."""

    def candidates(self, view: ModelView) -> tuple[Site, ...]:
        """Return the linear modules of the trunk that the selector names and that share their weight with no other."""
        tied = {info.tied_to for site in view.sites for info in site.params}
        named = frozenset(select_sites(view, self.sites))
        return tuple(
            site
            for site in view.sites
            if site.path in named
            and site.kind in (SiteKind.LINEAR, SiteKind.CONV1D)
            and not is_head(site.path)
            and not any(info.tied_to or info.path in tied for info in site.params)
        )

    def count(self, num_candidates: int) -> int:
        """Return the share of ``num_candidates``, rounded, at least one."""
        return max(1, round(self.share * num_candidates))

    def score(self, gradient: Tensor) -> float:
        """Return what a LoRA of this rank cannot follow of ``gradient``, per value that full training would move."""
        return beyond(gradient, self.rank) / gradient.numel()

    def plain(self, view: ModelView, chosen: Sequence[str]) -> tuple[Rule, ...]:
        """Return a LoRA on what the selector names, and after it full training of each site of ``chosen``."""
        values = {key: getattr(self, key) for key in LoraRule.model_fields if key != "train"}
        full_lr = self.full_lr
        if full_lr is None and self.lr is not None:
            full_lr = _FULL_OF_LORA * self.lr
        shared = {"lr": full_lr, "layer_decay": self.layer_decay, "since": self.since}
        full = (FullRule.model_validate({"sites": exactly(view, path), **shared}) for path in chosen)
        return (LoraRule.model_validate(values), *full)


def beyond(gradient_OI: Tensor, rank: int) -> float:
    """Return the energy of ``gradient_OI`` outside its ``rank`` largest singular directions.

    That is the squared distance to the nearest matrix of that rank (Eckart and Young, 1936), so the part of a step of
    full training that no LoRA of this rank can take. It is computed from the smaller Gram matrix, whose eigenvalues are
    the squared singular values; scaled to its largest value first, for squares of small gradients vanish in fp32.
    """
    largest = float(gradient_OI.abs().max())
    if largest == 0.0:
        return 0.0
    scaled = gradient_OI.detach().float() / largest
    gram = scaled @ scaled.T if scaled.shape[0] <= scaled.shape[1] else scaled.T @ scaled
    squares = torch.linalg.eigvalsh(gram)  # ascending
    return float(squares[: max(0, len(squares) - rank)].clamp_min(0).sum()) * largest**2
