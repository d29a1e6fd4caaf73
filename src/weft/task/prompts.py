"""From a row of instruction data to a conversation or a text to learn, whatever way the row is written.

Understood: alpaca (instruction, input, output, system, history), prompt and completion as text or as messages, query and
response, source and target, a translation, conversations (``weft.task.conversation``), and plain text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weft.core.example import Row
from weft.data import columns as known
from weft.data.columns import Role, resolve
from weft.errors import DataError
from weft.task.conversation import (
    Conversation,
    Message,
    Reason,
    as_context,
    assistant,
    conversation,
    read_history,
    read_messages,
    user,
)
from weft.task.labels import plain
from weft.task.sequence import Columns, text_in
from weft.task.toolcalls import read_tools

ROLES: Mapping[str, tuple[str, ...]] = {
    "messages": known.MESSAGES,
    "instruction": known.INSTRUCTION,
    "input": known.INPUT,
    "output": known.OUTPUT,
    "system": known.SYSTEM,
    "history": known.HISTORY,
    "tools": known.TOOLS,
    "translation": known.TRANSLATION,
    "text": known.PLAIN,
}
"""The roles of columns, and the names that they go by."""
_TEXTS = frozenset({"instruction", "input", "output", "system", "text"})  # what several columns may make
_SHARED = ("system", "history", "tools")
_ATTACHED = ("images", "videos", "audios")  # columns of files that a text speaks of


def read(row: Row, columns: Columns) -> Conversation | str | Reason:
    """Return the conversation in ``row``, or why there is none; a question without its answer is one too.

    Args:
        row: of any format whose columns ``columns`` names.
        columns: as ``find_columns`` returns them.
    """
    attached = next((name for name in _ATTACHED if plain(row.values.get(name))), None)
    if attached is not None:
        return "images, audio and video cannot be read"
    tools = read_tools(_cell(row, columns, "tools"))
    if isinstance(tools, str):
        return tools
    system = text_in(row, columns["system"])
    if columns["messages"] is not None:
        messages = read_messages(_cell(row, columns, "messages"))
    else:
        messages = _exchange(row, columns)
    return messages if isinstance(messages, str) else conversation(messages, system, tools)


def plain_text(row: Row, columns: Columns) -> str:
    """Return the text of a row that is to be learnt as a whole, empty where there is none."""
    return text_in(row, columns["text"])


def teaches(row: Row, columns: Columns) -> bool:
    """Return whether there is something to learn in ``row``."""
    if columns["text"] is not None:
        return bool(plain_text(row, columns))
    talk = read(row, columns)
    return isinstance(talk, Conversation) and bool(talk.answers)


def why_nothing(rows: Sequence[Row], columns: Columns) -> str:
    """Return where the first of ``rows`` is, and why nothing is learnt from it."""
    if not rows:
        return "there is no row"
    talk = read(rows[0], columns) if columns["text"] is None else "no text"
    return f"{rows[0].where}: {talk if isinstance(talk, str) else 'no answer'}"


def find_columns(name: str, given: Mapping[str, str], rows: Sequence[Row]) -> dict[str, str | None]:
    """Return the columns of every role: of a conversation, a translation, instruction data, or else of plain text.

    A translation's languages are ``instruction`` and ``output``, in the order of the data or as ``given`` names them
    (``{instruction: translation.zh, output: translation.en}``).

    Raises:
        DataError: none of these has its columns.
    """
    what = f"tasks.{name}"
    languages = {role: value for role, value in given.items() if value.startswith("translation.")}
    given = {role: value for role, value in given.items() if role not in languages}
    wish = [Role(role, _aliases(role, given, rows), required=False, is_text=role in _TEXTS) for role in ROLES]
    found = resolve(rows, wish, given, what=what)
    if found["messages"] is not None:
        return _only(found, "messages")
    if found["translation"] is not None and "output" not in given:
        return _only(found, "translation") | _languages(rows, found["translation"], languages, what=what)
    is_text = "text" in given or (found["output"] is None and found["text"] is not None)
    if is_text and "output" not in given:
        return dict.fromkeys(ROLES) | {"text": found["text"], "instruction": "prompt"}
    wish = [
        Role(role, ROLES[role], required=role in ("instruction", "output"), is_text=role in _TEXTS)
        for role in _instructed()
    ]
    return dict.fromkeys(ROLES) | resolve(rows, wish, given, what=what)


def _instructed() -> tuple[str, ...]:
    return ("instruction", "input", "output", *_SHARED)


def _aliases(role: str, given: Mapping[str, str], rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the names to look for; a recipe that speaks of instruction data has no conversation.

    A column that is called a dialogue, but holds texts, is not one.
    """
    if role in ("instruction", "input"):
        return ()
    if role in ("messages", "translation") and not given.keys().isdisjoint(("instruction", "output")):
        return ()
    if role != "messages":
        return ROLES[role]
    return tuple(name for name in ROLES[role] if _may_be_turns(rows, name))


