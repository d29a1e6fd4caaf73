"""Generation: the loss on the answer alone, prompts equal in learning and answering, room for the answer."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from pydantic import ValidationError

from weft.core.decoding import Decoding
from weft.core.example import Purpose, by_row
from weft.errors import DataError, ModelError
from weft.objective.supervised import Supervised as ByTasks
from weft.task.answering import Prompt
from weft.task.batching import make_batch
from weft.task.speech import whole
from weft.task.supervision import Span, Supervised
from weft.task.supervision import learnt as example_of
from weft.task.templates import DEFAULT_TEMPLATE
from weft.task.writing import Learn, Written

ROWS = [{"instruction": "Say red", "output": "red"}]


def _encode(kit, task, rows, purpose=Purpose.LEARN):
    return task.encode(kit.rows(rows), kit.story, purpose)


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TALK = [
    {"role": "user", "content": "Say red"},
    {"role": "assistant", "content": "red"},
    {"role": "user", "content": "Say blue"},
    {"role": "assistant", "content": "blue"},
]


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
    answer = (*kit.story.continued(["red"])[0], kit.story.stop)
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
        assert learnt.tokens[: learnt.target.texts[0][0].start] == asked.tokens
        assert isinstance(asked.target, Prompt)


def test_a_template_of_the_recipe_is_used_even_beside_a_chat_template(kit):
    chatty = kit.chat(TEMPLATE)
    own = kit.fit("generation", ROWS, template="Q: {instruction}\nA:")
    (by_template,) = own.encode(kit.rows(ROWS), chatty, Purpose.ANSWER)
    assert by_template.tokens == kit.story.start + kit.story.plain(["Q: Say red\nA:"])[0]
    (by_chat,) = kit.fit("generation", ROWS).encode(kit.rows(ROWS), chatty, Purpose.ANSWER)
    assert by_chat.tokens == kit.story.plain(["<user>Say red</s><assistant>"])[0]
    (by_name,) = kit.fit("generation", ROWS, template="zephyr").encode(kit.rows(ROWS), chatty, Purpose.ANSWER)
    assert by_name.tokens == kit.story.start + kit.story.plain(["<|user|>\nSay red</s>\n<|assistant|>\n"])[0]
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
    ((span,),) = learnt.target.texts
    assert span.start < kit.story.max_tokens == span.end


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
        assert [answer.text for answer in answers] == [
            whole(tokens, kit.story.decode).strip() for tokens in by_hand
        ]


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


def test_an_encoder_decoder_cannot_learn_what_its_encoder_reads(kit):
    info = dataclasses.replace(kit.trunk().info, is_causal=False, is_encoder_decoder=True)
    for learn in ("answers", "last"):
        kit.fit("generation", ROWS, learn=learn).head(info, dropout=0.0, seed=0)
    with pytest.raises(ModelError, match=r"tasks\.t\.learn: must be answers or last"):
        kit.fit("generation", ROWS, learn="all").head(info, dropout=0.0, seed=0)


def test_baseline_and_counts(kit):
    task = kit.fit("generation", ROWS)
    assert [answer.text for answer in task.baseline(["yes", "no", "no"], 2)] == ["no", "no"]
    assert task.baseline([], 1)[0].text == ""
    assert task.describe(["yes", "no", "no"]) == {"answers": 3, "different answers": 2}
    assert task.same_head({"anything": 1}) is None


# ---------------------------------------------------------------------------------------- conversations


def _labels(kit, task, encoded, tokenizer=None):
    """Return what is learnt of examples, as text."""
    batch = make_batch([("t", one) for one in encoded], {"t": task}, pad=0)
    return (tokenizer or kit.story).decode(batch.targets["t"].values["labels"].tolist())


@pytest.mark.parametrize(
    ("learn", "texts"),
    [("answers", ["red", "blue"]), ("last", ["blue"]), ("all", ["Say red", "red", "Say blue", "blue"])],
)
def test_what_is_learnt_of_a_conversation(kit, learn, texts):
    rows = [{"messages": TALK}]
    task = kit.fit("generation", rows, learn=learn)
    chatty = kit.chat(TEMPLATE)
    (learnt,) = task.encode(kit.rows(rows), chatty, Purpose.LEARN)
    (asked,) = task.encode(kit.rows(rows), chatty, Purpose.ANSWER)
    shown = _labels(kit, task, [learnt], chatty)
    said = shown.replace("<user>", "").replace("<assistant>", "").replace(" ", "")
    assert said in ("".join(texts).replace(" ", ""), "user>" + "".join(texts).replace(" ", ""))
    assert learnt.tokens[: len(asked.tokens)] == asked.tokens
    assert learnt.gold == asked.gold == "blue"
    whole = "<user>Say red</s><assistant>red</s><user>Say blue</s><assistant>blue</s>"
    assert learnt.tokens == kit.story.plain([whole])[0]


def test_weights_of_messages_multiply_their_tokens_and_are_the_denominator(kit):
    talk = [TALK[0], {**TALK[1], "weight": 0.5}, *TALK[2:]]
    rows = [
        {"messages": TALK},
        {"messages": talk},
        {"messages": [TALK[0], TALK[1], TALK[2], {**TALK[3], "weight": 0}]},
    ]
    task = kit.fit("generation", rows)
    plain, half, first = _encode(kit, task, rows)
    red, blue = (len(kit.story.continued([text])[0]) + 1 for text in ("red", "blue"))
    targets = [make_batch([("t", one)], {"t": task}, pad=0).targets["t"] for one in (plain, half, first)]
    assert [target.weight for target in targets] == [red + blue, 0.5 * red + blue, red]
    assert ["weights" in target.values for target in targets] == [False, True, False]
    network = kit.network(task)
    losses = []
    for one in (plain, half, first):
        batch = make_batch([("t", one)], {"t": task}, pad=0)
        losses.append(task.loss(network(batch)["t"], batch.targets["t"]))
    assert [loss.weight for loss in losses] == [target.weight for target in targets]
    torch.testing.assert_close(losses[0].total - losses[1].total, 0.5 * losses[2].total)
    both = make_batch([("t", plain), ("t", half)], {"t": task}, pad=0)
    loss = task.loss(network(both)["t"], both.targets["t"])
    torch.testing.assert_close(loss.total, losses[0].total + losses[1].total)


def test_packed_conversations_do_not_see_each_other(kit, stories260k):
    from weft.model.folder import locate
    from weft.model.trunk import load_trunk

    talks = [TALK, [{"role": "system", "content": "用中文。"}, *TALK], TALK[:2], TALK * 9]
    rows = [{"messages": talk} for talk in talks]
    task = kit.fit("generation", rows, template="chatml")
    encoded = _encode(kit, task, rows)
    assert len(encoded[-1].texts) > 1
    folder = locate(str(stories260k), None, root=stories260k)
    trunk = load_trunk(folder, wants_lm_head=True, dropout=0.0, device=torch.device("cpu"))
    network = kit.network(task, trunk=trunk)

    def loss(examples, *, packed):
        batch = make_batch([("t", one) for one in examples], {"t": task}, pad=0, packed=packed)
        found = task.loss(network(batch)["t"], batch.targets["t"])
        (grad,) = torch.autograd.grad(found.total, trunk.model.get_input_embeddings().weight)
        return found.total.detach(), found.weight, grad

    alone = [loss([one], packed=False) for one in encoded]
    for packed in (False, True):
        total, weight, grad = loss(encoded, packed=packed)
        torch.testing.assert_close(total, sum(one[0] for one in alone), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(grad, sum(one[2] for one in alone), rtol=1e-4, atol=1e-3)
        assert weight == sum(one[1] for one in alone)
        twice = loss(encoded[:1] * 2, packed=packed)  # one row, named twice
        torch.testing.assert_close(twice[0], 2 * alone[0][0])
        torch.testing.assert_close(twice[2], 2 * alone[0][2], rtol=1e-4, atol=1e-4)


def test_a_long_conversation_is_one_example_of_several_texts(kit):
    rows = [
        {"messages": [{**turn, "content": f"{turn['content']} {n}"} for n in range(9) for turn in TALK[:2]]}
    ]
    task = kit.fit("generation", rows, max_new_tokens=20)
    (learnt,) = _encode(kit, task, rows)
    assert len(learnt.texts) > 1
    assert all(len(text.tokens) <= kit.story.max_tokens for text in learnt.texts)
    shown = _labels(kit, task, [learnt])
    assert all(shown.count(f"red {n}") == 1 for n in range(9))
    assert isinstance(learnt.target, Supervised)
    (asked,) = _encode(kit, task, rows, Purpose.ANSWER)
    assert (asked.gold, asked.more) == ("red 8", ())
    assert learnt.tokens[: len(asked.tokens)] == asked.tokens


def test_rows_without_anything_to_learn_say_why(kit):
    task = kit.fit("generation", [{"messages": TALK}])
    silent = [{**turn, "weight": 0} for turn in TALK]
    rows = [{"messages": one} for one in (silent, TALK[:1], [{"role": "x"}], [*TALK[:2], TALK[2]])]
    *dropped, kept = _encode(kit, task, rows)
    assert [one.reason for one in dropped] == ["no answer with a weight", "no answer", "unknown role"]
    assert kept.gold == "red"
    last = kit.fit("generation", rows, learn="last")
    assert _encode(kit, last, [{"messages": [*TALK[:3], silent[3]]}])[0].reason == "no answer with a weight"
    asked = _encode(kit, task, rows, Purpose.ANSWER)
    assert [getattr(one, "gold", "dropped") for one in asked] == ["blue", None, "dropped", None]


def test_a_conversation_that_the_template_refuses_is_dropped_and_counted(kit):
    strict = (
        "{% if messages[0].content == 'Say blue' %}{{ raise_exception('never blue') }}{% endif %}" + TEMPLATE
    )
    rows = [{"messages": TALK[:2]}, {"messages": TALK[2:]}]
    for purpose in Purpose:
        kept, dropped = kit.fit("generation", rows).encode(kit.rows(rows), kit.chat(strict), purpose)
        assert kept.gold == "red"
        assert dropped.reason == "refused by the chat template: never blue"


def test_the_first_row_says_why_nothing_can_be_learnt(kit):
    rows = [{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}]
    with pytest.raises(
        DataError, match=r"none of 1 has \(rows.jsonl:1: images, audio and video cannot be read\)"
    ):
        kit.fit("generation", rows)


def test_generated_calls_of_tools_are_parsed(kit):
    bench = kit.bench("generation")
    call = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    found = []
    for text in (call, "It is noon."):
        asked = [dataclasses.replace(bench.ask[0], target=Prompt(kit.story.stop, lambda _, text=text: text))]
        found += kit.answers(kit.network(bench.task), bench.task, asked)
    assert found[0].to_json() == {"text": call, "tool_calls": [{"name": "now", "arguments": {}}]}
    assert found[1].to_json() == {"text": "It is noon."}


def test_calls_are_learnt_and_results_are_not(kit):
    call = {"name": "now", "arguments": {"zone": "UTC"}}
    talk = [
        {"role": "user", "content": "Time?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "noon"},
        {"role": "assistant", "content": "It is midday."},
    ]
    rows = [{"messages": talk, "tools": [{"name": "now"}]}]
    task = kit.fit("generation", rows, template="qwen")
    tokenizer = kit.chat(None, max_tokens=2000)
    (learnt,) = task.encode(kit.rows(rows), tokenizer, Purpose.LEARN)
    shown = _labels(kit, task, [learnt], tokenizer)
    assert '{"name": "now", "arguments": {"zone": "UTC"}}' in shown
    assert "midday" in shown
    assert "noon" not in shown
    called = [{"messages": talk[:2], "tools": [{"name": "now"}]}]
    (asked,) = task.encode(kit.rows(called), tokenizer, Purpose.ANSWER)
    assert asked.gold == '<tool_call>\n{"name": "now", "arguments": {"zone": "UTC"}}\n</tool_call>'


def test_translations_are_asked_from_their_first_language(kit):
    rows = [{"translation": {"en": "red", "zh": "红"}}]
    task = kit.fit("generation", rows)
    (asked,) = _encode(kit, task, rows, Purpose.ANSWER)
    assert asked.gold == "红"
    assert task.inputs == ("translation",)
    question = task.ask("red")
    assert question.values == {"translation": {"en": "red"}}
    assert task.encode([question], kit.story, Purpose.ANSWER)[0].tokens == asked.tokens


# ------------------------------------------------------------------------------------------ plain texts


@pytest.mark.parametrize("text", ["Once upon a time. " * 60, "春眠不觉晓，处处闻啼鸟。" * 12])
def test_all_of_a_text_is_learnt_in_blocks_which_are_examples(kit, text):
    rows = [{"text": text}, {"text": "春眠不觉晓"}, {"text": " "}]
    task = kit.fit("generation", rows)
    results = _encode(kit, task, rows)
    long, (short,), (dropped,) = by_row(results)
    tokens = (*kit.story.start, *kit.story.plain([text])[0], kit.story.stop)
    assert len(long) == -(-(len(tokens) - 1) // (kit.story.max_tokens - 1)) > 1
    assert {(block.where, block.gold, block.more) for block in long} == {("rows.jsonl:1", long[0].gold, ())}
    assert [block.part for block in long] == list(range(len(long)))
    assert max(len(block.tokens) for block in long) == kit.story.max_tokens
    batch = make_batch([("t", block) for block in (*long, short)], {"t": task}, pad=0)
    target = batch.targets["t"]
    assert target.values["labels"].tolist()[: len(tokens) - 1] == list(tokens[1:])
    assert short.target == Supervised(((Span(0, len(short.tokens), 1.0),),))
    assert target.weight == len(tokens) - 1 + len(short.tokens) - 1
    assert target.num_examples == len(long) + 1
    assert dropped.reason == "no text"
    assert len(_encode(kit, task, rows, Purpose.ANSWER)) == len(rows)


@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_of_a_document_is_that_of_its_blocks(kit, packed):
    """Learnt as one example of several texts, as blocks in one batch, and as blocks in batches of their own."""
    rows = [{"text": "Tim saw a big red cat. 春眠不觉晓，处处闻啼鸟。" * 9}]
    task = kit.fit("generation", rows)
    network, tasks = kit.network(task), {"t": task}
    found = _encode(kit, task, rows)
    whole = example_of([Written(one.tokens, one.target.texts[0], 0) for one in found], "gold", "rows.jsonl:1")

    def loss(*examples):
        batch = make_batch([("t", one) for one in examples], tasks, pad=0, packed=packed)
        return ByTasks({"t": task.loss})(batch, network)["t"]

    expected, together, apart = loss(whole), loss(*found), [loss(one) for one in found]
    assert expected.weight == together.weight == sum(one.weight for one in apart) > 300
    torch.testing.assert_close(together.total, expected.total, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(sum(one.total for one in apart), expected.total, rtol=1e-6, atol=1e-5)


def test_a_conversation_learnt_in_several_texts_can_be_divided(kit):
    """The template writes earlier answers in another way, so that each answer needs a text; the weight-0 one has none."""
    turns = [dict(turn, weight=0.5 if turn["content"] == "red" else 1) for turn in TALK]
    rows = [
        {"messages": [*turns, {"role": "user", "content": "Go"}, {"role": "assistant", "content": "green"}]}
    ]
    template = (
        "{% for m in messages %}<{{ m.role }}>"
        "{% if loop.last or m.role == 'user' %}{{ m.content }}{% else %}({{ m.content }}){% endif %}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    task = kit.fit("generation", rows)
    (example,) = task.encode(kit.rows(rows), kit.chat(template, max_tokens=400), Purpose.LEARN)
    assert len(example.texts) == 3
    parts = task.divided(example)
    assert [part.tokens for part in parts] == [text.tokens for text in example.texts]
    network = kit.network(task)

    def loss(*examples):
        batch = make_batch([("t", one) for one in examples], {"t": task}, pad=0, packed=True)
        return ByTasks({"t": task.loss})(batch, network)["t"]

    whole, apart = loss(example), [loss(part) for part in parts]
    assert whole.weight == sum(one.weight for one in apart)
    torch.testing.assert_close(sum(one.total for one in apart), whole.total)
    silent = dataclasses.replace(example, target=Supervised(((), *example.target.texts[1:])))
    assert [part.tokens for part in task.divided(silent)] == [text.tokens for text in example.texts[1:]]


def test_texts_are_judged_by_how_they_go_on_and_questions_are_continued(kit):
    rows = [{"text": "Once upon a time there was a big red cat."}]
    task = kit.fit("generation", rows, max_new_tokens=6)
    (learnt,), (asked,) = _encode(kit, task, rows), _encode(kit, task, rows, Purpose.ANSWER)
    assert learnt.tokens[: len(asked.tokens)] == asked.tokens
    assert len(asked.tokens) == (len(learnt.tokens) - 1) // 2
    assert learnt.gold == asked.gold
    assert asked.gold in rows[0]["text"]
    assert task.inputs == ("prompt",)
    (question,) = task.encode([task.ask("Once upon")], kit.story, Purpose.ANSWER)
    assert question.tokens == (*kit.story.start, *kit.story.plain(["Once upon"])[0])
    assert (question.gold, question.num_cut) == (None, 0)
    (long,) = task.encode([task.ask("far " * 300)], kit.story, Purpose.ANSWER)
    assert len(long.tokens) == kit.story.max_tokens - 6
    assert long.num_cut > 0
    chinese = [{"text": "春眠不觉晓处处闻啼鸟"}]  # three tokens a character
    for asked in _encode(
        kit, task, [{"text": row["text"] + "。" * n} for row in chinese for n in range(4)], Purpose.ANSWER
    ):
        assert chinese[0]["text"].startswith(kit.story.decode(asked.tokens))
    for number in (3, 4, 5, 6):  # an answer's limit may lie within a character
        task = kit.fit("generation", chinese, max_new_tokens=number)
        (asked,) = _encode(kit, task, chinese, Purpose.ANSWER)
        (learnt,) = _encode(kit, task, chinese)
        assert asked.gold == learnt.gold == "晓处"[: number // 3]


def test_an_answer_that_lies_behind_the_limit_is_not_learnt(kit):
    """The template writes a preface of its own before what it marks as said."""
    preface = (
        "{% if m.role == 'assistant' %}{{ 'x ' * 200 }}{% generation %}{{ m.content }}{% endgeneration %}"
    )
    template = TEMPLATE.replace("{{ m.content }}", preface + "{% else %}{{ m.content }}{% endif %}")
    (dropped,) = kit.fit("generation", ROWS).encode(kit.rows(ROWS), kit.chat(template), Purpose.LEARN)
    assert dropped.reason == "no answer left after cutting: raise model.max_tokens"
    (kept,) = kit.fit("generation", ROWS).encode(
        kit.rows(ROWS), kit.chat(template, max_tokens=900), Purpose.LEARN
    )
    ((span,),) = kept.target.texts
    assert kit.story.decode(kept.tokens[span.start : span.end]) == "red"


def test_options_come_back_from_the_config_and_old_ones_are_filled_in(kit):
    task = kit.fit("generation", [{"messages": TALK}], template="qwen", learn="last")
    assert task.learn is Learn.LAST
    config = task.config()
    assert type(task).from_config("t", config) == task
    old = {key: value for key, value in config.items() if key != "learn"}
    old["columns"] = {
        key: column for key, column in old["columns"].items() if key not in ("history", "tools", "text")
    }
    assert type(task).from_config("t", old) == dataclasses.replace(task, learn=Learn.ANSWERS)
