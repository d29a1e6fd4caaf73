"""Greedy continuations from a stock causal model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from weft.model.quiet import quiet


def continued(
    model: nn.Module, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, stop_token: int
) -> list[list[int]]:
    """Return what ``model`` says next to each prompt, without prompt and stop token.

    Args:
        model: a causal LM of transformers, in evaluation mode.
        prompts: token ids; shorter ones are padded on the left.
        max_new_tokens: of each answer.
        stop_token: ends an answer.
    """
    from transformers import GenerationConfig

    width = max(len(prompt) for prompt in prompts)
    padded = [[stop_token] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    real = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    device = next(model.parameters()).device
    greedy = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=stop_token,
        pad_token_id=stop_token,
        use_cache=True,
    )
    with quiet(), torch.no_grad():
        grown = cast(Any, model).generate(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=torch.tensor(real, device=device),
            generation_config=greedy,
        )
    answers: list[list[int]] = grown[:, width:].tolist()
    return [answer[: answer.index(stop_token)] if stop_token in answer else answer for answer in answers]
