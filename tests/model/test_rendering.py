"""Chat templates: transformers' own renderings, in its sandbox."""

from __future__ import annotations

import pytest

from weft.errors import TemplateRefusal
from weft.model.rendering import Rendered, rendering

TALK = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "hi"}]


def _render(template, messages=TALK, *, tools=(), is_open=False, **names):
    return rendering(messages, template, tools=tools, is_open=is_open, names=names)


def test_text_marks_and_names():
    template = (
        "{{ bos }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{%- generation -%}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}|{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}{{ tools | tojson if tools }}"
    )
    assert _render(template, bos="#") == Rendered("#你好|hi", ((4, 6),))
    assert _render(template, bos="", is_open=True, tools=[{"a": "好"}]).text == '你好|hi>[{"a": "好"}]'
    assert _render("{{ messages | length }}") == Rendered("2", ())


def test_a_talk_is_not_changed_by_its_template():
    talk = [{"role": "user", "content": ["a"]}]
    with pytest.raises(TemplateRefusal):
        _render("{{ messages[0].content.append('b') }}", talk)
    assert talk == [{"role": "user", "content": ["a"]}]


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{{ messages[0].content.nothing.more }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% for i in range(10000000) %}{% endfor %}",
        "{% for",
        "{{ 1 + 'a' }}",
    ],
)
def test_what_fails_or_reaches_out_is_a_refusal(template):
    with pytest.raises(TemplateRefusal, match="chat template: must take the conversation, but") as found:
        _render(template)
    assert found.value.__cause__ is not None
