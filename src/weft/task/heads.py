"""The heads of the supervised families. Their ``out`` layers fit the last layer of the stock transformers models.

Legend: B rows of the batch, R rows addressed, E examples, M tokens addressed, D width, C outputs, V vocabulary. There are
as many rows as examples, but for those of several windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from weft.core.batch import Target
from weft.core.features import Features, Pooling, pooled_positions
from weft.core.layout import Layout
from weft.core.network import TrunkInfo
from weft.core.outputs import Projection
from weft.errors import ModelError
from weft.task.documents import WindowPooling, pool


@dataclass(frozen=True, slots=True)
class Units:
    """The scale that a head learns on: its output is ``shift + scale * out(x)``, in the units of the data."""

    shift: float = 0.0
    scale: float = 1.0


def of_temperature(temperature: float) -> Units | None:
    """Return the units of logits that are divided by ``temperature``."""
    return None if temperature == 1 else Units(scale=1 / temperature)


class SequenceHead(nn.Module):
    """One vector a row -> C outputs.

    Args:
        out: maps (R, D) to (R, C).
        pooling: how a row's tokens become one vector.
        dropout: on that vector while training.
        units: None for outputs as they are (logits).
        windows: how those of an example's windows become one, where it has several.
    """

    def __init__(
        self,
        out: nn.Linear,
        *,
        pooling: Pooling,
        dropout: float,
        units: Units | None = None,
        windows: WindowPooling = WindowPooling.MEAN,
    ) -> None:
        super().__init__()
        self.out = out
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.units = units
        self.windows = windows
        self._kind = (pooling, _bias(out) is None)

    def forward(self, features: Features, target: Target) -> Tensor:
        """Return (E, C) outputs for the examples of ``target``."""
        pooled_RD = features.pooled_BD(self.pooling).index_select(0, target.rows_R)
        return self._whole(in_fp32(self.out, self.dropout(pooled_RD)), target)

    @property
    def kind(self) -> tuple[Pooling, bool] | None:
        """What heads must share to be computed together; None while dropout acts on each by itself."""
        return None if self.training else self._kind

    @staticmethod
    def together(
        heads: Sequence[SequenceHead], features: Features, targets: Sequence[Target]
    ) -> list[Tensor]:
        """Return the outputs of several heads of one ``kind``, (E, C) each for its target: one product for all."""
        pooled_BD = features.pooled_BD(heads[0].pooling).float()
        own = [_own(head.__dict__["_modules"]["out"]) for head in heads]
        weights = [weight for weight, _ in own]
        biases = [bias for _, bias in own if bias is not None]
        bias_C = torch.cat(biases) if biases else None
        outputs_BC = functional.linear(pooled_BD, torch.cat(weights), bias_C)
        parts = outputs_BC.split([len(weight) for weight in weights], 1)
        is_one = len(pooled_BD) == 1 and all(len(target.rows_R) == 1 for target in targets)
        return [
            head._whole(part_BC if is_one else part_BC.index_select(0, target.rows_R), target)
            for head, part_BC, target in zip(heads, parts, targets, strict=True)
        ]

    def _whole(self, outputs_RC: Tensor, target: Target) -> Tensor:
        """Return the outputs in their units, those of the windows of one example as one."""
        if self.units is not None:
            outputs_RC = self.units.shift + self.units.scale * outputs_RC.float()
        places_ES = target.values.get("windows")
        return outputs_RC if places_ES is None else pool(outputs_RC, places_ES, self.windows)

    def reads(self, _target: Target, layout: Layout) -> Tensor | None:
        """Return the token of each row that its vector is made from, None where all are."""
        return pooled_positions(self.pooling, layout)

    def stock_weights(self) -> dict[str, Tensor]:
        """Return ``weight`` (and ``bias``) of a plain linear layer with the same outputs, for export."""
        return _stock(self.out, self.units or Units())


class TokenHead(nn.Module):
    """One vector a token -> C logits, for the tokens that the target's ``positions`` name.

    Args:
        out: maps (M, D) to (M, C).
        dropout: on the vectors while training.
    """

    def __init__(self, out: nn.Linear, *, dropout: float) -> None:
        super().__init__()
        self.out = out
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Features, target: Target) -> Tensor:
        """Return (M, C) logits."""
        return in_fp32(self.out, self.dropout(states_at(features, target)))

    def reads(self, target: Target, _layout: Layout) -> Tensor:
        """Return the positions of the addressed tokens."""
        return target.values["positions"]

    def stock_weights(self) -> dict[str, Tensor]:
        """Return ``weight`` and ``bias`` of a plain linear layer with the same outputs, for export."""
        return _stock(self.out, Units())


class VocabularyHead(nn.Module):
    """The trunk's own output embedding on the tokens that the target's ``positions`` name; owns no parameters.

    Of an encoder-decoder these are tokens of replies.
    """

    def forward(self, features: Features, target: Target) -> Projection:
        """Return the addressed states (M, D) and what projects them.

        Raises:
            ModelError: the trunk has no output embedding.
        """
        written = features if features.decoder is None else features.decoder
        if written.project is None:
            raise ModelError(
                "trunk: generation needs an output embedding, but this trunk has none. Use a causal model or an "
                "encoder-decoder."
            )
        return Projection(states_at(written, target), written.project)

    def reads(self, target: Target, _layout: Layout) -> Tensor:
        """Return the positions of the addressed tokens; a target that asks for new text addresses none."""
        positions_M = target.values.get("positions")
        return target.rows_R.new_empty(0) if positions_M is None else positions_M


def _own(out: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a linear layer without the cost of looking them up in a module."""
    own: dict[str, Any] = out.__dict__["_parameters"]
    return own["weight"], own["bias"]


