"""Chat templates in transformers' sandbox: the text that they make, and where they say that the assistant speaks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from weft.errors import TemplateRefusal

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text; see ``weft.task.base.Rendered``."""

    text: str
    marks: tuple[tuple[int, int], ...]


def rendering(
    messages: Sequence[Mapping[str, Any]],
    template: str,
    *,
    tools: Sequence[Mapping[str, Any]],
    is_open: bool,
    names: Mapping[str, str],
) -> Rendered:
    """Return what ``template`` makes of a conversation.

    Args:
        messages: role, content and what else templates read.
        template: in Jinja.
        tools: definitions of tools.
        is_open: ends with the call to answer.
        names: further variables, the tokenizer's special tokens among them.

    Raises:
        TemplateRefusal: it fails, whatever the reason.
    """
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    render = cast(Any, render_jinja_template)
    try:
        texts, marks = render(
            [[dict(message) for message in messages]],
            tools=[dict(tool) for tool in tools] or None,
            chat_template=template,
            return_assistant_tokens_mask=_MARKED.search(template) is not None,
            add_generation_prompt=is_open,
            **names,
        )
    except (TemplateError, ValueError, TypeError, LookupError, OverflowError, AttributeError) as error:
        raise TemplateRefusal(
            f"chat template: must take the conversation, but {error}. Change the messages or choose a template."
        ) from error
    return Rendered(texts[0], tuple((start, end) for start, end in marks[0]) if marks else ())
