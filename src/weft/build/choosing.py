"""Gradients of the loss on a stage's training rows at entry, for rules that choose modules by them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import cast

import torch
from torch import Tensor

from weft.build.data import Data
from weft.build.order import feed_of, order_of
from weft.core.network import Network, Trunk
from weft.core.sites import SiteMap
from weft.core.view import Site
from weft.objective.supervised import Supervised
from weft.recipe.spec import Recipe, StageSpec
from weft.strategy.choosing import ChoosingRule, best
from weft.train.engine import denominators_of, shares_of


@dataclass(frozen=True, slots=True)
class ByGradients:
    """Chooses by gradients: a pure function of the network as it is entered, the training rows and the seed.

    Attributes:
        recipe: the whole recipe.
        stage: one of its stages.
        data: the encoded data, of which training rows alone are read.
        pad: the token that fills padded batches.
        dtype: of the trunk while it computes.
    """

    recipe: Recipe
    stage: StageSpec
    data: Data
    pad: int
    dtype: torch.dtype

    def scores(self, sites: SiteMap, rule: ChoosingRule, candidates: Sequence[Site]) -> dict[str, float]:
        """Return the sites that ``rule`` means with their scores, best first."""
        return best(rule, self.gradients(sites, [site.path for site in candidates], num_steps=rule.batches))

    def gradients(self, sites: SiteMap, paths: Sequence[str], *, num_steps: int) -> dict[str, Tensor]:
        """Return the gradient of each site's weight, summed over the first steps of the stage, without dropout.

        Takes as much memory as these weights in fp32. The network is left as it was.
        """
        network, weights = sites.network, dict(sites.parameters())
        wanted = {path: weights[f"{path}.weight"] for path in paths}
        packs = cast(Trunk, network.trunk).packs
        order = order_of(self.recipe, self.stage, self.data, by_length=not packs)
        feed = feed_of(self.stage, order, self.data, network, pad=self.pad)
        objective = Supervised({name: self.data.tasks[name].task.loss for name in order.mixture.tasks})
        counts = {name: self.recipe.tasks[name].weight for name in order.mixture.tasks}
        with _only(network, list(wanted.values())):
            for step in islice(order.steps(0), num_steps):
                batches = feed(step)
                denominators = denominators_of(batches)
                for batch in batches:
                    with network.computing(self.dtype) as twins:
                        losses = objective(batch.to(network.device), network)
                        share = shares_of(losses, denominators, counts)
                        if share is not None and share.requires_grad:
                            share.backward()
                        if twins is not None:
                            twins.collect()
            return {path: _gradient(weight) for path, weight in wanted.items()}


def _gradient(weight: Tensor) -> Tensor:
    """Return the gradient of ``weight``, which gives it up: zeros where nothing that is learnt depends on it."""
    gradient, weight.grad = weight.grad, None
    return torch.zeros_like(weight) if gradient is None else gradient


@contextmanager
def _only(network: Network, weights: Sequence[Tensor]) -> Generator[None]:
    """Let gradients reach ``weights`` alone within the block; put everything back after it."""
    was_training = network.training
    flags = {parameter: parameter.requires_grad for parameter in network.parameters()}
    network.eval()
    try:
        for parameter in flags:
            parameter.requires_grad = False
        for weight in weights:
            weight.requires_grad = True
        yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad = flag
            parameter.grad = None
        network.forget_twins()
        network.train(was_training)
