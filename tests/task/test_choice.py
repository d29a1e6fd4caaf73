"""Multiple choice: one row a choice, softmax over a row's own choices, as the stock models do."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

from weft.core.example import Answer, Dropped, Purpose
from weft.core.features import Pooling
from weft.core.network import Inference
from weft.errors import DataError
from weft.model.folder import locate
from weft.model.trunk import load_trunk
from weft.objective.supervised import Supervised
from weft.task.batching import make_batch
from weft.task.choice import Choice

ROWS = [
    {
        "premise": "the man is old",
        "question": "effect",
        "choices": ["he sleeps", "he runs in paris"],
        "label": 0,
    },
    {
        "premise": "the dog eats",
        "question": "cause",
        "choices": ["it is sad", "it is not a good dog"],
        "label": 1,
    },
    {"premise": "我在上海", "question": "effect", "choices": ["小说很好", "电影"], "label": 1},
]


@pytest.fixture(scope="module")
def bert(tiny_bert):
    folder = locate(str(tiny_bert), None, root=tiny_bert)
    return load_trunk(folder, wants_lm_head=False, dropout=0.0, device=torch.device("cpu"))


def _encoded(kit, task, rows, purpose=Purpose.LEARN):
    return task.encode(kit.rows(rows), kit.words, purpose)


def _loss(task, network, encoded, *, packed=False):
    batch = make_batch([(task.name, one) for one in encoded], {task.name: task}, pad=0, packed=packed)
    return Supervised({task.name: task.loss})(batch, network)[task.name]


def test_each_choice_is_a_pair_with_text_and_question(kit):
    task = kit.fit("choice", ROWS)
    first, _, third = _encoded(kit, task, ROWS)
    pairs = kit.words.texts(
        ["the man is old"] * 2,
        ["What happened as a result? he sleeps", "What happened as a result? he runs in paris"],
    )
    assert [(text.tokens, text.segments) for text in first.texts] == [(p.tokens, p.segments) for p in pairs]
    (zh,) = kit.words.texts(["我在上海"], ["结果发生了什么？小说很好"])
    assert third.texts[0].tokens == zh.tokens
    assert [one.gold for one in (first, third)] == ["A", "B"]
    assert first.target.texts == ("he sleeps", "he runs in paris")


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        ({"question": "who", "choices": ["he", "she"], "label": 0}, ("who", "he")),
        ({"context": "the man", "choices": ["he", "she"], "label": 0}, ("the man", "he")),
        ({"context": "", "question": "who", "choices": ["he", "she"], "label": 0}, ("who", "he")),
        (
            {"context": ["a man", "a woman"], "question": "who", "choices": ["he", "she"], "label": 0},
            ("a man\na woman", "who he"),
        ),
    ],
)
def test_text_and_question_may_be_alone(kit, row, pair):
    (encoded,) = _encoded(kit, kit.fit("choice", [row]), [row])
    (expected,) = kit.words.texts([pair[0]], [pair[1]])
    assert encoded.tokens == expected.tokens


def test_a_long_text_leaves_question_and_choice_whole(kit):
    row = {
        "context": "good film " * 60,
        "question": "who is it",
        "choices": ["john smith", "mary"],
        "label": 0,
    }
    (encoded,) = _encoded(kit, kit.fit("choice", [row]), [row])
    question, choice = kit.words.plain(["who is it", "john smith"])
    assert encoded.tokens[-1 - len(question) - len(choice) : -1] == question + choice
    assert len(encoded.tokens) == kit.words.max_tokens
    (john, mary) = (
        120 + len(question) + len(end) + 3 - 64 for end in kit.words.plain(["john smith", "mary"])
    )
    assert encoded.num_cut == john + mary


@pytest.mark.parametrize("packed", [False, True])
def test_loss_and_gradient_are_those_of_the_stock_model(kit, bert, tiny_bert, packed):
    task = kit.fit("choice", ROWS)
    encoded = _encoded(kit, task, ROWS)
    network = kit.network(task, trunk=bert)
    network.train()
    network.zero_grad()
    stock = transformers.AutoModelForMultipleChoice.from_pretrained(
        tiny_bert, dtype=torch.float32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    ).train()
    head = network.heads[task.name]
    assert head.pooling is Pooling.POOLER
    with torch.no_grad():
        stock.classifier.weight.copy_(head.out.weight)
        stock.classifier.bias.fill_(3.0)  # a shift of all choices alike
    texts = [text for one in encoded for text in one.texts]
    width = max(len(text.tokens) for text in texts)

    def grid(rows):
        return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows]).view(len(encoded), 2, width)

    theirs = stock(
        input_ids=grid([text.tokens for text in texts]),
        token_type_ids=grid([text.segments for text in texts]),
        attention_mask=grid([(1,) * len(text.tokens) for text in texts]),
        labels=torch.tensor([0, 1, 1]),
    )
    ours = _loss(task, network, encoded, packed=packed)
    (ours.total / ours.weight).backward()
    theirs.loss.backward()
    assert ours.weight == 3.0
    torch.testing.assert_close(ours.total / ours.weight, theirs.loss, rtol=0, atol=1e-5)
    torch.testing.assert_close(head.out.weight.grad, stock.classifier.weight.grad, rtol=0, atol=1e-5)
    pooler = network.trunk.model.pooler.dense.weight.grad
    torch.testing.assert_close(pooler, stock.bert.pooler.dense.weight.grad, rtol=0, atol=1e-5)
    assert stock.classifier.bias.grad.abs() < 1e-6  # why ours has none
    for answer, logits in zip(
        kit.answers(network, task, encoded), theirs.logits.softmax(1).tolist(), strict=True
    ):
        assert list(answer.probabilities) == ["A", "B"]
        assert list(answer.probabilities.values()) == pytest.approx(logits, abs=1e-5)


def test_rows_with_different_numbers_of_choices_are_as_each_alone(kit, bert):
    bench = kit.bench("choice")
    assert {len(one.texts) for one in bench.learn} == {2, 3, 4}
    network = kit.network(bench.task, trunk=bert).eval()
    whole = _loss(bench.task, network, bench.learn)
    by_hand = []
    for one in bench.learn:
        batch = make_batch([("choice", one)], {"choice": bench.task}, pad=0)
        logits = network(batch)["choice"]
        assert logits.shape == (len(one.texts), 1)
        by_hand.append(-logits.flatten().log_softmax(0)[one.target.place])
    torch.testing.assert_close(whole.total, torch.stack(by_hand).sum(), rtol=1e-5, atol=1e-5)
    for answer, one in zip(kit.answers(network, bench.task, bench.ask), bench.ask, strict=True):
        assert sum(answer.probabilities.values()) == pytest.approx(1.0)
        assert len(answer.probabilities) == len(one.texts)
        assert answer.label == max(answer.probabilities, key=answer.probabilities.get)
        assert answer.text == one.target.texts["ABCD".index(answer.label)]


def test_equal_choices_share_a_row_and_a_probability(kit):
    rows = [{"question": "who", "choices": ["he", "she", "he"], "label": 1}]
    task = kit.fit("choice", rows, pooling="mean")
    (encoded,) = _encoded(kit, task, rows)
    batch = make_batch([(task.name, encoded)], {task.name: task}, pad=0)
    assert batch.layout.num_rows == 2
    network = kit.network(task).eval()
    (answer,) = task.answers(Inference(network, batch), [encoded])
    assert answer.probabilities["A"] == pytest.approx(answer.probabilities["C"])


def test_rows_that_cannot_be_used_say_why(kit):
    task = kit.fit("choice", ROWS)
    rows = [
        {**ROWS[0], "label": 2},
        {**ROWS[0], "choices": ["one"]},
        {**ROWS[0], "choices": ["one", ""]},
        {**ROWS[0], "choices": ["one", "", "two"]},
        {**ROWS[0], "premise": " ", "question": None},
        {**ROWS[0], "label": -1},
        {**ROWS[0], "label": None},
    ]
    found = _encoded(kit, task, rows)
    assert [one.reason for one in found if isinstance(one, Dropped)] == [
        "label names no choice",
        "fewer than two choices",
        "fewer than two choices",
        "empty choice",
        "empty text",
        "no label",
        "no label",
    ]
    asked = _encoded(kit, task, rows, Purpose.ANSWER)
    assert [one.gold for one in asked[-2:]] == [None, None]
    assert isinstance(asked[0], Dropped)


def test_choices_that_look_like_a_missing_label_are_choices(kit):
    rows = [
        {"question": "1 - 2", "choices": ["-1", "3"], "answer": "-1"},
        {"question": "1 + 2", "choices": ["-1", "3"], "answer": "3"},
    ]
    assert [one.gold for one in _encoded(kit, kit.fit("choice", rows), rows)] == ["A", "B"]


def test_a_label_column_that_names_no_choice_is_refused(kit):
    rows = [{"question": "who", "choices": ["he", "she"], "label": "it"}]
    with pytest.raises(DataError, match=r"must name a choice .* but \['it'\]"):
        kit.fit("choice", rows)


def test_the_baseline_is_the_most_frequent_place(kit):
    task = kit.fit("choice", ROWS)
    (answer,) = task.baseline(["B", "A", "B", "C"], 1)
    assert answer == Answer("B", {"A": 0.25, "B": 0.5, "C": 0.25})
    metric, calibration = task.metrics
    assert (calibration.name, calibration.best) == ("ece", 0.0)
    assert (metric.name, metric.value(["A", "B"], [Answer(label="B")] * 2)) == ("accuracy", 0.5)
    assert task.describe(["B", "A", "B"]) == {"A": 1, "B": 2}


def test_plain_questions_in_every_layout(kit):
    task = kit.fit("choice", ROWS)
    row = task.ask("the cat", "it eats | it sleeps|it runs")
    assert row.values == {"premise": "the cat", "choices": ["it eats", "it sleeps", "it runs"]}
    columns = kit.fit("choice", [{"question": "who", "A": "he", "B": "she", "C": "it", "answer": "C"}])
    assert columns.ask("what", "a|b").values == {"question": "what", "A": "a", "B": "b"}
    assert columns.inputs == ("question", "A", "B", "C")
    assert task.inputs == ("premise", "question", "choices")
    with pytest.raises(DataError, match="one text was given"):
        task.ask("the cat")
    with pytest.raises(DataError, match="at most 3 choices"):
        columns.ask("what", "a|b|c|d")


def test_a_temperature_is_fitted_to_dev_rows_and_stands_in_head_and_stock_model(kit):
    bench = kit.bench("choice")
    network = kit.network(bench.task).eval()
    network.heads["choice"].out.weight.data.mul_(300.0)
    before = kit.answers(network, bench.task, bench.ask)
    golds = [one.gold for one in bench.ask]
    task, answers = bench.task.calibrated(golds, before)
    assert task.temperature != 1
    assert type(task).from_config("choice", task.config()) == task
    assert [(one.label, one.text) for one in answers] == [(one.label, one.text) for one in before]
    cooled = kit.network(task).eval()
    cooled.load_state_dict(network.state_dict())
    again = kit.answers(cooled, task, bench.ask)
    for one, other in zip(answers, again, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        assert sum(one.probabilities.values()) == pytest.approx(1)
    weights = [net.heads["choice"].stock_weights()["weight"] for net in (network, cooled)]
    torch.testing.assert_close(weights[1], weights[0] / task.temperature)

    def likelihood(found):
        return sum(math.log(one.probabilities[gold]) for one, gold in zip(found, golds, strict=True))

    assert likelihood(answers) > likelihood(before)
    plain = kit.fit("choice", ROWS, calibration="none")
    assert plain.calibrated(golds, before) == (plain, before)
    assert bench.task.calibrated([], []) == (bench.task, [])


def test_a_head_of_another_pooling_is_not_kept(kit):
    one, other = kit.fit("choice", ROWS), kit.fit("choice", ROWS, pooling="mean")
    assert one.same_head(other.config()) == "pooling was mean and is now None"
    assert isinstance(one, Choice)
