"""The memory that a stage will take, from shapes alone: of a step, and of choosing modules before the first one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import cast

import torch

from weft.build.rows import Rows, stack_shares
from weft.build.stage import Entered
from weft.core.network import Trunk
from weft.core.sites import HEAD_PREFIX
from weft.core.view import Site
from weft.recipe.spec import Activations, Moments, StageSpec
from weft.strategy.choosing import ChoosingRule
from weft.strategy.named import resolve
from weft.strategy.site_method import weight_of
from weft.train.order import EpochOrder

# Bytes of activations kept for the backward pass per token, layer and unit of width, in fp32 and bf16 eager mode:
# inputs of the linear, norm and activation functions of one transformer layer (arXiv 2205.05198, section 4, gives 34
# bytes at 2 bytes a value without attention scores; fp32 residuals under autocast add about half of that again).
_ACTIVATION_BYTES = {torch.float32: 80, torch.bfloat16: 56}
# The same source, per pair of tokens and attention head: scores and their softmax.
_SCORE_BYTES = {torch.float32: 8, torch.bfloat16: 6}
_HEAD_WIDTH = 64  # of nearly all pretrained models
_KEY_VALUES = 4  # of the width that attention keeps of a virtual position: query, key, value, output
PROCESS_BYTES = 480 * 2**20  # interpreter, torch, transformers and a tokenizer, on Linux x86


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known of a stage before it runs."""

    entered: Entered
    stage: StageSpec
    order: EpochOrder
    rows: Mapping[str, Rows]
    dtype: torch.dtype

    def step(self, activations: Activations) -> int:
        """Return the bytes at the peak of a step: weights, optimizer, and activations of one micro-batch of long rows."""
        num_trained = self.entered.table.num_trained()
        state = (
            6 if self.stage.moments is Moments.EIGHT_BIT else 12
        ) * num_trained  # gradient and two moments
        trained = {row.path for row in self.entered.table.trained()}
        layers = layers_of(site for site, has_gradient in sites_of(self.entered, trained) if has_gradient)
        return round(PROCESS_BYTES + self._weights(num_trained) + state + self._kept(activations, layers))

    def choosing(self) -> int:
        """Return the bytes at the peak while rules choose modules: gradients of all candidates in fp32; 0 where none does."""
        view = self.entered.sites.view
        rules = [rule for rule in resolve(self.stage.strategy) if isinstance(rule, ChoosingRule)]
        chosen = [{weight_of(site) for site in rule.candidates(view)} for rule in rules]
        if not chosen:
            return 0
        most = max(sum(weight.size for weight in weights) for weights in chosen)
        paths = {weight.path for weights in chosen for weight in weights}
        layers = layers_of(site for site, has_gradient in sites_of(self.entered, paths) if has_gradient)
        return round(PROCESS_BYTES + self._weights(most) + 4 * most + self._kept(Activations.KEEP, layers))

    def _weights(self, num_trained: int) -> int:
        table, sites = self.entered.table, self.entered.sites.view.sites
        few = sum(info.size for site in sites for info in site.params if info.is_fixed)
        weights = 4 * (table.num_values() - few)
        if (
            self.dtype is not torch.float32
        ):  # a twin of each, and what is frozen laid out for products and their gradients
            weights += 6 * (table.num_values() - few) - 4 * num_trained
        return weights + few  # at most a byte a value

    def _kept(self, activations: Activations, layers: frozenset[str]) -> float:
        """Return the bytes of activations where a gradient reaches ``layers``."""
        trunk, dtype = cast(Trunk, self.entered.network.trunk), self.dtype
        largest = max(int(texts.lengths_R.max()) for texts in self.order.texts.values())
        whole = max(one.whole for one in self.rows.values())
        tokens = min(max(self.stage.budget, whole), self.stage.batch * largest)
        num_rows = self._num_rows(tokens)
        virtual = num_rows * max(one.virtual for one in self.rows.values())
        a_layer = _ACTIVATION_BYTES[dtype] * trunk.info.width
        if not trunk.packs:  # else scores are computed again rather than kept
            longest = max(one.longest for one in self.rows.values())
            a_layer += _SCORE_BYTES[dtype] * longest * max(1, trunk.info.width // _HEAD_WIDTH)
        share = stack_shares(self.entered, self.rows, dict.fromkeys(self.rows, 1))
        count = max(1.0, sum(map(share, layers)))  # without a gradient, one at a time
        by_layer = [num_rows * most for most in self._keys().values()]
        match activations:
            case Activations.RECOMPUTE:
                kept, keys = a_layer + count * trunk.info.width * dtype.itemsize, max(by_layer, default=0)
            case Activations.OFFLOAD:
                kept, keys = a_layer, max(by_layer, default=0)
            case _:
                kept, keys = count * a_layer, sum(by_layer)
        logits = 8 * trunk.info.vocabulary * tokens
        return (tokens + virtual) * kept + keys * _KEY_VALUES * trunk.info.width * dtype.itemsize + logits

    def _num_rows(self, tokens: int) -> int:
        """Return the rows of a micro-batch of so many tokens."""
        a_row = min(one.tokens / one.count for one in self.rows.values())
        in_step = self.stage.batch * max(one.count for one in self.rows.values())
        return ceil(min(in_step, tokens / a_row))

    def _keys(self) -> dict[str, int]:
        """Return the most virtual keys that a row has, by layer."""
        found: dict[str, int] = {}
        for one in self.rows.values():
            for layer, count in one.keys.items():
                found[layer] = max(found.get(layer, 0), count)
        return found


def sites_of(entered: Entered, trained: set[str]) -> Iterator[tuple[Site, bool]]:
    """Yield the trunk's sites in forward order, and whether a gradient reaches them where ``trained`` paths move."""
    has_gradient = False
    for site in entered.sites.view.sites:
        if not site.path.startswith(HEAD_PREFIX):
            has_gradient = has_gradient or any(info.path in trained for info in site.params)
            yield site, has_gradient


def layers_of(sites: Iterator[Site]) -> frozenset[str]:
    """Return the layers that ``sites`` lie in."""
    found: set[str] = set()
    for site in sites:
        parts = site.path.split(".")
        number = next((place for place, part in enumerate(parts) if part.isdigit()), None)
        if number is not None:
            found.add(".".join(parts[: number + 1]))
    return frozenset(found)