def _may_be_turns(rows: Sequence[Row], column: str) -> bool:
    """Return whether the first cell of ``column`` that holds anything is a list, or could be the JSON of one."""
    cell = next((value for row in rows if (value := plain(row.values.get(column))) not in (None, "")), None)
    return not isinstance(cell, str) or cell.lstrip().startswith("[")


def _only(found: Mapping[str, str | None], role: str) -> dict[str, str | None]:
    kept = (role, *_SHARED)
    return {name: found[name] if name in kept else None for name in ROLES}


def _languages(
    rows: Sequence[Row], column: str, given: Mapping[str, str], *, what: str
) -> dict[str, str | None]:
    cells = (row.values.get(column) for row in rows)
    names = next((list(cell) for cell in cells if isinstance(cell, Mapping) and len(cell) > 1), [])
    chosen = {role: value.removeprefix("translation.") for role, value in given.items()}
    unknown = [name for name in chosen.values() if name not in names]
    if len(names) < 2 or unknown:
        raise DataError(
            f"{what}: {column} must hold two languages, but holds {', '.join(names) or 'none'}"
            f"{f', not {unknown[0]}' if unknown else ''}. Name them as columns: {{instruction: translation.<language>, "
            f"output: translation.<language>}}."
        )
    source = chosen.get("instruction") or next(one for one in names if one != chosen.get("output"))
    target = chosen.get("output") or next(one for one in names if one != source)
    return {"instruction": source, "output": target}


def _cell(row: Row, columns: Columns, role: str) -> Any:
    column = columns[role]
    return None if column is None else row.values.get(column)


def _exchange(row: Row, columns: Columns) -> list[Message] | Reason:
    """Return an instruction, what was said before it, and the answer where there is one."""
    if columns["translation"] is not None:
        pair = row.values.get(columns["translation"])
        row = Row(pair if isinstance(pair, Mapping) else {}, row.where)
    asked, answered = plain(_cell(row, columns, "instruction")), plain(_cell(row, columns, "output"))
    if isinstance(asked, list | tuple):  # prompt and completion as lists of messages
        return _as_messages(asked, answered)
    instruction = text_in(row, columns["instruction"])
    if not instruction:
        return "empty instruction"
    before = read_history(_cell(row, columns, "history"))
    if isinstance(before, str):
        return before
    if isinstance(answered, list | tuple):  # several right answers: the first is learnt
        row = Row({**row.values, str(columns["output"]): answered[0] if answered else None}, row.where)
    answer = text_in(row, columns["output"]).strip()
    question = user(instruction, text_in(row, columns["input"]))
    return [*before, question, *([assistant(answer)] if answer else [])]


def _as_messages(asked: Sequence[Any], answered: Any) -> list[Message] | Reason:
    """Return the messages of a prompt and of its completion; only the completion's answers are learnt."""
    if isinstance(answered, str):
        answered = [{"role": "assistant", "content": answered.strip()}]
    elif isinstance(answered, Mapping):  # one message
        answered = [answered]
    before, after = read_messages(asked), read_messages(answered or [])
    if isinstance(before, str) or isinstance(after, str):
        return before if isinstance(before, str) else after
    return [*as_context(before), *after]
