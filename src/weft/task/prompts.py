"""From a row of instruction data to a prompt and the answer to learn.

Understood: instruction / input / output (alpaca), prompt / completion, query / response, source / target (all by
column aliases), and conversations: ``messages`` with role and content, or ShareGPT's from and value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weft.core.example import Row
from weft.task.labels import plain
from weft.task.sequence import Columns, text_in

FIELDS = ("system", "instruction", "input")
DEFAULT_TEMPLATE = "{system}\n\n### Task\n{instruction}\n\n### Given\n{input}\n\n### Answer\n"

_FIELD = re.compile(r"\{(\w+)\}")
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "developer": "system",
}

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was said before the answer (system first, user last), and the answer where there is one."""

    messages: tuple[Message, ...]
    given: str
    answer: str | None


def check_template(template: str) -> str:
    """Return ``template`` unchanged if it can be filled.

    Raises:
        ValueError: no ``{instruction}``, or an unknown field.
    """
    unknown = [name for name in _FIELD.findall(template) if name not in FIELDS]
    if unknown or "{instruction}" not in template:
        raise ValueError(
            "template must have {instruction} and may have {input} and {system}, but "
            + (f"has {{{unknown[0]}}}" if unknown else "has no {instruction}")
        )
    return template


def exchange(row: Row, columns: Columns) -> Exchange | str:
    """Return the exchange in ``row``, or why there is none. Of a conversation the last answer counts, and only it."""
    if columns["messages"] is not None:
        return _conversation(plain(row.values.get(columns["messages"])))
    instruction = text_in(row, columns["instruction"])
    if not instruction:
        return "empty instruction"
    system = text_in(row, columns["system"])
    messages = ({"role": "system", "content": system},) if system else ()
    answer = text_in(row, columns["output"])
    user = {"role": "user", "content": instruction}
    return Exchange((*messages, user), text_in(row, columns["input"]), answer.strip() or None)


def _conversation(value: Any) -> Exchange | str:
    if not isinstance(value, list | tuple) or not all(isinstance(message, Mapping) for message in value):
        return "messages are not a list of turns"
    messages = [_message(message) for message in value]
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=None)
    is_answered = last is not None and last >= len(messages) - 1
    if is_answered:
        messages, answer = messages[:-1], messages[-1]["content"].strip() or None
    else:
        answer = None
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        return "no user turn before the answer"
    return Exchange(tuple(messages), "", answer)


def _message(message: Mapping[str, Any]) -> dict[str, str]:
    role = str(message.get("role", message.get("from", "user")))
    content = plain(message.get("content", message.get("value", "")))
    if isinstance(content, list | tuple):  # OpenAI's parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return {"role": _ROLES.get(role, role), "content": "" if content is None else str(content)}


def as_chat(asked: Exchange) -> list[Message]:
    """Return the messages for a chat template: the given material under the instruction of the last user turn."""
    if not asked.given:
        return list(asked.messages)
    last = asked.messages[-1]
    return [*asked.messages[:-1], {**last, "content": f"{last['content']}\n\n{asked.given}"}]


def fill(template: str, asked: Exchange) -> str:
    r"""Return ``template`` filled; a paragraph whose fields are all empty is left out.

    Earlier turns of a conversation stand before the last one in the instruction, each with its speaker's name.

    Example:
        >>> fill("{system}\n\nDo: {instruction}\n\n", Exchange(({"role": "user", "content": "sing"},), "", None))
        'Do: sing\n\n'
    """
    system = "\n".join(message["content"] for message in asked.messages if message["role"] == "system")
    turns = [message for message in asked.messages if message["role"] != "system"]
    earlier = [f"{message['role'].capitalize()}: {message['content']}" for message in turns[:-1]]
    values = {
        "system": system,
        "instruction": "\n".join([*earlier, turns[-1]["content"]]),
        "input": asked.given,
    }
    return "\n\n".join(_filled_paragraphs(template.split("\n\n"), values))


def _filled_paragraphs(paragraphs: Sequence[str], values: Mapping[str, str]) -> list[str]:
    filled: list[str] = []
    for paragraph in paragraphs:
        names = _FIELD.findall(paragraph)
        if not names or any(values[name] for name in names):
            filled.append(_FIELD.sub(lambda match: values[match[1]], paragraph))
    return filled
