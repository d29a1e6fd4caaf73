"""The decoder of an encoder-decoder: replies in, features of theirs out, behind the states of the rows they reply to.

Legend: B rows, L padded length of rows, R replies, S padded length of replies, D width, M any number of tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from weft.core.batch import Batch, Replies
from weft.core.features import Features
from weft.core.layout import Layout
from weft.core.routing import routed_as
from weft.core.tensors import int64
from weft.errors import ModelError
from weft.model.cut import evaluating

_CLOSE = 1e-3  # of the largest logit: far below what a factor or a bias would make


class Logits(nn.Module):
    """An output embedding between the factor and the bias that a stock model puts around it.

    Args:
        output: maps (M, D) to (M, V).
        scale: factor on the states.
        bias_V: added to the logits; None for none.
    """

    def __init__(self, output: nn.Module, scale: float, bias_V: Tensor | None) -> None:
        super().__init__()
        self.output = output
        self.scale = scale
        self.register_buffer("bias_V", bias_V, persistent=False)

    def forward(self, states_MD: Tensor) -> Tensor:
        """Return logits (M, V)."""
        logits_MV = self.output(states_MD * self.scale)
        bias_V = cast("Tensor | None", self.bias_V)
        return logits_MV if bias_V is None else logits_MV + bias_V


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """How a stock encoder-decoder's second half is run; make one with ``decoder_of``.

    Attributes:
        model: with its output embedding.
        scale: factor on states before they are projected.
        has_bias: whether the model adds something to its logits.
    """

    model: Any
    scale: float
    has_bias: bool = False

    def features(self, states_BLD: Tensor, layout: Layout, replies: Replies, *, width: int) -> Features:
        """Return the features of ``replies``, whose tokens see the rows they reply to.

        Args:
            states_BLD: of the encoder, on a padded grid.
            layout: of the rows, padded to at most L or packed.
            replies: on the same device.
            width: of the grid that they are computed on.
        """
        longest, length = replies.tokens_RL.shape[1], states_BLD.shape[1]
        is_real_BL = layout.mask_BL()
        is_real_BL = _longer(is_real_BL, length - is_real_BL.shape[1])
        if replies.rows != tuple(range(len(states_BLD))):
            rows_R = int64(replies.rows).to(states_BLD.device, non_blocking=True)
            states_BLD, is_real_BL = states_BLD.index_select(0, rows_R), is_real_BL.index_select(0, rows_R)
        told: dict[str, Any] = {"encoder_hidden_states": states_BLD}
        if layout.num_tokens != layout.num_rows * length:
            told["encoder_attention_mask"] = is_real_BL.to(torch.int64)
        tokens_RS = _longer(replies.tokens_RL, width - longest)
        stack = self.model.get_decoder()
        with routed_as(stack, replies.rows, width=width):
            hidden_RSD = stack(input_ids=tokens_RS, use_cache=False, **told).last_hidden_state[:, :longest]
        return Features(hidden_RSD, replies.layout, project=self.project)

    @property
    def project(self) -> nn.Module:
        """What maps states to logits, as the model itself does it; looked up anew, for a strategy may have replaced it."""
        output = self.model.get_output_embeddings()
        if self.scale == 1.0 and not self.has_bias:
            return output
        return Logits(output, self.scale, self.model.final_logits_bias[0] if self.has_bias else None)


def written(
    decoder: Decoder | None, states_BLD: Tensor, batch: Batch, *, even: Callable[[int], int], most: int
) -> Features:
    """Return the features of the replies of ``batch``.

    Args:
        decoder: of the trunk, if it has one.
        states_BLD: of the encoder, on a padded grid.
        batch: with replies.
        even: a number of tokens -> the number to compute.
        most: positions of the trunk.

    Raises:
        ModelError: the trunk has no decoder.
    """
    assert batch.replies is not None, "there is something to write"
    if decoder is None:
        raise ModelError(
            "batch: replies need a trunk with a decoder of its own, but this one has none. Use an encoder-decoder."
        )
    length, longest = states_BLD.shape[1], batch.replies.tokens_RL.shape[1]
    states_BLD = functional.pad(states_BLD, (0, 0, 0, even(length) - length))
    width = max(min(even(longest), most), longest)
    return decoder.features(states_BLD, batch.layout, batch.replies, width=width)


def decoder_of(model: Any) -> Decoder:
    """Return how ``model`` writes.

    Whether states are scaled before they are projected is written in the code of each architecture, in its configuration
    in some: so it is measured, on one token.

    Args:
        model: an encoder-decoder with its output embedding; on the meta device nothing is measured.

    Raises:
        ModelError: it makes its logits in a way that is not known here.
    """
    if model.get_output_embeddings().weight.is_meta:
        return Decoder(model, 1.0)
    bias_1V = getattr(model, "final_logits_bias", None)  # of the BART family; nearly always zeros
    has_bias = bias_1V is not None and bool(bias_1V.any())
    token_11 = torch.ones(1, 1, dtype=torch.int64, device=model.device)
    with torch.no_grad(), evaluating(model):
        stock_1V = model(input_ids=token_11, decoder_input_ids=token_11, use_cache=False).logits[0]
        states_11D = model.get_encoder()(input_ids=token_11).last_hidden_state
        written = {"input_ids": token_11, "encoder_hidden_states": states_11D, "use_cache": False}
        states_1D = model.get_decoder()(**written).last_hidden_state[0]
        for scale in (1.0, states_1D.shape[1] ** -0.5):
            found = Decoder(model, scale, has_bias)
            if (found.project(states_1D) - stock_1V).abs().max() <= _CLOSE * stock_1V.abs().max():
                return found
    raise ModelError(
        f"{type(model).__name__}: logits must be the output embedding's, scaled and shifted at most, but are not. "
        f"Choose another model, e.g. a T5 or BART."
    )


def has_encoder(model: Any) -> bool:
    """Return whether ``model`` has an encoder of its own, beside a decoder or where one was left out."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def reply_start(config: Any) -> int | None:
    """Return the token that a decoder begins to write from, as transformers chooses it; None for a model of one stack.

    Args:
        config: of transformers.

    Raises:
        ModelError: an encoder-decoder whose config names none.
    """
    if not getattr(config, "is_encoder_decoder", False):
        return None
    named = (
        getattr(config, name, None) for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id")
    )
    found = next((token for token in named if isinstance(token, int)), None)
    if found is None:
        raise ModelError(
            f"{config.model_type}: config.json must name the token that a decoder begins from, but does not. "
            f"Set decoder_start_token_id there."
        )
    return found


def _longer(values: Tensor, extra: int) -> Tensor:
    return functional.pad(values, (0, extra)) if extra else values
