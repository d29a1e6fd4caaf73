"""Conversations in pieces: what is learnt, where, and what stands before it, for templates of every temper."""

from __future__ import annotations

import pytest

from weft.errors import ModelError
from weft.task.conversation import Conversation, Message, Speaker, assistant, user
from weft.task.rendering import Filled, Piece, Templated, renderer, without_tools
from weft.task.templates import DEFAULT_TEMPLATE
from weft.task.toolcalls import Call

PLAIN = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SHORT_MARKS = MARKED.replace(
    "{{ m.content + '<|end|>' }}{% endgeneration %}", "{{ m.content }}{% endgeneration %}{{ '<|end|>' }}"
)
THOUGHTFUL = (  # shows the thoughts of the last answer only, as reasoning models do
    "{% for m in messages %}{% set said = m.content %}"
    "{% if m.role == 'assistant' and not loop.last %}{% set said = m.content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|' + m.role + '|>' + said + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
OPENED = PLAIN.replace("'<|assistant|>'", "'<|assistant|><think>'")  # the call to answer is not in the answer
HEADLESS = PLAIN.split("{% if add", maxsplit=1)[0]
ENDLESS = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
DEAF = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    + PLAIN.removeprefix("{% for m in messages %}")
)
TALK = Conversation("S", (user("a"), assistant("one"), user("b"), assistant("two")))
OPEN = Conversation("S", TALK.turns[:3])


def _way(kit, template):
    return Templated(kit.chat(template, "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"), template)


def _texts(pieces):
    return [(piece.text, piece.turn) for piece in pieces]


@pytest.mark.parametrize("template", [PLAIN, MARKED, SHORT_MARKS])
def test_answers_are_found_with_their_end_and_nothing_else(kit, template):
    way = _way(kit, template)
    assert _texts(way.prompt(OPEN)) == [
        ("<|system|>S<|end|>\n<|user|>a<|end|>\n<|assistant|>", None),
        ("one<|end|>", 1),
        ("\n<|user|>b<|end|>\n<|assistant|>", None),
    ]
    assert way.answer(TALK) == [Piece("two<|end|>", 3)]
    assert way.said(TALK) == "two"
    assert way.stop == kit.chat(None, "<|end|>").specials["<|end|>"]


def test_a_template_that_rewrites_earlier_turns_learns_none_of_them_in_place(kit):
    way = _way(kit, THOUGHTFUL)
    talk = Conversation(
        "", (user("a"), assistant("<think>x</think>one"), user("b"), assistant("<think>y</think>two"))
    )
    before = Conversation("", talk.turns[:3])
    assert _texts(way.prompt(before)) == [
        ("<|user|>a<|end|>\n<|assistant|>one<|end|>\n<|user|>b<|end|>\n<|assistant|>", None)
    ]
    assert way.answer(talk) == [Piece("<think>y</think>two<|end|>", 3)]
    first = Conversation("", talk.turns[:2])
    assert way.answer(first) == [Piece("<think>x</think>one<|end|>", 1)]


def test_a_call_to_answer_that_answers_do_not_have_is_followed_by_the_answer_itself(kit):
    way = _way(kit, OPENED)
    assert way.prompt(OPEN)[-1].text.endswith("<|assistant|><think>")
    assert way.answer(TALK) == [Piece("two<|end|>", 3)]
    assert [piece.turn for piece in way.prompt(OPEN)] == [None]


def test_without_a_call_to_answer_the_head_of_the_answer_is_learnt(kit):
    way = _way(kit, HEADLESS)
    assert way.prompt(OPEN)[-1].text == "\n<|user|>b<|end|>\n"
    assert way.answer(TALK) == [Piece("<|assistant|>two<|end|>", 3)]


def test_where_no_end_is_written_the_end_token_follows_the_last_answer(kit):
    way = _way(kit, ENDLESS)
    assert way.stop == 2
    assert way.answer(TALK) == [Piece("two\n", 3, stops=True)]
    assert way.prompt(OPEN)[1] == Piece("one\n", 1)


def test_the_systems_words_go_to_the_first_question_where_there_is_no_system(kit):
    way = _way(kit, DEAF)
    fitted = way.fitted(TALK)
    assert fitted.system == ""
    assert fitted.turns == (user("S\n\na"), *TALK.turns[1:])
    assert _way(kit, PLAIN).fitted(TALK) is TALK


