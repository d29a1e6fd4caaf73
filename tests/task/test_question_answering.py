"""Question answering against transformers: tokens, labels and losses of run_qa; answers, thresholds and data layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from weft.core.example import Answer, Dropped, Encoded, Purpose, Row
from weft.core.network import Inference
from weft.data.sources import read
from weft.errors import DataError
from weft.metric.question_answering import best, f1
from weft.model.folder import locate
from weft.model.tokenizer import load_tokenizer
from weft.model.trunk import load_trunk
from weft.objective.supervised import Supervised
from weft.task.batching import make_batch
from weft.task.question_answering import MOST_WINDOWS, QuestionAnswering, best_threshold
from weft.task.windows import FIRST

FILLER = "the old city is big and a cat sleeps in it "
ROWS = [
    {"question": "where does john work", "context": "john smith works in berlin", "answers": ["berlin"]},
    {"question": "what is red", "context": f"{FILLER * 9}but the book is red", "answers": ["the book"]},
    {"question": "who sleeps", "context": f"mary sleeps. {FILLER * 14}", "answers": ["mary"]},
    {"question": "我在哪", "context": "我在上海的小电影", "answers": ["上海"]},
    {"question": "who eats", "context": "the dog runs to london", "answers": []},
]


def trunk_of(path: Path) -> nn.Module:
    return load_trunk(
        locate(str(path), None, root=path), wants_lm_head=False, dropout=0.0, device=torch.device("cpu")
    )


def tokenizer_of(path: Path, max_tokens: int = 64) -> Any:
    return load_tokenizer(locate(str(path), None, root=path), max_tokens=max_tokens)


def encode(task: Any, rows: list[Row], tokenizer: Any, purpose: Purpose = Purpose.LEARN) -> list[Any]:
    return task.encode(rows, tokenizer, purpose)


# ------------------------------------------------------------------------------------------- fitting and reading


@pytest.mark.parametrize("columns", [("context", "question", "answers"), ("文章", "问题", "答案")])
def test_columns_are_found_in_both_languages(kit: Any, columns: tuple[str, ...]):
    rows = [dict(zip(columns, ("in berlin", "where", ["berlin"]), strict=True))]
    task = kit.fit("qa", rows)
    assert [task.columns[role] for role in ("context", "question", "answers")] == list(columns)
    assert task.inputs == (columns[1], columns[0])
    assert not task.unanswerable


NESTED = {
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "in berlin",
                    "qas": [
                        {"id": "a", "question": "where", "answers": [{"text": "berlin", "answer_start": 3}]},
                        {"id": "b", "question": "when", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ]
}
OLD_CMRC = [
    {
        "context_id": "1",
        "context_text": "我在上海",
        "qas": [{"query_id": "q", "query_text": "在哪", "answers": ["上海"]}],
    }
]


def test_nested_files_are_read_without_being_told(kit: Any, tmp_path: Path):
    for name, content in (("squad.json", NESTED), ("cmrc.json", OLD_CMRC)):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    table = read("squad.json", root=tmp_path)
    task = kit.fit("qa", [dict(row.values) for row in table.rows])
    assert task.unanswerable
    found = encode(task, list(table.rows), kit.words)
    assert [(one.where, one.gold) for one in found] == [("squad.json:a", ("berlin",)), ("squad.json:b", ())]
    table = read("cmrc.json", root=tmp_path)
    task = kit.fit("qa", [dict(row.values) for row in table.rows])
    assert [one.gold for one in encode(task, list(table.rows), kit.words)] == [("上海",)]


def test_no_usable_answer_is_an_error_that_names_the_reasons(kit: Any):
    rows = [{"question": "where", "context": "in berlin", "answers": ["in Rome"]}]
    with pytest.raises(
        DataError, match=r"^tasks\.t: column 'answers' .* \(answer not in the context\).*generation"
    ):
        kit.fit("qa", rows)
    with pytest.raises(DataError, match="must have a column for context"):
        kit.fit("qa", [{"question": "where", "answers": ["x"]}])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answers": ["nowhere"]}, "answer not in the context"),
        ({"answers": ["o"]}, "answer without answer_start found twice"),
        ({"context": "  "}, "empty text"),
        ({"question": None}, "empty text"),
        ({"context": "\u200b\u200b", "answers": []}, "context has no token"),
        ({"context": "a b", "answers": [" "]}, None),
        ({"answers": None}, "no answers"),
    ],
)
def test_what_cannot_be_used_is_dropped_with_its_reason(kit: Any, change: dict[str, Any], reason: str | None):
    task = kit.fit("qa", ROWS)
    (found,) = encode(task, kit.rows([{**ROWS[0], **change}]), kit.words)
    assert (found.reason if isinstance(found, Dropped) else None) == reason
    (asked,) = encode(task, kit.rows([{**ROWS[0], **change}]), kit.words, Purpose.ANSWER)
    assert isinstance(asked, Encoded) is (reason in (None, "no answers"))


def test_a_context_without_end_is_dropped(kit: Any):
    task = kit.fit("qa", ROWS)
    long = kit.rows([{**ROWS[0], "context": "cat " * 50 * MOST_WINDOWS, "answers": []}])
    (found,) = encode(task, long, kit.words)
    assert found == Dropped("rows.jsonl:1", "context of more than 256 windows")


def test_a_plain_question_needs_its_context(kit: Any):
    task = kit.fit("qa", ROWS)
    with pytest.raises(DataError, match="a question and its context"):
        task.ask("where is john")
    row = task.ask("where is john", "in berlin")
    assert row.values == {"question": "where is john", "context": "in berlin"}


def test_windows_without_the_answer_point_at_their_first_token(kit: Any):
    task = kit.fit("qa", ROWS, stride=12)
    learnt = encode(task, kit.rows(ROWS), kit.words)
    spans = [one.target.spans for one in learnt]
    assert [len(one.texts) for one in learnt] == list(map(len, spans))
    assert len(spans[1]) > 1
    assert spans[1][-1] != FIRST == spans[1][0]
    assert spans[2][0] != FIRST == spans[2][-1]
    assert spans[4] == (FIRST,)
    assert [one.gold for one in learnt] == [("berlin",), ("the book",), ("mary",), ("上海",), ()]
    assert task.describe([one.gold for one in learnt]) == {"with an answer": 4, "without": 1}


# ---------------------------------------------------------------------------------- the same as transformers' loss


def stock_batch(stock: Any, rows: Any, max_tokens: int, stride: int) -> dict[str, torch.Tensor]:
    """Return what transformers' run_qa makes of the rows: features with start and end positions."""
    questions, contexts = [row["question"] for row in rows], [row["context"] for row in rows]
    found = stock(
        questions, contexts, truncation="only_second", max_length=max_tokens, stride=stride, padding=True,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_tensors="pt",
    )  # fmt: skip
    places, owners = found.pop("offset_mapping").tolist(), found.pop("overflow_to_sample_mapping").tolist()
    starts, ends = [], []
    for number, row in enumerate(owners):
        own = [at for at, owner in enumerate(found.sequence_ids(number)) if owner == 1]
        answers = rows[row]["answers"]
        low = rows[row]["context"].index(answers[0]) if answers else -1
        high = low + len(answers[0]) if answers else -1
        if not answers or places[number][own[0]][0] > low or places[number][own[-1]][1] < high:
            starts.append(0)
            ends.append(0)
            continue
        starts.append(max(at for at in own if places[number][at][0] <= low))
        ends.append(min(at for at in own if places[number][at][1] >= high))
    return {**found, "start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)}


def unpadded(inputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Return each feature by itself: in a padded batch, stock models let padding compete with the answer."""
    lengths = inputs["attention_mask"].sum(1).tolist()
    return [
        {
            name: value[at : at + 1, :length] if value.dim() > 1 else value[at : at + 1]
            for name, value in inputs.items()
        }
        for at, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("model", ["tiny_bert", "stories260k"])
@pytest.mark.parametrize(("max_tokens", "stride"), [(64, 12), (40, 8)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_loss_and_gradients_equal_those_of_transformers(
    kit: Any, request: pytest.FixtureRequest, model: str, max_tokens: int, stride: int, packed: bool
):
    path = request.getfixturevalue(model)
    # Of a character of several pieces (bytes) run_qa takes the last one to begin with, here it is the first.
    rows = ROWS if model == "tiny_bert" else [row for row in ROWS if row["question"].isascii()]
    trunk, task = trunk_of(path), kit.fit("qa", ROWS, stride=stride)
    network = kit.network(task, trunk=trunk).eval()
    with torch.no_grad():
        network.heads["t"].out.weight.mul_(20)  # logits that differ from token to token
    encoded = encode(task, kit.rows(rows), tokenizer_of(path, max_tokens))
    batch = make_batch([("t", one) for one in encoded], {"t": task}, pad=0, packed=packed)
    loss = Supervised({"t": task.loss})(batch, network)["t"]
    (loss.total / loss.weight).backward()

    stock = AutoTokenizer.from_pretrained(path)
    stock.pad_token = stock.pad_token or stock.eos_token or stock.unk_token
    inputs = stock_batch(stock, rows, max_tokens, stride)
    theirs = AutoModelForQuestionAnswering.from_pretrained(path).eval()
    theirs.base_model.load_state_dict(trunk.model.state_dict(), strict=False)
    theirs.qa_outputs.load_state_dict(network.heads["t"].out.state_dict())
    expected = torch.stack([theirs(**feature).loss for feature in unpadded(inputs)]).mean()
    expected.backward()

    assert loss.weight == len(inputs["input_ids"]) == sum(len(one.texts) for one in encoded) > len(rows)
    assert abs(float(loss.total) / loss.weight - float(expected)) <= 1e-5
    for ours, other in (
        (network.heads["t"].out.weight.grad, theirs.qa_outputs.weight.grad),
        (trunk.model.get_input_embeddings().weight.grad, theirs.get_input_embeddings().weight.grad),
    ):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


def test_rows_of_another_task_in_the_batch_change_nothing(kit: Any):
    """The same text may be a window here and a pair there; what the tokens of other rows score is no rival."""
    qa, pairs = kit.fit("qa", ROWS, stride=12), kit.bench("pairs")
    learnt = encode(qa, kit.rows(ROWS), kit.words)
    network = kit.network(qa, pairs.task)
    tasks = {"t": qa, "pairs": pairs.task}
    objective = Supervised({name: task.loss for name, task in tasks.items()})
    alone = objective(make_batch([("t", one) for one in learnt], tasks, pad=0), network)["t"]
    items = [item for one in pairs.learn for item in [("pairs", one), *(("t", own) for own in learnt)]]
    for packed in (False, True):
        both = objective(make_batch(items, tasks, pad=0, packed=packed), network)["t"]
        torch.testing.assert_close(both.total, len(pairs.learn) * alone.total)
        assert both.weight == len(pairs.learn) * alone.weight


# ------------------------------------------------------------------------------------------------------ answers


def answers_of(task: Any, asked: list[Encoded], logits: np.ndarray) -> list[Answer]:
    """Return the answers that a network with these ``logits`` (tokens of all windows, 2) gives."""
    batch = make_batch([("t", one) for one in asked], {"t": task}, pad=0, packed=True)
    inference = Inference.__new__(Inference)
    inference.batch, inference._outputs = batch, {"t": torch.tensor(logits)}
    inference.outputs = lambda name: inference._outputs[name]  # type: ignore[method-assign]
    return task.answers(inference, asked)


def asked_of(kit: Any, task: Any) -> tuple[list[Encoded], np.ndarray]:
    asked = encode(task, kit.rows(ROWS), kit.words, Purpose.ANSWER)
    return asked, np.zeros((sum(one.num_tokens for one in asked), 2), dtype=np.float32)


def test_the_best_window_answers_in_the_words_of_the_context(kit: Any):
    task = kit.fit("qa", ROWS[:4], stride=12)
    asked, logits = asked_of(kit, task)
    first = 0
    for one in asked:
        for text, span in zip(one.texts, one.target.spans, strict=True):
            if span != FIRST:
                logits[first + span[0], 0] = logits[first + span[1], 1] = 6.0
            else:
                logits[first] = 50.0  # no answer here: does not count where every question has one
            first += len(text.tokens)
    found = answers_of(task, asked, logits)
    assert [answer.text for answer in found[:4]] == ["berlin", "the book", "mary", "上海"]
    for answer, row in zip(found, ROWS, strict=True):
        assert row["context"][answer.extra["start"] : answer.extra["end"]] == answer.text
        assert set(answer.extra) == {"start", "end", "score"}
        assert 0 < answer.extra["score"] <= 1
    spans = (
        5 * 4 / 2 + 5
    )  # of the 5 words of row 0: 6 + 6 for one, 6 for those of its begin or its end, else 0
    others = [np.exp(6.0)] * 4 + [1.0] * 10
    assert spans == 1 + len(others)
    assert found[0].extra["score"] == pytest.approx(np.exp(12.0) / (np.exp(12.0) + sum(others)), rel=1e-5)


def test_none_is_answered_where_every_window_says_so(kit: Any):
    task = kit.fit("qa", ROWS, stride=12)
    asked, logits = asked_of(kit, task)
    assert task.unanswerable
    first, firsts = 0, []
    for one in asked:
        firsts.append(first)
        first += one.num_tokens
    logits[firsts[0]] = (2.0, 1.5)
    logits[firsts[0] + asked[0].target.reading.at + 1, 0] = 1.0
    logits[firsts[1]] = 9.0  # the first window of several: the lowest of all counts
    found = answers_of(task, asked, logits)
    assert [answer.text == "" for answer in found] == [True, False, False, False, False]
    assert found[0].extra["no_answer"] == pytest.approx(3.5 - 1.0)
    assert found[0].extra["best"]
    assert found[1].extra["no_answer"] == 0.0
    strict = QuestionAnswering.from_config("t", {**task.config(), "threshold": 2.5})
    assert answers_of(strict, asked, logits)[0].text == found[0].extra["best"]
    eager = QuestionAnswering.from_config("t", {**task.config(), "threshold": -0.1})
    assert [answer.text for answer in answers_of(eager, asked, logits)] == [""] * 5


def test_a_longest_answer_is_kept_to(kit: Any):
    rows = [{"question": "who", "context": "john mary smith works", "answers": ["john"]}]
    for most, text in ((1, "john"), (2, "john mary"), (3, "john mary smith"), (30, "john mary smith works")):
        task = kit.fit("qa", rows, max_answer_tokens=most)
        (asked,) = encode(task, kit.rows(rows), kit.words, Purpose.ANSWER)
        logits = np.zeros((asked.num_tokens, 2), dtype=np.float32)
        logits[asked.target.reading.at, 0] = 9.0
        logits[:, 1] = np.arange(asked.num_tokens)
        assert answers_of(task, [asked], logits)[0].text == text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_network_that_diverged_still_answers(kit: Any, value: float):
    task = kit.fit("qa", ROWS, stride=12)
    asked, logits = asked_of(kit, task)
    for answer in answers_of(task, asked, logits + value):
        assert json.loads(json.dumps(answer.to_json(), allow_nan=False)) == answer.to_json()


# --------------------------------------------------------------------------------------------------- threshold


def test_the_threshold_is_the_best_of_all():
    random = np.random.default_rng(3)
    for size in (1, 2, 5, 40):
        above = np.round(random.normal(size=size), 1).tolist()  # with ties
        gains = random.choice([-1.0, 0.25, 1.0], size=size).tolist()
        threshold = best_threshold(above, gains)

        def total(at: float, above: Any = above, gains: Any = gains) -> float:
            return sum(gain for place, gain in zip(above, gains, strict=True) if place <= at)

        every = [min(above) - 1, *above]
        assert total(threshold) == pytest.approx(max(map(total, every)))
        assert threshold not in above, "it lies between rows"


def test_the_threshold_is_fitted_to_dev_and_gives_the_answers(kit: Any):
    task = kit.fit("qa", ROWS)
    golds = [("berlin",), (), ("mary",), (), ("a book",)]
    bests, above = ["berlin", "x", "mary smith", "y", "z"], [-3.0, -1.0, -2.0, 4.0, 5.0]
    given = [
        task._settled(Answer(extra={"best": text, "no_answer": place}))
        for text, place in zip(bests, above, strict=True)
    ]
    fitted, answers = task.calibrated(golds, given)
    assert fitted.threshold == -1.5
    assert [answer.text for answer in answers] == ["berlin", "", "mary smith", "", ""]
    assert task.threshold == 0.0
    assert fitted.config() == {**task.config(), "threshold": -1.5}

    def total(found: list[Answer]) -> float:
        return sum(best(f1, gold, answer) for gold, answer in zip(golds, found, strict=True))

    assert total(answers) == pytest.approx(1 + 1 + 2 / 3 + 1)
    assert total(answers) > total(given)


def test_without_both_kinds_of_questions_nothing_is_fitted(kit: Any):
    task = kit.fit("qa", ROWS)
    given = [Answer(text="a", extra={"best": "a", "no_answer": -1.0})]
    assert task.calibrated([("a",)], given) == (task, given)
    assert task.calibrated([()], given) == (task, given)
    answered = kit.fit("qa", ROWS[:4])
    plain = [Answer(text="a")] * 2
    assert answered.calibrated([("a",), ()], plain) == (answered, plain)


# ---------------------------------------------------------------------------------------------------- learning


def test_a_decoder_learns_by_heart_and_comes_back(kit: Any, stories260k: Path):
    """The encoder does in test_learning; here windows of a decoder, whose first token knows nothing of the question."""
    rows = ROWS[:3]
    tokenizer, task = tokenizer_of(stories260k, 96), kit.fit("qa", rows, stride=16)
    torch.manual_seed(0)
    network = kit.network(task, trunk=trunk_of(stories260k))
    learnt = encode(task, kit.rows(rows), tokenizer)
    assert sum(len(one.texts) for one in learnt) > 3
    batch = make_batch([("t", one) for one in learnt], {"t": task}, pad=0, packed=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=0.0)
    objective = Supervised({"t": task.loss})
    for _ in range(60):
        optimizer.zero_grad()
        loss = objective(batch, network)["t"]
        (loss.total / loss.weight).backward()
        optimizer.step()
    asked = encode(task, kit.rows(rows), tokenizer, Purpose.ANSWER)
    answers = kit.answers(network, task, asked)
    assert [answer.text for answer in answers] == ["berlin", "the book", "mary"]
    again = QuestionAnswering.from_config("t", json.loads(json.dumps(task.config())))
    restored = kit.network(again, trunk=trunk_of(stories260k), seed=9)
    restored.load_state_dict(network.state_dict())
    assert kit.answers(restored, again, again.encode(kit.rows(rows), tokenizer, Purpose.ANSWER)) == answers
