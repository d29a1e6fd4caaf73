"""Conversations as text in pieces: which piece is an answer, what stands before it, and what ends it.

The prompt of an answer is what the template makes of everything before it, with the call to answer: exactly what the
model is given later. So an example is always a prompt and the rest. Answers inside of a prompt are learnt in place where
the text up to them is their own prompt too; templates that write earlier turns in another way than the last one (thoughts
left out, say) have none such, and each of their answers is a text of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from weft.errors import ModelError, TemplateRefusal
from weft.task.base import Rendered, Tokenizer
from weft.task.conversation import Conversation, Message, Speaker, assistant, joined, user
from weft.task.templates import DEFAULT_TEMPLATE, FORMATS, fill
from weft.task.toolcalls import Call, as_paragraph, as_result, as_text

_ANSWER = "zebra"  # probes: words that no template writes by itself
_CALL, _RESULT, _TOOL, _SYSTEM = "call_zebra", "result_zebra", "tool_zebra", "system_zebra"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text that is tokenized by itself.

    Attributes:
        text: the part.
        turn: the turn that it answers as, None for what is context.
        stops: the end token follows, though the text does not say so.
    """

    text: str
    turn: int | None = None
    stops: bool = False


class Renderer(Protocol):
    """A way to write conversations."""

    @property
    def start(self) -> tuple[int, ...]:
        """Tokens before the text."""
        ...

    @property
    def stop(self) -> int:
        """The token that ends an answer."""
        ...

    def fitted(self, talk: Conversation) -> Conversation:
        """Return ``talk`` in the form that this renderer takes; turns may be others afterwards."""
        ...

    def prompt(self, talk: Conversation) -> list[Piece]:
        """Return everything up to an answer to the last turn; answers inside that are learnt in place have their turn."""
        ...

    def answer(self, talk: Conversation) -> list[Piece]:
        """Return what follows the prompt of the last turn, which is an answer, down to its end."""
        ...

    def said(self, talk: Conversation) -> str:
        """Return the last turn, an answer, as the text that would have to be generated."""
        ...


def renderer(tokenizer: Tokenizer, template: str | None) -> Renderer:
    """Return the way to write conversations that a recipe asks for.

    Args:
        tokenizer: whose chat template is used if there is no other.
        template: a format's name, a prompt with ``{instruction}``, or None.

    Raises:
        ModelError: a chat template that does not show answers.
    """
    if template is not None and template in FORMATS:
        known = FORMATS[template]
        return Templated(tokenizer, known.template, start=tokenizer.start, end=known.end)
    if template is None and tokenizer.template is not None:
        return Templated(tokenizer, tokenizer.template)  # which writes the opening tokens itself
    return Filled(tokenizer.start, tokenizer.stop, template or DEFAULT_TEMPLATE)


# ------------------------------------------------------------------------------- prompts that are filled


@dataclass(frozen=True, slots=True)
class Filled:
    """Every question fills the same prompt, each answer ends with the end token, and turns follow one another.

    Attributes:
        start: tokens before the text.
        stop: the end token.
        template: with ``{instruction}``.
    """

    start: tuple[int, ...]
    stop: int
    template: str

    def fitted(self, talk: Conversation) -> Conversation:
        """Return ``talk`` with tools and their calls as text."""
        return without_tools(talk)

    def prompt(self, talk: Conversation) -> list[Piece]:
        """Return the filled prompts of all questions with the answers between them; the system is in the first."""
        pieces: list[Piece] = []
        answers, system = talk.answers, talk.system
        for at, turn in enumerate(talk.turns):
            if turn.speaker is Speaker.ASSISTANT:
                pieces.append(Piece(turn.text.strip(), at if at in answers else None, stops=True))
                continue
            text = fill(self.template, system=system, instruction=turn.content, given=turn.given)
            pieces.append(Piece(f"\n\n{text}" if pieces else text))
            system = ""
        return pieces

    def answer(self, talk: Conversation) -> list[Piece]:
        """Return the last turn and the end token."""
        return [Piece(self.said(talk), len(talk.turns) - 1, stops=True)]

    def said(self, talk: Conversation) -> str:
        """Return the text of the last turn."""
        return talk.turns[-1].text.strip()


# ------------------------------------------------------------------------------------- chat templates


@dataclass(frozen=True, slots=True)
class _Ending:
    """What a template writes behind an answer: the end token and blanks before it, nothing if it writes none."""

    text: str
    stop: int


