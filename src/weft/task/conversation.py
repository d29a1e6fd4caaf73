"""Conversations: what was said by whom, read from the two ways in which the field writes them down.

OpenAI's ``messages`` (role, content as text or parts, tool_calls) and ShareGPT's ``conversations`` (from, value), also
with a question and its answer in one entry (human, assistant). A list that cannot be read gives the reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any, cast

from weft.task.labels import plain
from weft.task.toolcalls import Call, decoded, read_calls


class Speaker(StrEnum):
    """Who says a message, by the names that chat templates know."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


_SPEAKERS = {
    **{speaker.value: speaker for speaker in Speaker},
    **dict.fromkeys(("human", "question", "用户"), Speaker.USER),
    **dict.fromkeys(("gpt", "model", "bot", "chatgpt", "function_call", "answer", "助手"), Speaker.ASSISTANT),
    **dict.fromkeys(("observation", "function", "ipython", "tool_response"), Speaker.TOOL),
    **dict.fromkeys(("developer", "系统"), Speaker.SYSTEM),
}
_MEDIA = ("image", "image_url", "input_image", "video", "video_url", "audio", "input_audio", "audio_url")
_WEIGHTS = (
    "weight",
    "loss_weight",
    "loss_scale",
    "loss",
    "train",
)  # as OpenAI, LLaMA-Factory, ms-swift, axolotl say

Reason = str
"""Why a row is not used, in a few words that can be counted."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        speaker: who says it.
        content: what is said.
        given: the material that an instruction speaks of (alpaca's input), apart from it.
        calls: the tools that an answer calls.
        weight: how strongly the tokens of an answer count; 0 for an answer that is context.
        name: of the tool whose result this is.
        call_id: of the call that it answers.
    """

    speaker: Speaker
    content: str
    given: str = ""
    calls: tuple[Call, ...] = ()
    weight: float = 1.0
    name: str = ""
    call_id: str = ""

    @property
    def text(self) -> str:
        """What is said, with the given material under it."""
        return f"{self.content}\n\n{self.given}" if self.given else self.content


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation in order, ready for any template.

    Attributes:
        system: what the system says before all others, empty if nothing.
        turns: messages of the others; no two of a user nor two of the assistant stand next to each other.
        tools: definitions of the tools that may be called, in OpenAI's form.
    """

    system: str
    turns: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def answers(self) -> tuple[int, ...]:
        """Which turns are answers to somebody: the assistant's, but for a greeting before any question."""
        asked = next(
            (at for at, turn in enumerate(self.turns) if turn.speaker is Speaker.USER), len(self.turns)
        )
        return tuple(
            at for at, turn in enumerate(self.turns) if at > asked and turn.speaker is Speaker.ASSISTANT
        )

    @property
    def is_answered(self) -> bool:
        """Whether the last turn is an answer."""
        return bool(self.answers) and self.answers[-1] == len(self.turns) - 1


def user(content: str, given: str = "") -> Message:
    """Return what a user says."""
    return Message(Speaker.USER, content, given)


def assistant(content: str, weight: float = 1.0) -> Message:
    """Return what the assistant answers."""
    return Message(Speaker.ASSISTANT, content, weight=weight)


def read_messages(value: Any) -> list[Message] | Reason:
    """Return the messages that a cell holds, a list or the JSON of one, or why it cannot be read."""
    entries = _entries(value)
    if entries is None:
        return "messages are not a list of turns"
    messages: list[Message] = []
    for entry in entries:
        message = _message(entry)
        if isinstance(message, str):
            return message
        messages.append(message)
    return messages


def read_history(value: Any) -> list[Message] | Reason:
    """Return what was said before a question, [[question, answer], ...] or messages, as context that is not learnt."""
    value = decoded(plain(value))
    if value is None or value == "":
        return []
    pairs = value if isinstance(value, list | tuple) else ()
    if pairs and all(isinstance(pair, Mapping) for pair in pairs):
        messages = read_messages(pairs)
        return messages if isinstance(messages, str) else as_context(messages)
    if not isinstance(value, list | tuple) or any(not _is_pair(pair) for pair in pairs):
        return "history is not pairs of question and answer"
    return [one for asked, said in pairs for one in (user(str(asked)), assistant(str(said), 0.0))]


def as_context(messages: Sequence[Message]) -> list[Message]:
    """Return messages none of which is learnt."""
    return [replace(one, weight=0.0) if one.speaker is Speaker.ASSISTANT else one for one in messages]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2


