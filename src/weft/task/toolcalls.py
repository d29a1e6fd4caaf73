"""Tools: their definitions and calls as data sets write them, as text for templates without them, and read back.

The text form is that of Hermes and Qwen: ``<tool_call>`` around ``{"name": ..., "arguments": {...}}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from weft.task.labels import plain

_TAGGED = re.compile(r"<(tool_call|function_?call)>\s*(.*?)\s*(?:</\1>|(?=<\1>)|\Z)", re.DOTALL)
_OPENERS = ("<|python_tag|>", "[TOOL_CALLS]")  # of Llama 3.1 and of Mistral, where decoding has left them


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool; arguments are a mapping wherever they could be read as one."""

    name: str
    arguments: Any
    id: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return name and arguments."""
        return {"name": self.name, "arguments": self.arguments}


def read_tools(value: Any) -> tuple[Mapping[str, Any], ...] | str:
    """Return tool definitions in OpenAI's form, or why they cannot be read.

    Args:
        value: a list of definitions, flat or in OpenAI's form, or the JSON of one; None and empty text for no tools.
    """
    value = decoded(plain(value))
    if value is None or value == "":
        return ()
    tools = value if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(tool, Mapping) for tool in tools):
        return "tools are not a list of definitions"
    return tuple(
        tool if "function" in tool else {"type": "function", "function": dict(tool)}
        for tool in cast(Sequence[Mapping[str, Any]], tools)
    )


def read_calls(value: Any) -> tuple[Call, ...] | str:
    """Return the calls of an answer, or why they cannot be read.

    Args:
        value: one call or a list of them, flat (name, arguments) or in OpenAI's form, or the JSON of it.
    """
    value = decoded(plain(value))
    if value is None or value == "":
        return ()
    calls = [_call(one) for one in (value if isinstance(value, list | tuple) else (value,))]
    named = tuple(call for call in calls if call is not None)
    return named if len(named) == len(calls) else "tool call without a name"


def _call(value: Any) -> Call | None:
    if not isinstance(value, Mapping):
        return None
    inner = value.get("function", value)
    inner = inner if isinstance(inner, Mapping) else value
    name = inner.get("name")
    arguments = decoded(inner.get("arguments", inner.get("parameters")))
    return (
        Call(str(name), {} if arguments is None else arguments, str(value.get("id") or "")) if name else None
    )


def decoded(value: Any) -> Any:
    """Return JSON in a string as its value, anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def as_text(calls: Sequence[Call]) -> str:
    r"""Return calls as the text that an answer would hold.

    Example:
        >>> as_text([Call("now", {"zone": "UTC"})])
        '<tool_call>\n{"name": "now", "arguments": {"zone": "UTC"}}\n</tool_call>'
    """
    lines = (json.dumps(call.to_json(), ensure_ascii=False) for call in calls)
    return "\n".join(f"<tool_call>\n{line}\n</tool_call>" for line in lines)


def as_result(content: str) -> str:
    """Return a tool's result as text that a user could hand over."""
    return f"<tool_response>\n{content}\n</tool_response>"


def as_paragraph(tools: Sequence[Mapping[str, Any]]) -> str:
    """Return definitions as a paragraph for the system, with the way in which they are called."""
    lines = "\n".join(json.dumps(dict(tool), ensure_ascii=False) for tool in tools)
    return (
        f"You may call these functions:\n<tools>\n{lines}\n</tools>\n"
        'To call one, write:\n<tool_call>\n{"name": <name>, "arguments": <object>}\n</tool_call>'
    )


def parse_calls(text: str) -> list[dict[str, Any]]:
    """Return the calls that a generated ``text`` holds: in tags, or as nothing but JSON with names and arguments.

    Example:
        >>> parse_calls('Let me see. <tool_call>{"name": "now", "arguments": {}}</tool_call>')
        [{'name': 'now', 'arguments': {}}]
        >>> parse_calls("It is noon.")
        []
    """
    tagged = [match[2] for match in _TAGGED.finditer(text)]
    bare = text.strip()
    for opener in _OPENERS:
        bare = bare.removeprefix(opener).strip()
    if not tagged and not bare.startswith(("{", "[")):
        return []
    found: list[dict[str, Any]] = []
    for written in tagged or [bare]:
        value = decoded(written)
        for one in value if isinstance(value, list) else [value]:
            has_both = isinstance(one, Mapping) and {"arguments", "parameters"} & one.keys()
            call = _call(one) if has_both else None
            found += [call.to_json()] if call else []
    return found
