"""Conversations as tokens: prompts that answers follow, turns that do not fit, what is learnt once and once only."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.task.conversation import Conversation, assistant, user
from weft.task.rendering import renderer
from weft.task.templates import FORMATS
from weft.task.writing import Learn, Span, Writer, blocks, counted, cut_middle

TURNS = [turn for n in range(8) for turn in (user(f"question {n}"), assistant(f"answer {n}"))]
TALK = Conversation("Be kind.", tuple(TURNS))


def _writer(kit, template="chatml", max_tokens=128, room=None):
    tokenizer = kit.chat(None, max_tokens=max_tokens)
    return Writer(tokenizer, renderer(tokenizer, template), room=room or max_tokens - 20), tokenizer


def _learnt(tokenizer, texts):
    return [
        tokenizer.decode(text.tokens[span.start : span.end]).strip() for text in texts for span in text.spans
    ]


def test_a_short_conversation_is_one_text(kit):
    writer, tokenizer = _writer(kit, max_tokens=2000)
    (text,) = writer.learn(TALK, Learn.ANSWERS)
    assert _learnt(tokenizer, [text]) == [f"answer {n}" for n in range(8)]
    assert all(text.tokens[span.end - 1] == tokenizer.stop for span in text.spans)
    assert text.num_cut == 0
    asked = writer.ask(Conversation("Be kind.", TALK.turns[:-1]))
    assert text.tokens[: len(asked.tokens)] == asked.tokens
    assert text.spans[-1].start == len(asked.tokens)


@pytest.mark.parametrize("template", ["chatml", "llama2", "alpaca", "Q: {instruction}\nA:"])
def test_long_conversations_lose_no_answer_and_no_text_is_too_long(kit, template):
    writer, tokenizer = _writer(kit, template, max_tokens=160)
    texts = writer.learn(TALK, Learn.ANSWERS)
    assert len(texts) > 1
    assert all(len(text.tokens) <= 160 for text in texts)
    assert sorted(_learnt(tokenizer, texts)) == [f"answer {n}" for n in range(8)]
    asked = writer.ask(Conversation("Be kind.", TALK.turns[:-1]))
    assert len(asked.tokens) <= 140
    assert texts[0].tokens[: len(asked.tokens)] == asked.tokens
    shown = tokenizer.decode(asked.tokens)
    assert "kind" in shown
    assert "question 7" in shown
    assert "question 0" not in shown
    assert asked.num_cut == texts[0].num_cut > 0


def test_as_many_turns_as_fit_are_kept(kit):
    for room in range(60, 200, 7):
        writer, tokenizer = _writer(kit, max_tokens=300, room=room)
        asked = writer.ask(Conversation("", TALK.turns[:-1]))
        assert len(asked.tokens) <= room
        first = next((n for n in range(8) if f"question {n}" in tokenizer.decode(asked.tokens)), None)
        if first:  # one exchange more would be too much
            whole, _ = _writer(kit, max_tokens=9000, room=9000)
            more = whole.ask(Conversation("", TALK.turns[2 * first - 2 : -1]))
            assert len(more.tokens) > room


def test_one_question_that_is_too_long_loses_its_middle(kit):
    writer, tokenizer = _writer(kit, max_tokens=80, room=60)
    talk = Conversation("", (user("begin " + "x " * 200 + "end"), assistant("red")))
    (text,) = writer.learn(talk, Learn.ANSWERS)
    asked = writer.ask(Conversation("", talk.turns[:1]))
    assert len(asked.tokens) == 60
    assert text.tokens[:60] == asked.tokens
    shown = tokenizer.decode(asked.tokens)
    assert "begin" in shown
    assert shown.rstrip().endswith("assistant")
    assert _learnt(tokenizer, [text]) == ["red"]
    assert text.num_cut == asked.num_cut > 100


def test_what_counts(kit):
    weights = (1.0, 0.0, 0.5, 0.0)
    turns = tuple(
        turn for n, weight in enumerate(weights) for turn in (user(f"q {n}"), assistant(f"a {n}", weight))
    )
    talk = Conversation("", turns)
    assert counted(talk, Learn.ANSWERS) == (1, 5)
    assert counted(talk, Learn.LAST) == ()
    assert counted(talk, Learn.ALL) == (1, 3, 5, 7)
    writer, tokenizer = _writer(kit, max_tokens=500)
    (text,) = writer.learn(talk, Learn.ANSWERS)
    assert [(tokenizer.decode(text.tokens[a:b]).strip(), weight) for a, b, weight in text.spans] == [
        ("a 0", 1.0),
        ("a 2", 0.5),
    ]
    assert writer.learn(talk, Learn.LAST) == []
    (whole,) = writer.learn(talk, Learn.ALL)
    assert whole.spans == (Span(0, len(whole.tokens), 1.0),)
    last = writer.learn(Conversation("", turns[:2]), Learn.LAST)
    assert _learnt(tokenizer, last) == ["a 0"]


def test_every_token_of_a_long_conversation_is_learnt_with_all(kit):
    writer, tokenizer = _writer(kit, max_tokens=160)
    texts = writer.learn(TALK, Learn.ALL)
    shown = " ".join(tokenizer.decode(text.tokens) for text in texts)
    assert all(shown.count(f"question {n}") == shown.count(f"answer {n}") == 1 for n in range(8))
    assert all(text.spans == (Span(0, len(text.tokens), 1.0),) for text in texts)


def test_remembered_pieces_are_the_same_tokens(kit):
    cold, _ = _writer(kit, max_tokens=900)
    warm, tokenizer = _writer(kit, max_tokens=900)
    way = renderer(tokenizer, "chatml")
    before = Conversation("Be kind.", TALK.turns[:-1])
    warm.remember([[*way.prompt(before), *way.answer(TALK)]])
    assert warm.learn(TALK, Learn.ANSWERS) == cold.learn(TALK, Learn.ANSWERS)


def test_pieces_are_tokenized_as_the_whole_text_is(kit):
    """Where every answer starts and ends at a special token or a line break, cutting there changes nothing."""
    marks = ("<|im_start|>", "<|im_end|>")
    tokenizer = kit.chat(None, *marks, max_tokens=5000)
    way = renderer(tokenizer, "chatml")
    (text,) = Writer(tokenizer, way, room=4000).learn(TALK, Learn.ANSWERS)
    before = Conversation("Be kind.", TALK.turns[:-1])
    whole = "".join(piece.text for piece in (*way.prompt(before), *way.answer(TALK)))
    assert text.tokens == (*tokenizer.start, *tokenizer.plain([whole])[0])


def test_blocks_learn_every_token_once():
    for size in (2, 3, 7, 50):
        tokens = tuple(range(30))
        parts = blocks(tokens, size)
        assert all(1 < len(part.tokens) <= size for part in parts)
        assert [token for part in parts for token in part.tokens[1:]] == list(tokens[1:])
    assert [part.tokens for part in blocks((5,), 4)] == [(5,)]


def test_cutting_the_middle_keeps_both_ends():
    assert cut_middle((1, 2, 3), 3) == (1, 2, 3)
    assert cut_middle((1, 2, 3, 4, 5), 3) == (1, 2, 5)


WORDS = st.sampled_from(
    ["red ", "蓝", "\n", " ", "</s>", "[INST]", "<|im_end|>", "a" * 30, "Tim went home. ", "{x}"]
)
SAID = st.lists(WORDS, min_size=1, max_size=6).map("".join).filter(str.strip)


@st.composite
def _talks(draw):
    turns = []
    for _ in range(draw(st.integers(1, 5))):
        turns += [user(draw(SAID)), assistant(draw(SAID), draw(st.sampled_from([0.0, 0.5, 1.0])))]
    return Conversation(draw(st.sampled_from(["", "Be kind. 好"])), tuple(turns))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    talk=_talks(),
    template=st.sampled_from([*sorted(FORMATS), "Q: {instruction}\nA: "]),
    limit=st.integers(24, 300),
)
def test_whatever_is_said_is_learnt_once_behind_its_own_prompt(kit, talk, template, limit):
    writer, tokenizer = _writer(kit, template, max_tokens=limit, room=limit - 8)
    talk = renderer(tokenizer, template).fitted(talk)
    texts = writer.learn(talk, Learn.ANSWERS)
    wanted = counted(talk, Learn.ANSWERS)
    spans = [(text, span) for text in texts for span in text.spans]
    assert len(spans) == len(wanted)
    assert sorted(span.weight for _, span in spans) == sorted(talk.turns[turn].weight for turn in wanted)
    for text in texts:
        assert len(text.tokens) <= limit
        assert all(0 < span.start < span.end <= len(text.tokens) for span in text.spans)
        assert all(one.end <= other.start for one, other in pairwise(text.spans))
    for text, turn in zip(texts, sorted(wanted, reverse=True)[:1], strict=False):
        asked = writer.ask(Conversation(talk.system, talk.turns[:turn], talk.tools))
        assert text.tokens[: len(asked.tokens)] == asked.tokens
        assert text.spans[-1].start == len(asked.tokens)
