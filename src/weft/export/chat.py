"""What an exported folder says of generating: where answers end and begin, and proof that its chat template asks as the bundle."""

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
    """Put what a task generates with into a stock model's generation config: where answers end and begin."""
    task = bundle.tasks[name]
    if not isinstance(task, Generates):
        return
    text, config = task.stock_text(bundle.tokenizer), model.generation_config
    stops = list(text.stops)
    config.eos_token_id = stops if len(stops) > 1 else stops[0]
    config.pad_token_id = bundle.tokenizer.pad
    if text.target is not None:
        config.forced_bos_token_id = text.target


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