def _bias(out: nn.Linear) -> Tensor | None:
    """Return the bias, which a layer may lack, whatever torch's annotation says."""
    return out.bias


def in_fp32(out: nn.Linear, states: Tensor) -> Tensor:
    """Return ``out`` of ``states`` in fp32, also under autocast.

    The product is small, the loss is the better for it, and the number of rows or tokens changes with every step: in
    bf16 each number would make oneDNN build and keep new primitives.
    """
    if not torch.is_autocast_enabled(states.device.type):  # a context costs as much as the product
        return out(states.float())
    with torch.autocast(states.device.type, enabled=False):
        return out(states.float())


def states_at(features: Features, target: Target) -> Tensor:
    """Return the states at the target's flat ``positions``, shape (M, D), without copying the others."""
    return features.at_MD(target.values["positions"])


def new_linear(info: TrunkInfo, num_outputs: int, *, has_bias: bool, seed: int) -> nn.Linear:
    """Return a linear layer on the trunk's width, weight N(0, init_range) from ``seed`` alone, bias zero."""
    linear = nn.Linear(info.width, num_outputs, bias=has_bias, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        linear.weight.normal_(0.0, info.init_range, generator=generator)
        if has_bias:
            linear.bias.zero_()
    return linear


def choose_pooling(info: TrunkInfo, asked: Pooling | None, *, task: str) -> Pooling:
    """Return the pooling of a head: the one asked for, else that of the architecture's stock model.

    Raises:
        ModelError: ``pooler`` on a trunk that has none.
    """
    if asked is Pooling.POOLER and not info.has_pooler:
        choices = ", ".join(how for how in Pooling if how is not Pooling.POOLER)
        raise ModelError(
            f"tasks.{task}.pooling: 'pooler' needs a trunk with a pooler, but this one has none. Choices: {choices}."
        )
    return info.pooling if asked is None else asked


def other_pooling(config: Mapping[str, Any], asked: Pooling | None) -> str | None:
    """Return why a head saved with ``config`` does not pool as ``asked``, None where it does."""
    before = config.get("pooling")
    return None if before == asked else f"pooling was {before} and is now {asked}"


def _stock(out: nn.Linear, units: Units) -> dict[str, Tensor]:
    weights = {name: parameter.detach() * units.scale for name, parameter in out.named_parameters()}
    if "bias" in weights:
        weights["bias"] += units.shift
    elif units.shift:
        raise ModelError(
            f"head: a shift of {units.shift} needs a bias to be exported, but the layer has none."
        )
    return weights
