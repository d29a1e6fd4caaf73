"""Prompts from the formats that instruction data comes in."""

from __future__ import annotations

import pytest

from weft.core.example import Row
from weft.task.prompts import DEFAULT_TEMPLATE, Exchange, as_chat, check_template, exchange, fill

FLAT = {"messages": None, "instruction": "q", "input": "i", "output": "a", "system": "s"}
TALK = {"messages": "messages", "instruction": None, "input": None, "output": None, "system": None}


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _talk(*messages):
    return exchange(Row({"messages": list(messages)}, "f:1"), TALK)


def test_a_flat_row():
    found = exchange(Row({"q": "Translate", "i": "cat", "a": " 猫 ", "s": "Be brief"}, "f:1"), FLAT)
    assert found == Exchange(({"role": "system", "content": "Be brief"}, _user("Translate")), "cat", "猫")
    assert exchange(Row({"q": "Say"}, "f:1"), FLAT) == Exchange((_user("Say"),), "", None)
    assert exchange(Row({"a": "x"}, "f:1"), FLAT) == "empty instruction"


def test_the_last_answer_of_a_conversation_is_learnt():
    found = _talk(_user("1"), _bot("one"), _user("2"), _bot("two"))
    assert found == Exchange((_user("1"), _bot("one"), _user("2")), "", "two")


def test_a_conversation_that_ends_with_a_question_is_asked():
    assert _talk(_user("1"), _bot("one"), _user("2")) == Exchange(
        (_user("1"), _bot("one"), _user("2")), "", None
    )


def test_sharegpt_and_parts_are_understood():
    found = _talk(
        {"from": "system", "value": "S"}, {"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}
    )
    assert found == Exchange(({"role": "system", "content": "S"}, _user("hi")), "", "yo")
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert _talk(parts, _bot("c")) == Exchange((_user("ab"),), "", "c")


@pytest.mark.parametrize("messages", [[], [_bot("x")], [_user(" "), _bot("x")], [_bot("a"), _bot("b")]])
def test_a_conversation_without_a_question_is_refused(messages):
    assert _talk(*messages) == "no user turn before the answer"


def test_messages_must_be_a_list_of_turns():
    for value in ("hello", None, ["hello"]):
        assert exchange(Row({"messages": value}, "f:1"), TALK) == "messages are not a list of turns"


def test_the_default_template_leaves_out_what_is_not_there():
    short = fill(DEFAULT_TEMPLATE, Exchange((_user("Sing"),), "", None))
    assert short == "### Task\nSing\n\n### Answer\n"
    system = {"role": "system", "content": "Be brief"}
    whole = fill(DEFAULT_TEMPLATE, Exchange((system, _user("Sing")), "a song", None))
    assert whole == "Be brief\n\n### Task\nSing\n\n### Given\na song\n\n### Answer\n"


def test_earlier_turns_stand_before_the_question():
    text = fill("{instruction}\n=>", Exchange((_user("1"), _bot("one"), _user("2")), "", None))
    assert text == "User: 1\nAssistant: one\n2\n=>"


def test_braces_in_data_are_data():
    assert fill("{instruction}", Exchange((_user("{input} {x}"),), "no", None)) == "{input} {x}"


def test_templates_are_checked():
    assert check_template("{instruction}!") == "{instruction}!"
    with pytest.raises(ValueError, match=r"has no \{instruction\}"):
        check_template("Answer:")
    with pytest.raises(ValueError, match=r"has \{question\}"):
        check_template("{instruction} {question}")


def test_a_chat_gets_what_is_given_under_the_question():
    assert as_chat(Exchange((_user("a"),), "b", None)) == [_user("a\n\nb")]
    assert as_chat(Exchange((_user("a"), _bot("x"), _user("c")), "", None)) == [
        _user("a"),
        _bot("x"),
        _user("c"),
    ]
