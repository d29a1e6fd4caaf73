"""Conversations from the ways in which they are written, with a rule for each that is out of order."""

from __future__ import annotations

import json

import pytest

from weft.task.conversation import (
    Conversation,
    Message,
    Speaker,
    assistant,
    conversation,
    joined,
    read_history,
    read_messages,
    user,
)
from weft.task.toolcalls import Call

ASKED, SAID = {"role": "user", "content": "你好"}, {"role": "assistant", "content": "hi"}


def _talk(*messages, system=""):
    found = read_messages(list(messages))
    return found if isinstance(found, str) else conversation(found, system, ())


@pytest.mark.parametrize(
    "messages",
    [
        [ASKED, SAID],
        [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "hi"}],
        [{"human": "你好", "assistant": "hi"}],
        [{"user": "你好", "assistant": "hi"}],
        [{"role": "User", "content": "你好"}, {"role": " model ", "content": "hi"}],
        [{"role": "user", "content": [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]}, SAID],
        [{"role": "user", "content": ["你", "好"]}, SAID],
        [{"role": "用户", "content": "你好"}, {"role": "助手", "content": "hi"}],
        json.dumps([ASKED, SAID]),
    ],
)
def test_every_way_of_writing_gives_the_same_conversation(messages):
    found = read_messages(messages)
    assert conversation(found, "", ()) == Conversation("", (user("你好"), assistant("hi")))


def test_the_system_speaks_first_and_once():
    first, second = {"role": "system", "content": "Be brief."}, {"role": "developer", "content": "用中文。"}
    assert _talk(first, second, ASKED, SAID, system="S").system == "S\n\nBe brief.\n\n用中文。"
    assert _talk({"role": "system", "content": " "}, ASKED).system == ""
    assert _talk({"system": "Be brief.", "human": "a", "assistant": "b"}).system == "Be brief."
    assert _talk(ASKED, first) == "system message after the first turn"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "no user turn before the answer"),
        ([SAID], "no user turn before the answer"),
        ([{"role": "user", "content": " "}, SAID], "no user turn before the answer"),
        ([SAID, SAID], "no user turn before the answer"),
        ([ASKED, SAID, {"role": "user", "content": ""}, SAID], "empty message"),
        ([ASKED, {"role": "assistant", "content": None}, ASKED], "empty message"),
        ([{"role": "narrator", "content": "x"}], "unknown role"),
        ([{"content": "x"}], "message without a role"),
        ([ASKED, {"role": "tool", "content": "1"}], "tool result without an answer before it"),
        ([{"role": "tool", "content": "1"}, ASKED, SAID], "tool result without an answer before it"),
        ([ASKED, {**SAID, "tool_calls": [{"arguments": {}}]}], "tool call without a name"),
        ([ASKED, {"from": "function_call", "value": "not json"}], "tool call without a name"),
        ([ASKED, {**SAID, "weight": "much"}], "weight of a message is not a number of at least 0"),
        ([ASKED, {**SAID, "weight": -1}], "weight of a message is not a number of at least 0"),
        ([ASKED, {**SAID, "weight": float("nan")}], "weight of a message is not a number of at least 0"),
        ([ASKED, SAID, {**SAID, "weight": 0}], "two answers in a row with different weights"),
        (["hello"], "messages are not a list of turns"),
        ("hello", "messages are not a list of turns"),
        (None, "messages are not a list of turns"),
        ({"role": "user"}, "messages are not a list of turns"),
    ],
)
def test_what_is_out_of_order_has_a_reason(messages, reason):
    found = read_messages(messages)
    assert (found if isinstance(found, str) else conversation(found, "", ())) == reason


@pytest.mark.parametrize("kind", ["image", "image_url", "video", "audio", "input_audio"])
def test_more_than_text_is_refused(kind):
    content = [{"type": kind, kind: "x.png"}, {"type": "text", "text": "what is it?"}]
    assert (
        read_messages([{"role": "user", "content": content}, SAID])
        == "images, audio and video cannot be read"
    )


@pytest.mark.parametrize(
    ("flags", "weight"),
    [
        ({}, 1.0),
        ({"weight": 0}, 0.0),
        ({"weight": None}, 1.0),
        ({"train": False}, 0.0),
        ({"train": True}, 1.0),
        ({"loss": False}, 0.0),
        ({"loss_scale": 0.5}, 0.5),
        ({"loss_weight": "2"}, 2.0),
        ({"weight": 0.25, "train": True}, 0.25),
    ],
)
def test_flags_of_a_message_are_its_weight(flags, weight):
    assert read_messages([ASKED, {**SAID, **flags}])[1].weight == weight


def test_tool_calls_in_both_shapes_and_of_sharegpt_are_the_same():
    call = {"name": "weather", "arguments": {"city": "北京"}}
    nested = {"type": "function", "id": "", "function": {**call, "arguments": json.dumps(call["arguments"])}}
    wanted = Message(Speaker.ASSISTANT, "", calls=(Call("weather", {"city": "北京"}),))
    for written in (
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "assistant", "content": None, "tool_calls": [nested]},
        {"role": "assistant", "tool_calls": json.dumps([call])},
        {"role": "assistant", "function_call": call},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "function_call", "value": json.dumps([call])},
    ):
        assert read_messages([ASKED, written])[1] == wanted


def test_results_of_tools_follow_calls_and_stay_apart():
    call = {"from": "function_call", "value": '{"name": "f", "arguments": {}}'}
    results = [
        {"from": "observation", "value": "1"},
        {"role": "tool", "content": "", "name": "g", "tool_call_id": "7"},
    ]
    talk = _talk(ASKED, call, *results, SAID)
    assert [turn.speaker.value for turn in talk.turns] == ["user", "assistant", "tool", "tool", "assistant"]
    assert (talk.turns[3].name, talk.turns[3].call_id) == ("g", "7")
    assert talk.answers == (1, 4)
    as_json = _talk(ASKED, call, {"role": "function", "content": {"a": "好"}})
    assert as_json.turns[2].content == '{"a": "好"}'


def test_neighbours_of_one_speaker_are_one_message():
    talk = _talk(ASKED, {"role": "user", "content": "there?"}, SAID, {**SAID, "tool_calls": [{"name": "f"}]})
    assert talk.turns == (
        user("你好\n\nthere?"),
        Message(Speaker.ASSISTANT, "hi\n\nhi", calls=(Call("f", {}),)),
    )
    assert joined([user("a", given="b"), user("c")]) == (user("a\n\nb\n\nc"),)
    assert joined([]) == ()


def test_a_greeting_is_context_and_the_last_word_may_be_missing():
    talk = _talk(SAID, ASKED, SAID)
    assert (talk.answers, talk.is_answered) == ((2,), True)
    assert not _talk(ASKED).is_answered
    assert _talk(ASKED, {"role": "assistant", "content": ""}) == _talk(ASKED)
    assert _talk(SAID, ASKED).answers == ()


def test_history_is_context():
    pairs = [["1", "one"], ("2", "two")]
    messages = [user("1"), assistant("one", 0.0), user("2"), assistant("two", 0.0)]
    assert read_history(pairs) == read_history(json.dumps(pairs)) == messages
    assert read_history([ASKED, SAID]) == [user("你好"), assistant("hi", 0.0)]
    assert read_history(None) == read_history("") == read_history([]) == []
    for wrong in ("text", [["a"]], ["ab"], 3):
        assert read_history(wrong) == "history is not pairs of question and answer"
