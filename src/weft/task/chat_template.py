"""The way a task writes conversations as one chat template, for tokenizers that are exported.

A named format becomes whole by itself: what it means by ``end`` is written out, the tokens that open a text stand before
it, and where it knows no tools, what ``weft.task.rendering`` makes of them is done in Jinja. A prompt that a recipe
writes itself becomes a template that fills it. A message may have ``input`` beside ``content``, as alpaca's rows do.
"""

from __future__ import annotations

import json
import re

from weft.task.base import Tokenizer
from weft.task.conversation import Conversation, user
from weft.task.rendering import Templated, renderer
from weft.task.templates import DEFAULT_TEMPLATE, FORMATS
from weft.task.toolcalls import as_paragraph, as_result

_FIELD = re.compile(r"\{(\w+)\}")
_HOLE = "{}"
_OWN_INPUT = frozenset({"alpaca"})  # formats that write a given text apart from its instruction


def chat_template(tokenizer: Tokenizer, template: str | None) -> str | None:
    """Return ``template`` of a recipe in Jinja; None where the tokenizer's own chat template is what is used.

    ``apply_chat_template`` of transformers then gives the tokens of ``Writer.ask`` for a conversation that fits a row.
    What a template cannot say are borders between tokens: behind an earlier answer, which is tokenized apart here,
    they may be merged.

    Args:
        tokenizer: of a decoder.
        template: a format's name, a prompt with ``{instruction}``, or None.
    """
    if template is None and tokenizer.template is not None:
        return None
    known = FORMATS.get(template or "")
    body = _filled(template or DEFAULT_TEMPLATE) if known is None else known.template
    marks = {number: mark for mark, number in tokenizer.specials.items()}
    named = known.end if known is not None and known.end in tokenizer.specials else ""
    end = named or marks.get(tokenizer.stop, "")
    way = renderer(tokenizer, template)
    has_tools = isinstance(way, Templated) and way.takes_tools
    has_input = known is None or template in _OWN_INPUT
    opening = _opening(tokenizer, way.prompt(Conversation("", (user("?"),)))[0].text)
    return (
        ("" if has_tools else _plain_turns(has_input=has_input))
        + (f"{{{{- {_quoted(opening)} }}}}" if opening else "")
        + f"{{%- set end = {_quoted(end)} %}}{body}"
    )


def _opening(tokenizer: Tokenizer, text: str) -> str:
    """Return what has the tokens that open a text when it stands before ``text``.

    A tokenizer that puts a blank before a text of its own may not do so behind a special token: then it stands here.
    """
    marks = {number: mark for mark, number in tokenizer.specials.items()}
    start = "".join(marks.get(token, "") for token in tokenizer.start)
    wanted = (*tokenizer.start, *tokenizer.plain([text])[0])
    fits = (opening for opening in (start, f"{start} ") if tokenizer.plain([opening + text])[0] == wanted)
    return next(fits, start)


def _quoted(text: str) -> str:
    """Return ``text`` as a literal of Jinja, which reads the escapes of Python."""
    return json.dumps(text, ensure_ascii=False)


def _around(text: str, hole: str = _HOLE) -> tuple[str, str]:
    """Return what stands before and behind ``hole`` in ``text``, as literals."""
    before, behind = text.split(hole, 1)
    return _quoted(before), _quoted(behind)


def _plain_turns(*, has_input: bool) -> str:
    """Return Jinja that makes ``messages`` plain: tools as text, neighbours with one role as one, the system first.

    Args:
        has_input: whether the template reads ``input``; else it is put under what is said.
    """
    tools, result = _around(as_paragraph([{}])), _around(as_result(_HOLE))
    given = "message.input | default('')"
    said = "said" if has_input else f"[said, {given}] | select | join('\\n\\n')"
    kept = f", 'input': {given}" if has_input else ""
    return (
        "{%- set talk = namespace(system=[], turns=[]) %}"
        "{%- for message in messages %}{%- set said = message.content or '' %}"
        "{%- if message.role == 'system' %}{%- set talk.system = talk.system + [said] %}"
        "{%- else %}{%- set role = 'user' if message.role == 'tool' else message.role %}"
        f"{{%- if message.role == 'tool' %}}{{%- set said = {result[0]} + said + {result[1]} %}}{{%- endif %}}"
        "{%- if message.tool_calls %}{%- set parts = namespace(all=[said] if said | trim else []) %}"
        "{%- for call in message.tool_calls %}"
        "{%- set written = {'name': call.function.name, 'arguments': call.function.arguments} | tojson %}"
        "{%- set parts.all = parts.all + ['<tool_call>\\n' + written + '\\n</tool_call>'] %}{%- endfor %}"
        "{%- set said = parts.all | join('\\n') %}{%- endif %}"
        "{%- set last = talk.turns[-1] if talk.turns else {} %}"
        "{%- if last.role == role %}"
        f"{{%- set said = [last.content, last.input, {said}] | select | join('\\n\\n') %}}"
        "{%- set talk.turns = talk.turns[:-1] + [{'role': role, 'content': said}] %}"
        f"{{%- else %}}{{%- set talk.turns = talk.turns + [{{'role': role, 'content': {said}{kept}}}] %}}"
        "{%- endif %}{%- endif %}{%- endfor %}"
        "{%- if tools %}"
        f"{{%- set talk.system = talk.system + [{tools[0]} + (tools | map('tojson') | join('\\n')) + {tools[1]}] %}}"
        "{%- endif %}{%- set system = talk.system | select | join('\\n\\n') %}"
        "{%- set messages = ([{'role': 'system', 'content': system}] if system else []) + talk.turns %}"
    )


def _filled(template: str) -> str:
    """Return Jinja that fills ``template`` with each question, as ``weft.task.templates.fill`` does."""
    if "{system}" not in template:
        template = f"{{system}}\n\n{template}"
    asked = "message.content"
    if "{input}" not in template:
        asked = "[message.content, message.input] | select | join('\\n\\n')"
    paragraphs = "".join(map(_paragraph, template.split("\n\n")))
    answer = "{%- generation %}{{- (message.content | trim) + end }}{%- endgeneration %}"
    return (
        "{%- set done = namespace(system='', before='') %}"
        "{%- for message in messages %}"
        "{%- if message.role == 'system' %}{%- set done.system = message.content %}"
        f"{{%- elif message.role == 'assistant' %}}{answer}{{%- set done.before = '\\n\\n' %}}"
        "{%- else %}{%- set system = done.system %}{%- set input = message.input or '' %}"
        f"{{%- set instruction = {asked} %}}{{%- set kept = namespace(all=[]) %}}{paragraphs}"
        "{{- done.before + (kept.all | join('\\n\\n')) }}"
        "{%- set done.system = '' %}{%- set done.before = '\\n\\n' %}"
        "{%- endif %}{%- endfor %}"
    )


def _paragraph(text: str) -> str:
    """Return Jinja that keeps a paragraph, unless all of its fields are empty."""
    names = _FIELD.findall(text)
    parts = _FIELD.split(text)  # texts and names in turn
    written = " + ".join(name if at % 2 else _quoted(name) for at, name in enumerate(parts))
    kept = f"{{%- set kept.all = kept.all + [{written}] %}}"
    return f"{{%- if {' or '.join(names)} %}}{kept}{{%- endif %}}" if names else kept
