"""Continuations from a stock model: greedy, by beam search, or drawn with noise that belongs to the row.

Legend: B rows, L tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from weft.core.decoding import Decoding, Stops
from weft.core.network import Heard
from weft.model.decoder import reply_start
from weft.model.quiet import quiet

Processor = Callable[[Tensor, Tensor], Tensor]
"""(B, L) tokens and (B, V) scores to (B, V) scores."""

_GAMMA = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15, as a signed number
_MIX = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15))  # shift, factor
_LAST_SHIFT = 31


def continued(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    how: Decoding,
    *,
    seeds: Sequence[int],
    num_hidden: int = 0,
    heard: Heard | None = None,
) -> list[list[int]]:
    """Return what ``model`` says next to each prompt, without prompt and stop token.

    Args:
        model: a causal LM or an encoder-decoder of transformers, in evaluation mode.
        prompts: token ids; shorter ones are padded on the left, those of an encoder-decoder on the right.
        how: decodes; the length, the stops, ...
        seeds: of each row's draws.
        num_hidden: tokens in front of each prompt that stand for no text: penalties do not see them.
        heard: listens to a single prompt that is not searched with beams.
    """
    is_behind = reply_start(cast(Any, model).config) is None  # an answer stands behind its prompt
    width = max(len(prompt) for prompt in prompts)
    fill = how.stop_tokens[0]
    padded = [_padded(prompt, width, fill=fill, on_left=is_behind) for prompt in prompts]
    real = [_padded([1] * len(prompt), width, fill=0, on_left=is_behind) for prompt in prompts]
    device = next(model.parameters()).device
    before = width if is_behind else 1
    skipped = [width - len(prompt) + num_hidden if is_behind else 0 for prompt in prompts]
    grown = grow(
        model,
        {
            "input_ids": torch.tensor(padded, device=device),
            "attention_mask": torch.tensor(real, device=device),
        },
        how,
        processors=processors(how, width=before, skipped=skipped, seeds=seeds),
        width=before,
        heard=heard,
    )
    return [how.answer(row) for row in grown]


def grow(
    model: nn.Module,
    inputs: dict[str, Tensor],
    how: Decoding,
    *,
    processors: Sequence[Processor],
    width: int,
    heard: Heard | None = None,
) -> list[list[int]]:
    """Return the tokens behind position ``width`` of each row of what the stock ``generate`` makes of ``inputs``.

    Args:
        model: with a ``generate`` of transformers.
        inputs: tensors that it takes.
        how: decodes.
        processors: change scores before a token is chosen.
        width: tokens of a row before its answer.
        heard: listens to the first row.
    """
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    config = GenerationConfig(
        do_sample=False,  # draws are argmaxes too, of scores with noise
        num_beams=how.beams,
        length_penalty=how.length_penalty if how.beams > 1 else None,
        max_new_tokens=how.max_new_tokens,
        eos_token_id=list(how.stop_tokens),
        pad_token_id=how.stop_tokens[0],
        use_cache=True,
        decoder_start_token_id=reply_start(cast(Any, model).config),
        forced_bos_token_id=how.first,
    )
    endings: list[Any] = [_Hear(heard)] if heard is not None else []
    endings += [_End(how.stops, width)] if how.stops is not None else []
    with quiet(), torch.no_grad():
        grown = cast(Any, model).generate(
            **inputs,
            generation_config=config,
            logits_processor=LogitsProcessorList(cast(Any, processors)),
            stopping_criteria=StoppingCriteriaList(endings),
        )
    return grown[:, width:].tolist()


def processors(how: Decoding, *, width: int, skipped: Sequence[int], seeds: Sequence[int]) -> list[Processor]:
    """Return what changes scores, in the order of the stock ``generate``.

    Args:
        how: decodes.
        width: tokens of a row before its answer.
        skipped: tokens at the start of each row that penalties do not see: padding.
        seeds: of each row's draws.
    """
    from transformers.generation.logits_process import (
        NoRepeatNGramLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    skips = [skip for skip in skipped for _ in range(how.beams)]
    found: list[Any] = []
    if how.repetition_penalty != 1:
        found.append(_ByRow(cast(Any, RepetitionPenaltyLogitsProcessor(how.repetition_penalty)), skips))
    if how.no_repeat_ngram:
        found.append(_ByRow(cast(Any, NoRepeatNGramLogitsProcessor(how.no_repeat_ngram)), skips))
    if how.is_drawn:
        found.append(TemperatureLogitsWarper(how.temperature))
        found += [TopKLogitsWarper(how.top_k)] if how.top_k else []
        found += [TopPLogitsWarper(how.top_p)] if how.top_p < 1 else []
        found.append(_Draw(seeds, width))
    return found


class _ByRow:
    """A processor of transformers that sees each row without its padding, which it would take for text.

    Args:
        inner: the processor.
        skips: tokens at the start of each row to leave out.
    """

    def __init__(self, inner: Processor, skips: Sequence[int]) -> None:
        self._inner = inner
        self._skips = skips

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        rows = zip(input_ids, scores, self._skips, strict=True)
        return torch.cat([self._inner(ids[None, skip:], own[None]) for ids, own, skip in rows])


class _Draw:
    """Adds noise to scores, such that the largest sum is a draw from their softmax (the Gumbel-max trick).

    Source: Maddison et al. 2014, A* Sampling, section 2 (arXiv:1411.0030).

    Args:
        seeds: of each row.
        width: tokens of a row before its answer.
    """

    def __init__(self, seeds: Sequence[int], width: int) -> None:
        self._seeds_B = torch.tensor(seeds, dtype=torch.int64)
        self._width = width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self._width
        return scores + gumbel_BV(self._seeds_B.to(scores.device), step, scores.shape[1]).to(scores.dtype)


def gumbel_BV(seeds_B: Tensor, step: int, size: int) -> Tensor:
    """Return standard Gumbel noise (B, V) in fp64: a function of each row's seed, the step and the token alone.

    A counter goes through SplitMix64's output function, so that noise is made where the scores are, and needs no
    state. Source: Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators, figure 15.

    Args:
        seeds_B: int64.
        step: tokens that the answer has.
        size: V.
    """
    counter_V = torch.arange(1, size + 1, device=seeds_B.device) + step * size
    bits_BV = seeds_B[:, None] + counter_V * _GAMMA
    for shift, factor in _MIX:
        bits_BV = (bits_BV ^ _shifted(bits_BV, shift)) * factor
    bits_BV = bits_BV ^ _shifted(bits_BV, _LAST_SHIFT)
    uniform_BV = (_shifted(bits_BV, 64 - 52).double() + 0.5) * 2.0**-52  # neither 0 nor 1
    return -(-uniform_BV.log()).log()


def _shifted(bits: Tensor, shift: int) -> Tensor:
    """Return ``bits`` shifted right, zeros from the left: int64 alone would bring its sign."""
    return (bits >> shift) & ((1 << (64 - shift)) - 1)


class _End:
    """Ends rows whose answer holds a stop string."""

    def __init__(self, stops: Stops, width: int) -> None:
        self._stops = stops
        self._width = width

    def __call__(self, input_ids: Tensor, _scores: Any, **_others: Any) -> Tensor:
        ends = [self._stops.ends(answer) for answer in input_ids[:, self._width :].tolist()]
        return torch.tensor(ends, device=input_ids.device)


class _Hear:
    """Tells the last token of the first row, and ends nothing."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard

    def __call__(self, input_ids: Tensor, _scores: Any, **_others: Any) -> Tensor:
        self._heard(int(input_ids[0, -1]))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _padded(values: Sequence[int], width: int, *, fill: int, on_left: bool) -> list[int]:
    padding = [fill] * (width - len(values))
    return [*padding, *values] if on_left else [*values, *padding]
