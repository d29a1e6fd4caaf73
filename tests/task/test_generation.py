"""Generation: the loss on the answer alone, prompts equal in learning and answering, room for the answer."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from pydantic import ValidationError

from weft.core.decoding import Decoding
from weft.core.example import Purpose
from weft.errors import DataError, ModelError
from weft.task.answering import Prompt
from weft.task.batching import make_batch
from weft.task.prompts import DEFAULT_TEMPLATE

ROWS = [{"instruction": "Say red", "output": "red"}]


def _encode(kit, task, rows, purpose=Purpose.LEARN):
    return task.encode(kit.rows(rows), kit.story, purpose)


class Chatty:
    """A tokenizer with a chat template."""

    def __init__(self, inner) -> None:
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def chat(self, messages):
        return ["".join(f"<{m['role']}>{m['content']}" for m in one) + "<assistant>" for one in messages]


@pytest.mark.parametrize(
    "rows",
    [
        [{"instruction": "Say red", "output": "red"}],
        [{"prompt": "Say red", "completion": "red"}],
        [{"query": "Say red", "response": "red"}],
        [{"source": "Say red", "target": "red"}],
        [{"messages": [{"role": "user", "content": "Say red"}, {"role": "assistant", "content": "red"}]}],
        [{"conversations": [{"from": "human", "value": "Say red"}, {"from": "gpt", "value": "red"}]}],
    ],
)
def test_every_format_gives_the_same_example(kit, rows):
    (encoded,) = _encode(kit, kit.fit("generation", rows), rows)
    (expected,) = _encode(kit, kit.fit("generation", ROWS), ROWS)
    assert encoded == expected
    assert encoded.gold == "red"


def test_the_loss_is_on_the_answer_and_its_end_alone(kit):
    task = kit.fit("generation", ROWS)
    (encoded,) = _encode(kit, task, ROWS)
    answer = (*kit.story.plain(["red"])[0], kit.story.stop)
    prompt = (
        kit.story.start
        + kit.story.plain(
            [
                DEFAULT_TEMPLATE[len("{system}\n\n") :]
                .replace("\n\n### Given\n{input}", "")
                .format(instruction="Say red")
            ]
        )[0]
    )
    assert encoded.tokens == prompt + answer
    batch = make_batch([("t", encoded)], {"t": task}, pad=0)
    target = batch.targets["t"]
    assert target.values["labels"].tolist() == list(answer)
    assert target.values["positions"].tolist() == list(range(len(prompt) - 1, len(encoded.tokens) - 1))
    assert target.weight == len(answer)


def test_the_head_projects_supervised_tokens_only(kit):
    bench = kit.bench("generation")
    network = kit.network(bench.task)
    batch = make_batch([("generation", one) for one in bench.learn], {"generation": bench.task}, pad=0)
    outputs = network(batch)["generation"]
    assert outputs.logits_MV().shape == (batch.targets["generation"].weight, network.trunk.info.vocabulary)
    assert not list(network.heads["generation"].parameters())
    loss = bench.task.loss(outputs, batch.targets["generation"])
    hidden = network.trunk(batch).flat_TD()[batch.targets["generation"].values["positions"]]
    expected = torch.nn.functional.cross_entropy(
        network.trunk.project(hidden), batch.targets["generation"].values["labels"], reduction="sum"
    )
    torch.testing.assert_close(loss.total, expected)


def test_prompts_are_the_same_to_learn_and_to_answer(kit):
    bench = kit.bench("generation")
    for learnt, asked in zip(bench.learn, bench.ask, strict=True):
        assert learnt.tokens[: learnt.target.start] == asked.tokens
        assert isinstance(asked.target, Prompt)


def test_a_template_of_the_recipe_is_used_even_beside_a_chat_template(kit):
    chatty = Chatty(kit.story)
    own = kit.fit("generation", ROWS, template="Q: {instruction}\nA:")
    (by_template,) = own.encode(kit.rows(ROWS), chatty, Purpose.ANSWER)
    assert by_template.tokens == kit.story.start + kit.story.plain(["Q: Say red\nA:"])[0]
    (by_chat,) = kit.fit("generation", ROWS).encode(kit.rows(ROWS), chatty, Purpose.ANSWER)
    assert by_chat.tokens == kit.story.plain(["<user>Say red<assistant>"])[0]
    (by_default,) = _encode(kit, kit.fit("generation", ROWS), ROWS, Purpose.ANSWER)
    assert by_default.tokens not in (by_chat.tokens, by_template.tokens)
    with pytest.raises(ValidationError, match="instruction"):
        kit.fit("generation", ROWS, template="no field")


def test_a_long_prompt_loses_its_middle_and_leaves_room_for_the_answer(kit):
    task = kit.fit("generation", ROWS, max_new_tokens=28)
    rows = [{"instruction": "begin " + "x " * 200 + "end", "output": "red"}]
    learnt, asked = (_encode(kit, task, rows, purpose)[0] for purpose in (Purpose.LEARN, Purpose.ANSWER))
    whole = _encode(kit, task, ROWS)[0].tokens
    assert len(asked.tokens) == kit.story.max_tokens - 28 == 100
    assert learnt.tokens[:100] == asked.tokens
    assert asked.tokens[:5] == whole[:5]
    text = kit.story.decode(asked.tokens)
    assert "begin" in text
    assert text.rstrip().endswith("Answer")
    assert learnt.num_cut == asked.num_cut > 0
    assert learnt.tokens[-1] == kit.story.stop


def test_an_answer_longer_than_the_row_is_cut_and_counted(kit):
    task = kit.fit("generation", ROWS)
    rows = [{"instruction": "go", "output": "long " * 300}]
    (learnt,) = _encode(kit, task, rows)
    assert len(learnt.tokens) == kit.story.max_tokens
    assert learnt.tokens[-1] != kit.story.stop
    assert learnt.num_cut > 0
    assert learnt.target.start < kit.story.max_tokens


def test_max_new_tokens_bounds_the_answer(kit):
    bench = kit.bench("generation")
    trunk = kit.trunk()
    for limit in (1, 5):
        task = dataclasses.replace(bench.task, max_new_tokens=limit)
        lengths = [
            len(tokens)
            for tokens in trunk.generate(
                [one.tokens for one in bench.ask], Decoding(max_new_tokens=limit, stop_tokens=(-1,))
            )
        ]
        assert lengths == [limit] * len(bench.ask)
        asked = task.encode(bench.rows, kit.story, Purpose.ANSWER)
        answers = kit.answers(kit.network(task, trunk=trunk), task, asked)
        by_hand = trunk.generate(
            [one.tokens for one in asked],
            Decoding(max_new_tokens=limit, stop_tokens=(kit.story.stop,)),
        )
        assert [answer.text for answer in answers] == [kit.story.decode(tokens).strip() for tokens in by_hand]


def test_unusable_rows_are_dropped_with_their_reason(kit):
    task = kit.fit("generation", ROWS)
    rows = [{"instruction": "x"}, {"instruction": " ", "output": "y"}, {"instruction": "x", "output": "  "}]
    assert [one.reason for one in _encode(kit, task, rows)] == ["no answer", "empty instruction", "no answer"]


def test_data_without_answers_is_refused(kit):
    with pytest.raises(DataError, match="at least one row must have an answer"):
        kit.fit("generation", [{"instruction": "x", "output": ""}])
    with pytest.raises(DataError, match="output"):
        kit.fit("generation", [{"instruction": "x", "unrelated": 1}])


def test_columns_may_be_named(kit):
    rows = [{"frage": "Say red", "antwort": "red"}]
    task = kit.fit("generation", rows, columns={"instruction": "frage", "output": "antwort"})
    assert _encode(kit, task, rows) == _encode(kit, kit.fit("generation", ROWS), ROWS)


def test_columns_of_the_recipe_win_over_a_conversation(kit):
    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    rows = [{"messages": talk, "q": "Say red", "a": "red"}]
    both = kit.fit("generation", rows, columns={"instruction": "q", "output": "a"})
    assert _encode(kit, both, rows) == _encode(kit, kit.fit("generation", ROWS), ROWS)
    assert kit.fit("generation", rows).columns["messages"] == "messages"


def test_questions_find_their_column(kit):
    talk = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    given = [{"instruction": "a", "input": "b", "output": "c"}]
    assert kit.fit("generation", talk).ask("hi").values == {"messages": [{"role": "user", "content": "hi"}]}
    assert kit.fit("generation", talk).ask("hi", "there").values["messages"][0]["content"] == "hi\n\nthere"
    assert kit.fit("generation", given).ask("hi", "there").values == {"instruction": "hi", "input": "there"}
    with pytest.raises(DataError, match="takes one text"):
        kit.fit("generation", ROWS).ask("hi", "there")


def test_only_a_causal_trunk_with_an_output_embedding_generates(kit):
    task = kit.fit("generation", ROWS)
    info = kit.trunk().info
    for change in ({"is_causal": False}, {"vocabulary": 0}):
        with pytest.raises(ModelError, match=r"tasks\.t: generation needs a causal model"):
            task.head(dataclasses.replace(info, **change), dropout=0.0, seed=0)


def test_baseline_and_counts(kit):
    task = kit.fit("generation", ROWS)
    assert [answer.text for answer in task.baseline(["yes", "no", "no"], 2)] == ["no", "no"]
    assert task.baseline([], 1)[0].text == ""
    assert task.describe(["yes", "no", "no"]) == {"answers": 3, "different answers": 2}
    assert task.same_head({"anything": 1}) is None
