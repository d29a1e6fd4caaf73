"""A tokenizer as one task uses it, for a folder that stock transformers load: its chat template, its languages."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, cast

from weft.core.stock import StockText

_NO_MODEL = {"model": {"type": "WordLevel", "vocab": {"": 0}, "unk_token": ""}, "added_tokens": []}


def as_used(tokenizer: Any, text: StockText, *, first: int | None) -> Any:
    """Return a copy of a tokenizer of transformers that reads as ``text`` says.

    Args:
        tokenizer: fast; stays as it is.
        text: how its task reads and writes.
        first: token that it puts before a text: its language, where ``text`` has languages.
    """
    used = copy.deepcopy(tokenizer)
    if text.chat_template is not None:
        used.chat_template = text.chat_template
    if text.languages is not None and hasattr(used, "src_lang"):
        used.src_lang, used.tgt_lang = text.languages
    elif text.languages is not None:  # a class that knows none: what stands before a text is all that says it
        old, new = used.convert_ids_to_tokens([first, text.source])
        _put_first(used.backend_tokenizer, old, new, text.source)
    return used


def _put_first(backend: Any, old: str, new: str, number: int | None) -> None:
    """Put the special token ``new`` where ``old`` stood around texts; the library shows no post-processor but as JSON."""
    state = json.loads(backend.to_str())
    entry = {"id": new, "ids": [number], "tokens": [new]}
    changed = {**state, **_NO_MODEL, "post_processor": _exchanged(state["post_processor"], old, entry)}
    backend.post_processor = type(backend).from_str(json.dumps(changed)).post_processor


def _exchanged(value: Any, old: str, entry: Mapping[str, Any]) -> Any:
    """Return JSON with the special token ``old`` of a template exchanged, wherever it is named."""
    if isinstance(value, list):
        return [_exchanged(one, old, entry) for one in cast(list[Any], value)]
    if not isinstance(value, dict):
        return value
    found = cast(dict[str, Any], value)
    if found.get("id") == old and "type_id" in found:
        return {**found, "id": entry["id"]}
    inner = {key: _exchanged(one, old, entry) for key, one in found.items() if key != old}
    return inner | ({entry["id"]: dict(entry)} if old in found else {})
