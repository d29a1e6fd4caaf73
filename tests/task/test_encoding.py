"""Conversations and plain texts for encoder-decoders: what is read, what is a reply, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.core.example import Purpose
from weft.errors import ModelError
from weft.model.folder import locate
from weft.model.tokenizer import load_tokenizer
from weft.task.batching import make_batch

TALK = [
    {"role": "system", "content": "be good"},
    {"role": "user", "content": "who works"},
    {"role": "assistant", "content": "john"},
    {"role": "user", "content": "who sleeps"},
    {"role": "assistant", "content": "mary sleeps"},
]


@pytest.fixture
def tokenizer(tiny_t5: Path):
    return load_tokenizer(locate(str(tiny_t5), None, root=Path()), max_tokens=64)


def _source(tokenizer, text: str) -> tuple[int, ...]:
    return tokenizer.texts([text])[0].tokens


@pytest.mark.parametrize("purpose", Purpose)
def test_the_last_answer_is_a_reply_to_all_before_it(kit, tokenizer, purpose):
    rows = [{"messages": TALK}]
    (example,) = kit.fit("generation", rows).encode(kit.rows(rows), tokenizer, purpose)
    assert example.tokens == _source(tokenizer, "be good\n\nUser: who works\nAssistant: john\nwho sleeps")
    assert example.gold == "mary sleeps"
    if purpose is Purpose.LEARN:
        assert example.reply.tokens[1:] == _source(tokenizer, "mary sleeps")


def test_a_format_of_a_name_is_read_as_it_is_written(kit, tokenizer):
    rows = [{"messages": TALK}]
    task = kit.fit("generation", rows, template="vicuna")
    (example,) = task.encode(kit.rows(rows), tokenizer, Purpose.ANSWER)
    end = next(mark for mark, number in tokenizer.specials.items() if number == tokenizer.stop)
    written = f"be good USER: who works ASSISTANT: john{end}USER: who sleeps ASSISTANT:"
    assert example.tokens == _source(tokenizer, written)


def test_weights_are_those_of_the_reply(kit, tokenizer):
    last = {**TALK[-1], "weight": 0.5}
    rows = [{"messages": [*TALK[:-1], last]}, {"messages": [*TALK[:-1], {**last, "weight": 0}]}]
    task = kit.fit("generation", rows)
    half, earlier = task.encode(kit.rows(rows), tokenizer, Purpose.LEARN)
    target = make_batch([("t", half)], {"t": task}, pad=0).targets["t"]
    assert target.weight == 0.5 * (len(half.reply.tokens) - 1)
    assert set(target.values["weights"].tolist()) == {0.5}
    assert earlier.reply.tokens[1:] == _source(tokenizer, "john")
    silent = [{"messages": [*TALK[:2], {**TALK[2], "train": False}]}]
    (dropped,) = task.encode(kit.rows(silent), tokenizer, Purpose.LEARN)
    assert dropped.reason == "no answer with a weight"


def test_tools_are_text(kit, tokenizer):
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "works", "arguments": {}}]}
    rows = [{"messages": [TALK[1], call]}]
    (example,) = kit.fit("generation", rows).encode(kit.rows(rows), tokenizer, Purpose.ANSWER)
    assert example.gold == '<tool_call>\n{"name": "works", "arguments": {}}\n</tool_call>'


def test_plain_texts_are_refused(kit, tokenizer):
    rows = [{"text": "john works in paris"}]
    with pytest.raises(ModelError, match=r"tasks\.t: plain texts are learnt by decoders"):
        kit.fit("generation", rows).encode(kit.rows(rows), tokenizer, Purpose.LEARN)