def conversation(
    messages: Sequence[Message], system: str, tools: tuple[Mapping[str, Any], ...]
) -> Conversation | Reason:
    """Return messages as a conversation: the system first, neighbours with one speaker as one message.

    Answers that stand next to each other must count equally. Turns without a word are refused, but for the last one,
    which is then to be answered.
    """
    first = next((at for at, one in enumerate(messages) if one.speaker is not Speaker.SYSTEM), len(messages))
    turns = _without_last_blank(messages[first:])
    if any(turn.speaker is Speaker.SYSTEM for turn in turns):
        return "system message after the first turn"
    if any(_is_blank(turn) for turn in turns):
        return _blank_reason(turns)
    if any(_are_answers(*pair) and pair[0].weight != pair[1].weight for pair in pairwise(turns)):
        return "two answers in a row with different weights"
    turns = joined(turns)
    if not any(turn.speaker is Speaker.USER for turn in turns):
        return "no user turn before the answer"
    if _is_out_of_order(turns):
        return "tool result without an answer before it"
    said = [system, *(one.content for one in messages[:first])]
    return Conversation("\n\n".join(text for text in said if text.strip()), turns, tools)


def _entries(value: Any) -> list[Mapping[str, Any]] | None:
    value = decoded(plain(value))
    if not isinstance(value, list | tuple) or not all(isinstance(entry, Mapping) for entry in value):
        return None
    return [one for entry in value for one in _unfolded(cast(Mapping[str, Any], entry))]


def _unfolded(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return an entry that holds a question and its answer as two messages."""
    if "role" in entry or "from" in entry or not {"human", "user", "assistant", "gpt"} & entry.keys():
        return [entry]
    return [
        {"role": key, "content": entry[key]}
        for key in ("system", "human", "user", "assistant", "gpt")
        if entry.get(key) is not None
    ]


def _message(entry: Mapping[str, Any]) -> Message | Reason:
    written = str(entry.get("role", entry.get("from", "")))
    speaker = _SPEAKERS.get(written.strip().lower())
    content = _content(entry.get("content", entry.get("value", entry.get("text"))))
    weight = _weight(entry)
    if speaker is None:
        return "unknown role" if written else "message without a role"
    if content is None:
        return "images, audio and video cannot be read"
    if weight is None:
        return "weight of a message is not a number of at least 0"
    if speaker is not Speaker.ASSISTANT:
        name, call_id = str(entry.get("name") or ""), str(entry.get("tool_call_id") or "")
        return Message(speaker, content, name=name, call_id=call_id)
    is_call = written == "function_call"
    calls = read_calls(content if is_call else entry.get("tool_calls") or entry.get("function_call"))
    if isinstance(calls, str):
        return calls
    return Message(speaker, "" if is_call else content, calls=calls, weight=weight)


def _content(value: Any) -> str | None:
    """Return the text of a message, of text parts what they hold together; None where there is more than text."""
    value = plain(value)
    if value is None:
        return ""
    if not isinstance(value, list | tuple):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    texts: list[str] = []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind in _MEDIA:
            return None
        texts.append(str(part.get("text") or "") if isinstance(part, Mapping) else str(part))
    return "".join(texts)


def _weight(entry: Mapping[str, Any]) -> float | None:
    """Return how strongly a message counts, as the first of the flags in use says; None where it cannot be read."""
    value = next((entry[key] for key in _WEIGHTS if entry.get(key) is not None), 1.0)
    try:
        weight = float(value)
    except (TypeError, ValueError):
        return None
    return weight if math.isfinite(weight) and weight >= 0 else None


def _is_blank(turn: Message) -> bool:
    return not turn.content.strip() and not turn.calls and turn.speaker is not Speaker.TOOL


def _without_last_blank(turns: Sequence[Message]) -> Sequence[Message]:
    is_open = bool(turns) and turns[-1].speaker is Speaker.ASSISTANT and _is_blank(turns[-1])
    return turns[:-1] if is_open else turns


def _blank_reason(turns: Sequence[Message]) -> Reason:
    speakers = [turn.speaker for turn in turns if not _is_blank(turn)]
    return "empty message" if Speaker.USER in speakers else "no user turn before the answer"


def joined(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Return ``turns`` with neighbours of a user, or of the assistant, as one; results of several tools stay apart."""
    kept: list[Message] = []
    for turn in turns:
        last = kept[-1] if kept else None
        if last is None or last.speaker is not turn.speaker or turn.speaker is Speaker.TOOL:
            kept.append(turn)
            continue
        both = "\n\n".join(text for text in (last.text, turn.text) if text.strip())
        kept[-1] = replace(last, content=both, given="", calls=(*last.calls, *turn.calls))
    return tuple(kept)


def _are_answers(one: Message, other: Message) -> bool:
    return one.speaker is other.speaker is Speaker.ASSISTANT


def _is_out_of_order(turns: Sequence[Message]) -> bool:
    before = (None, *(turn.speaker for turn in turns))
    return any(
        turn.speaker is Speaker.TOOL and last not in (Speaker.ASSISTANT, Speaker.TOOL)
        for last, turn in zip(before, turns, strict=False)
    )