class Templated:
    """A chat template; what it can say is found by trying it. It keeps all that it has rendered: make one for some rows.

    Args:
        tokenizer: renders.
        template: in Jinja.
        start: tokens before the text.
        end: the mark behind a message that a format of a name wants.

    Attributes:
        start: tokens before the text.
        stop: the token that ends an answer.
        takes_tools: whether it writes tools, their calls and their results.

    Raises:
        ModelError: it does not show answers.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: str, *, start: tuple[int, ...] = (), end: str = ""
    ) -> None:
        self.start = start
        self._tokenizer = tokenizer
        self._template = template
        self._end = end
        self._rendered: dict[tuple[Any, ...], tuple[Conversation, Rendered]] = {}
        self._takes_system = self._shows(Conversation(_SYSTEM, (user("?"),)), _SYSTEM)
        self.takes_tools = self._shows(_tool_probe(), _TOOL, _CALL, _RESULT)
        self._ending = self._find_ending()
        self.stop = self._ending.stop

    def fitted(self, talk: Conversation) -> Conversation:
        """Return ``talk`` with tools as text, and with the system's words before the first question, where it must be."""
        uses_tools = talk.tools or any(turn.calls or turn.speaker is Speaker.TOOL for turn in talk.turns)
        if uses_tools and not self.takes_tools:
            talk = without_tools(talk)
        first = next((at for at, turn in enumerate(talk.turns) if turn.speaker is Speaker.USER), None)
        if self._takes_system or not talk.system or first is None:
            return talk
        turn = talk.turns[first]
        told = replace(turn, content=f"{talk.system}\n\n{turn.content}")
        return replace(talk, system="", turns=(*talk.turns[:first], told, *talk.turns[first + 1 :]))

    def prompt(self, talk: Conversation) -> list[Piece]:
        """Return what the template makes of ``talk`` with the call to answer, cut at the answers that can be learnt there.

        Raises:
            TemplateRefusal: it does not take the conversation.
        """
        rendered = self._render(talk, is_open=True)
        text, pieces, done = rendered.text, list[Piece](), 0
        for turn, (start, end) in self._places(talk, rendered.text, rendered.marks).items():
            pieces += [Piece(text[done:start]), Piece(text[start:end], turn)]
            done = end
        return [*pieces, Piece(text[done:])]

    def answer(self, talk: Conversation) -> list[Piece]:
        """Return what the template puts behind the prompt for the last turn, down to the end token.

        Raises:
            TemplateRefusal: it does not take the conversation.
        """
        turn = len(talk.turns) - 1
        start, end, whole = self._last(talk)
        if whole is None:
            written = f"{self._as_text(talk.turns[-1])}{self._ending.text}"
            return [Piece(written, turn, stops=not self._ending.text)]
        before, learnt = whole[start : end[0]], whole[end[0] : end[1]]
        kept = [Piece(before)] if before else []
        return [*kept, Piece(learnt, turn, stops=not self._ending.text)]

    def said(self, talk: Conversation) -> str:
        """Return the last turn as the text that would have to be generated: its words, or the calls as written."""
        if not talk.turns[-1].calls:
            return talk.turns[-1].text.strip()
        written = "".join(piece.text for piece in self.answer(talk) if piece.turn is not None).strip()
        return written.removesuffix(self._ending.text.strip()).strip()

    def _last(self, talk: Conversation) -> tuple[int, tuple[int, int], str | None]:
        """Return the length of the prompt, where the last turn is learnt, and the whole text; None where it cannot be found."""
        before = replace(talk, turns=talk.turns[:-1])
        opened = self._render(before, is_open=True).text
        rendered = self._render(talk)
        text = rendered.text
        if not text.startswith(opened):
            return 0, (0, 0), None
        marks = rendered.marks[-1:] if len(rendered.marks) == _num_said(talk) else ()
        start, end = self._span(text, len(opened), len(text), marks)
        return len(opened), (start, end), text

    def _places(
        self, talk: Conversation, text: str, marks: Sequence[tuple[int, int]]
    ) -> dict[int, tuple[int, int]]:
        """Return where answers stand in ``text`` behind exactly their own prompts, by turn."""
        spoken = [at for at, turn in enumerate(talk.turns) if turn.speaker is Speaker.ASSISTANT]
        marked = dict(zip(spoken, marks, strict=True)) if len(marks) == len(spoken) else {}
        places: dict[int, tuple[int, int]] = {}
        for turn in talk.answers:
            opened = self._render(replace(talk, turns=talk.turns[:turn]), is_open=True).text
            if not text.startswith(opened):
                continue
            if turn in marked:
                places[turn] = self._span(text, len(opened), len(text), [marked[turn]])
                continue
            closed = self._render(replace(talk, turns=talk.turns[: turn + 1])).text
            if closed.startswith(opened) and text.startswith(closed):
                places[turn] = self._span(text, len(opened), len(closed), ())
        return places

    def _span(self, text: str, start: int, end: int, marks: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Return what is learnt between a prompt's end and the end of a message: what is marked, down to the end token."""
        for first, last in marks:
            start, end = max(start, first), last
        ending = self._ending.text
        if not ending:
            return start, max(start, end)
        if marks:
            is_cut = not text[start:end].rstrip().endswith(ending.strip()) and text.startswith(ending, end)
            return start, max(start, end + len(ending) * is_cut)
        said = text[start:end].rstrip()
        return start, (start + len(said) if said.endswith(ending.strip()) else end)

    def _render(self, talk: Conversation, *, is_open: bool = False) -> Rendered:
        """Return what the template makes of ``talk``; the same turns are rendered once."""
        key = (talk.system, is_open, *map(id, talk.turns), *map(id, talk.tools))
        if key not in self._rendered:
            messages = [{"role": "system", "content": talk.system}] if talk.system else []
            ids = _call_ids(talk.turns)
            messages += [_as_mapping(turn, own) for turn, own in zip(talk.turns, ids, strict=True)]
            rendered = self._tokenizer.render(
                messages, self._template, tools=talk.tools, is_open=is_open, end=self._end
            )
            self._rendered[key] = talk, rendered  # the turns too: an id is of one object while that lives
        return self._rendered[key][1]

    def _shows(self, talk: Conversation, *words: str) -> bool:
        try:
            text = self._render(talk).text
        except TemplateRefusal:
            return False
        return all(word in text for word in words)

    def _find_ending(self) -> _Ending:
        """Return the first special token behind an answer, or nothing where there is other text before any."""
        text = self._render(Conversation("", (user("?"), assistant(_ANSWER)))).text
        if _ANSWER not in text:
            raise ModelError(
                "chat template: must write what the assistant says, but leaves it out. Choose a template."
            )
        tail = text[text.rindex(_ANSWER) + len(_ANSWER) :]
        body = tail.lstrip()
        found = max(
            (one for one in self._tokenizer.specials if one and body.startswith(one)), key=len, default=""
        )
        if not found:
            return _Ending("", self._tokenizer.stop)
        return _Ending(tail[: len(tail) - len(body)] + found, self._tokenizer.specials[found])

    def _as_text(self, turn: Message) -> str:
        return "\n".join(part for part in (turn.text.strip(), as_text(turn.calls)) if part)


def _num_said(talk: Conversation) -> int:
    return sum(turn.speaker is Speaker.ASSISTANT for turn in talk.turns)


def _tool_probe() -> Conversation:
    turns = (
        user("?"),
        Message(Speaker.ASSISTANT, "", calls=(Call(_CALL, {}),)),
        Message(Speaker.TOOL, _RESULT, name=_CALL),
        assistant("!"),
    )
    about = {"name": _TOOL, "description": "?", "parameters": {"type": "object", "properties": {}}}
    return Conversation("", turns, ({"type": "function", "function": about},))


def _call_ids(turns: Sequence[Message]) -> list[tuple[str, ...]]:
    """Return an id for each call of a turn, or of the call that a tool's turn answers: nine signs, as some templates ask."""
    found: list[tuple[str, ...]] = []
    waiting: list[str] = []
    for at, turn in enumerate(turns):
        if turn.speaker is Speaker.TOOL:
            own = waiting.pop(0) if waiting else f"call{at:05d}"
            found.append((turn.call_id or own,))
            continue
        own_ids = tuple(call.id or f"c{at:04d}{number:04d}" for number, call in enumerate(turn.calls))
        waiting = list(own_ids) if turn.calls else []
        found.append(own_ids)
    return found


def _as_mapping(turn: Message, ids: Sequence[str]) -> dict[str, Any]:
    """Return a message as transformers hands it to templates."""
    message: dict[str, Any] = {"role": turn.speaker.value, "content": turn.text}
    if turn.speaker is Speaker.USER:
        return message | {"instruction": turn.content, "input": turn.given}
    if turn.calls:
        message["tool_calls"] = [
            {"id": own, "type": "function", "function": call.to_json()}
            for own, call in zip(ids, turn.calls, strict=True)
        ]
    if turn.speaker is Speaker.TOOL:
        message |= {"tool_call_id": ids[0]} | ({"name": turn.name} if turn.name else {})
    return message


def without_tools(talk: Conversation) -> Conversation:
    """Return ``talk`` for templates that know no tools: definitions in the system's words, calls and results as text."""
    turns = [_without_calls(turn) for turn in talk.turns]
    system = "\n\n".join(
        text for text in (talk.system, as_paragraph(talk.tools) if talk.tools else "") if text
    )
    return Conversation(system, joined(turns), ())


def _without_calls(turn: Message) -> Message:
    if turn.speaker is Speaker.TOOL:
        return user(as_result(turn.content))
    if not turn.calls:
        return turn
    text = "\n".join(part for part in (turn.content, as_text(turn.calls)) if part.strip())
    return replace(turn, content=text, calls=())
