"""A conversation remembers what was said, also of an answer that was broken off."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from weft.core.example import Answer, Dropped, Encoded
from weft.core.network import Network
from weft.errors import DataError
from weft.evaluate.converse import Conversation, Said, conversing


@dataclass
class Echo:
    """Answers with the user's own last words, in pieces; may be broken off after some of them."""

    stop_after: int | None = None
    seen: list = field(default_factory=list)
    name = "echo"

    def turn(self, messages, tokenizer):
        self.seen.append([(one["role"], one["content"]) for one in messages])
        if messages[-1]["content"] == "bad":
            return Dropped("here", "no user turn")
        return Encoded((1,), None, messages[-1]["content"], None, "here", num_cut=len(messages) // 4)

    def reply(self, network, asked, heard):
        assert not network.training
        for number, word in enumerate(asked.target.split()):
            if number == self.stop_after:
                raise KeyboardInterrupt
            heard(f"{word} ")
        return Answer(text=asked.target)


def talk(**options) -> Conversation:
    return Conversation(Network(nn.Linear(1, 1), {}), Echo(**options), None, torch.float32)


def test_turns_and_answers_are_remembered():
    conversation, heard = talk(), []
    assert conversation.say("good day", heard.append) == Said("good day")
    assert heard == ["good ", "day "]
    conversation.system = "be kind"
    assert conversation.say("again", heard.append).num_cut == 1
    assert conversation.task.seen[-1] == [
        ("system", "be kind"),
        ("user", "good day"),
        ("assistant", "good day"),
        ("user", "again"),
    ]
    assert [one["role"] for one in conversation.messages] == ["user", "assistant", "user", "assistant"]


def test_an_answer_that_is_broken_off_is_remembered_as_far_as_it_came():
    conversation = talk(stop_after=1)
    assert conversation.say("one two", lambda piece: None) == Said("one ", is_whole=False)
    assert conversation.messages[-1] == {"role": "assistant", "content": "one "}
    silent = talk(stop_after=0)
    assert silent.say("one two", lambda piece: None) == Said("", is_whole=False)
    assert silent.messages == []


def test_what_cannot_be_answered_is_an_error_and_forgotten():
    conversation = talk()
    with pytest.raises(DataError, match="no user turn"):
        conversation.say("bad", lambda piece: None)
    assert conversation.messages == []


def test_the_task_that_answers():
    one, two, other = Echo(), Echo(), object()
    assert conversing({"a": one, "x": other}, None) is one
    assert conversing({"a": one, "b": two}, "b") is two
    for tasks, name, words in (
        ({"x": other}, None, "has none"),
        ({"a": one, "b": two}, None, "has a, b. Choose one"),
        ({"a": one, "x": other}, "x", "must be a task that generates"),
        ({"x": other}, "x", "There is none"),
    ):
        with pytest.raises(DataError, match=words):
            conversing(tasks, name)
