"""How exported folders generate, and proof that their chat templates ask as the bundle does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from weft.core.example import Dropped
from weft.errors import ExportError
from weft.export.bundle import Bundle
from weft.model.tokenizer import HFTokenizer, load_tokenizer
from weft.task.base import Converses, Generates

_WHOLE = 4096  # tokens that no probe has

Messages = Sequence[Mapping[str, str]]
_SYSTEM = {"role": "system", "content": "Be brief. 请简短。"}
_FIRST: Sequence[Messages] = (
    [{"role": "user", "content": "Where does the Rhine begin?"}],
    [{"role": "user", "content": "请用一句话介绍上海。"}],
    [_SYSTEM, {"role": "user", "content": "1 + 1 = ?"}],
)
_LATER: Sequence[Messages] = tuple(
    [*first, {"role": "assistant", "content": said}, {"role": "user", "content": "Why? 为什么？"}]
    for first, said in zip(_FIRST, ("In the Alps.", "上海在东海边。", "2"), strict=True)
)


class Chat(StrEnum):
    """How far a chat template gives the tokens that were learnt."""

    EXACT = "exact"
    FIRST = "first question"  # behind an earlier answer tokens are merged that were apart in learning


def tell(model: Any, bundle: Bundle, name: str) -> None:
    """Let a stock model generate as a task does: where answers begin and end, how long they are, how they are decoded.

    What the base's folder says of decoding stays behind, as it does in the bundle. So do stop strings of several tokens,
    which transformers takes with a tokenizer only.
    """
    task = bundle.tasks[name]
    if not isinstance(task, Generates):
        return
    from transformers import GenerationConfig

    how = task.stock_text(bundle.tokenizer).decoding
    stops = list(dict.fromkeys(how.stop_tokens))
    searched = {"length_penalty": how.length_penalty} if how.beams > 1 else {}
    drawn = {"temperature": how.temperature, "top_k": how.top_k, "top_p": how.top_p} if how.is_drawn else {}
    model.generation_config = GenerationConfig(
        bos_token_id=model.generation_config.bos_token_id,
        pad_token_id=bundle.tokenizer.pad,
        eos_token_id=stops if len(stops) > 1 else stops[0],
        decoder_start_token_id=bundle.tokenizer.reply_start,
        forced_bos_token_id=how.first,
        max_new_tokens=how.max_new_tokens,
        num_beams=how.beams,
        do_sample=how.is_drawn,
        repetition_penalty=how.repetition_penalty,
        no_repeat_ngram_size=how.no_repeat_ngram,
        **searched,
        **drawn,
    )


def save_tokenizer(bundle: Bundle, name: str, home: Path) -> Chat | None:
    """Write the tokenizer as a task uses it into ``home``; return how far its chat template was proven, None without a new one.

    Raises:
        ExportError: the template does not ask a single question as the bundle does.
    """
    task = bundle.tasks[name]
    text = task.stock_text(bundle.tokenizer) if isinstance(task, Generates) else None
    bundle.tokenizer.save(home, text)
    if text is None or text.chat_template is None or not isinstance(task, Converses):
        return None
    from transformers import AutoTokenizer

    stock = AutoTokenizer.from_pretrained(home, local_files_only=True, trust_remote_code=False)
    whole = load_tokenizer(bundle.base.folder, max_tokens=_WHOLE)
    for messages in _FIRST:
        if not _asks_alike(task, whole, stock, messages):
            raise ExportError(
                f"{name}: the chat template must give the tokens that the bundle asks with, but does not for "
                f"{messages[-1]['content']!r}. Use the bundle itself, or choose others with --task."
            )
    is_exact = all(_asks_alike(task, whole, stock, messages) for messages in _LATER)
    return Chat.EXACT if is_exact else Chat.FIRST


def _asks_alike(task: Converses, tokenizer: HFTokenizer, stock: Any, messages: Messages) -> bool:
    """Return whether both make the same tokens of ``messages``; what does not fit the model is not held against it."""
    asked = task.turn(messages, tokenizer)
    if isinstance(asked, Dropped) or asked.num_cut:
        return True
    found = stock.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return list(asked.tokens) == list(found)