def _with_tools():
    turns = (
        user("Weather?"),
        Message(Speaker.ASSISTANT, "I look.", calls=(Call("weather", {"city": "北京"}),)),
        Message(Speaker.TOOL, "晴"),
        user("thanks"),
        assistant("Sunny."),
    )
    return Conversation("S", turns, ({"type": "function", "function": {"name": "weather"}},))


def test_tools_become_text_where_the_template_knows_none(kit):
    talk = _way(kit, PLAIN).fitted(_with_tools())
    assert talk == without_tools(_with_tools())
    assert '"name": "weather"' in talk.system.split("\n\n", 1)[1]
    assert talk.tools == ()
    assert [turn.speaker.value for turn in talk.turns] == ["user", "assistant", "user", "assistant"]
    assert talk.turns[1].content == (
        'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'
    )
    assert talk.turns[2].content == "<tool_response>\n晴\n</tool_response>\n\nthanks"


def test_tools_stay_tools_where_the_template_takes_them(kit):
    way = renderer(kit.chat(None, "<|im_start|>", "<|im_end|>"), "qwen")
    talk = _with_tools()
    assert way.fitted(talk) is talk
    called = Conversation("S", talk.turns[:2], talk.tools)
    assert "<tools>" in way.prompt(Conversation("S", talk.turns[:1], talk.tools))[0].text
    written = 'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'
    assert way.said(called) == written
    assert way.answer(called) == [Piece(written + "<|im_end|>", 1)]
    inside = way.prompt(Conversation("S", talk.turns[:4], talk.tools))
    assert [piece.text for piece in inside if piece.turn == 1] == [written + "<|im_end|>"]


def test_calls_have_ids_that_their_results_name(kit):
    shown = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.name + '=' + c.id + ';' }}{% endfor %}"
        "{% if m.role == 'tool' %}{{ m.tool_call_id + ':' + m.content + ';' }}{% else %}{{ m.content + ';' }}{% endif %}"
        "{% endfor %}{% for t in tools or [] %}{{ t.function.name }}{% endfor %}"
    )
    way = _way(kit, shown)
    calls = (Call("f", {}), Call("g", {}, "given"))
    turns = (
        user("?"),
        Message(Speaker.ASSISTANT, "", calls=calls),
        Message(Speaker.TOOL, "1"),
        Message(Speaker.TOOL, "2"),
    )
    text = "".join(piece.text for piece in way.prompt(Conversation("", turns)))
    assert text == "?;f=c00010000;g=given;;c00010000:1;given:2;"


def test_prompts_that_are_filled_follow_one_another():
    way = Filled((1,), 2, "{system}\n\nQ: {instruction}\n\nMore: {input}\n\nA: ")
    talk = Conversation("S", (user("a", given="x"), assistant(" one "), user("b"), assistant("two")))
    assert way.prompt(Conversation("S", talk.turns[:3])) == [
        Piece("S\n\nQ: a\n\nMore: x\n\nA: "),
        Piece("one", 1, stops=True),
        Piece("\n\nQ: b\n\nA: "),
    ]
    assert way.answer(talk) == [Piece("two", 3, stops=True)]
    greeting = Conversation("", (assistant("hello"), user("a")))
    assert way.prompt(greeting) == [Piece("hello", None, stops=True), Piece("\n\nQ: a\n\nA: ")]
    assert way.fitted(_with_tools()) == without_tools(_with_tools())


def test_the_recipe_chooses_the_way(kit):
    chatty = kit.chat(PLAIN, "<|end|>")
    assert renderer(kit.story, None) == Filled(kit.story.start, kit.story.stop, DEFAULT_TEMPLATE)
    assert renderer(chatty, "{instruction}") == Filled((1,), 2, "{instruction}")
    assert isinstance(renderer(chatty, None), Templated)
    assert (renderer(chatty, None).start, renderer(chatty, "chatml").start) == ((), (1,))


def test_a_template_that_leaves_answers_out_is_refused(kit):
    with pytest.raises(ModelError, match="must write what the assistant says"):
        _way(kit, "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}")
    with pytest.raises(ModelError, match="must take the conversation, but never"):
        _way(kit, "{{ raise_exception('never') }}")
