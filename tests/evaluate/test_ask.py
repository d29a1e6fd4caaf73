"""Questions to a network: who is asked what, and that an answer does not depend on what is asked beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.build.network import Base
from weft.core.example import Answer, Dropped, Row
from weft.core.network import Network
from weft.errors import DataError
from weft.evaluate.ask import Asked, Questions, ask, from_rows, from_texts, only_named
from weft.model.folder import locate
from weft.model.tokenizer import HFTokenizer, load_tokenizer
from weft.task.base import Task
from weft.task.registry import FAMILIES

TEXT = {"text": "review", "pair": None, "label": "verdict"}
PAIR = {"text": "a", "pair": "b", "score": "grade"}
CHAT = {"messages": None, "instruction": "ask", "input": "given", "output": "reply", "system": "role"}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "mood": ("classification", {"columns": TEXT, "labels": ["x", "y", "z"], "multi_label": False, "threshold": 0.5, "pooling": None}),
    "many": ("classification", {"columns": TEXT, "labels": ["x", "y"], "multi_label": True, "threshold": 0.5, "pooling": "mean"}),
    "match": ("regression", {"columns": PAIR, "mean": 2.0, "std": 1.5, "pooling": None}),
    "names": (
        "tagging",
        {"columns": {"tokens": "words", "tags": "marks"}, "labels": ["O", "B-X", "I-X"], "scheme": "bio", "repair": True, "has_ids": False, "num_repaired": 0},
    ),
}  # fmt: skip
SENTENCES = [
    "the cat",
    "john smith sleeps in a big red house in london and hates bad food",
    "mary likes it",
    "你好，电影 is good",
    "a dog eats the new book of john in paris",
]


def build(names: tuple[str, ...]) -> dict[str, Task]:
    return {name: FAMILIES[CONFIGS[name][0]].from_config(name, CONFIGS[name][1]) for name in names}


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return build(tuple(CONFIGS))


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> HFTokenizer:
    return load_tokenizer(locate(str(tiny_bert), None, root=Path()), max_tokens=64)


@pytest.fixture(scope="module")
def network(tiny_bert: Path, tasks: dict[str, Task]) -> Network:
    base = Base(locate(str(tiny_bert), None, root=Path()), wants_lm_head=False, seed=0)
    network = base.network(tasks, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for head in network.heads.parameters():
            head.normal_(0.0, 0.5, generator=generator)
    return network


def put(
    network: Network, tasks: Mapping[str, Task], tokenizer: HFTokenizer, questions: Questions
) -> list[Asked]:
    return ask(network, tasks, tokenizer, questions.rows, budget=256, dtype=torch.float32)


def numbers(answer: Answer | Dropped) -> list[float]:
    assert isinstance(answer, Answer)
    return list((answer.probabilities or {}).values()) if answer.value is None else [answer.value]


@pytest.mark.parametrize("pair", [None, "a good film"])
def test_batched_equals_single(
    pair: str | None, network: Network, tasks: dict[str, Task], tokenizer: HFTokenizer
):
    together = put(network, tasks, tokenizer, from_texts(tasks, SENTENCES, pair))
    assert [list(row) for row in together] == [["match"] if pair else ["mood", "many", "names"]] * len(
        SENTENCES
    )
    for text, batched in zip(SENTENCES, together, strict=True):
        (alone,) = put(network, tasks, tokenizer, from_texts(tasks, [text], pair))
        for name, answer in batched.items():
            single = alone[name]
            assert isinstance(answer, Answer)
            assert isinstance(single, Answer)
            assert numbers(answer) == pytest.approx(numbers(single), abs=1e-6)
            assert (answer.label, answer.tags, answer.spans) == (single.label, single.tags, single.spans)


def test_answers_stay_with_their_rows_around_dropped_ones(
    network: Network, tasks: dict[str, Task], tokenizer: HFTokenizer
):
    rows = [Row({"review": text}, f"f:{i}") for i, text in enumerate([SENTENCES[1], "", SENTENCES[0]])]
    first, second, third = put(network, tasks, tokenizer, Questions({"mood": rows}, {}))
    assert second == {"mood": Dropped("f:1", "empty text")}
    for text, found in ((SENTENCES[1], first), (SENTENCES[0], third)):
        (alone,) = put(network, tasks, tokenizer, from_texts(build(("mood",)), [text], None))
        assert numbers(found["mood"]) == pytest.approx(numbers(alone["mood"]), abs=1e-6)


def test_rows_that_nobody_can_answer_are_all_dropped(
    network: Network, tasks: dict[str, Task], tokenizer: HFTokenizer
):
    rows = [Row({"review": " "}, "f:1")]
    assert put(network, tasks, tokenizer, Questions({"mood": rows}, {})) == [
        {"mood": Dropped("f:1", "empty text")}
    ]
    assert put(network, tasks, tokenizer, Questions({}, {})) == []


def test_texts_go_to_the_tasks_that_take_them(tasks: dict[str, Task]):
    one, two = from_texts(tasks, ["hello"], None), from_texts(tasks, ["hello"], "there")
    assert (list(one.rows), list(one.left_out)) == (["mood", "many", "names"], ["match"])
    assert (list(two.rows), list(two.left_out)) == (["match"], ["mood", "many", "names"])
    assert two.rows["match"][0].values == {"a": "hello", "b": "there"}
    assert "takes a pair of texts, but one was given" in one.left_out["match"]


def test_the_role_of_the_column_that_is_missing_is_named(tasks: dict[str, Task]):
    rows = [Row({"a": "hello"}, "f.csv:2")]
    found = from_rows({"match": tasks["match"]}, rows, {}, what="f.csv")
    assert found.left_out == {
        "match": "match: needs column b, but f.csv has a. Say which with --column pair=<column>."
    }


def test_rows_of_a_file_lose_their_labels(tasks: dict[str, Task]):
    rows = [Row({"review": "good", "verdict": "nonsense", "words": ["good"], "marks": ["?"]}, "f.csv:2")]
    found = from_rows(tasks, rows, {}, what="f.csv")
    assert found.rows["mood"] == [Row({"review": "good"}, "f.csv:2")]
    assert found.rows["names"] == [Row({"words": ["good"]}, "f.csv:2")]
    assert found.left_out == {
        "match": "match: needs column a, but f.csv has review, verdict, words, marks. Say which with --column text=<column>."
    }


def test_columns_are_renamed_for_every_task_with_that_role(tasks: dict[str, Task]):
    rows = [Row({"left": "one", "right": "two"}, "f.csv:2")]
    found = from_rows(tasks, rows, {"text": "left", "pair": "right"}, what="f.csv")
    assert found.rows["match"] == [Row({"a": "one", "b": "two"}, "f.csv:2")]
    assert found.rows["mood"] == found.rows["many"] == [Row({"review": "one"}, "f.csv:2")]
    assert list(found.left_out) == ["names"]


@pytest.mark.parametrize(
    ("renamed", "words"),
    [
        ({"txet": "left"}, "txet must be a role .* Did you mean 'text'"),
        ({"text": "lft"}, "the column for text must exist, but lft does not. Did you mean 'left'"),
        ({"label": "left"}, "label must be a role"),
    ],
)
def test_a_wrong_name_is_refused(renamed: dict[str, str], words: str, tasks: dict[str, Task]):
    with pytest.raises(DataError, match=words):
        from_rows(tasks, [Row({"left": "one"}, "f.csv:2")], renamed, what="f.csv")


def test_what_a_question_may_have_beside_it_need_not_be_there():
    config = {"columns": CHAT, "max_new_tokens": 4, "template": None}
    reply: dict[str, Task] = {"reply": FAMILIES["generation"].from_config("reply", config)}
    rows = [
        Row({"ask": "who?", "reply": "me", "role": "be brief"}, "f:1"),
        Row({"ask": "x", "given": "y"}, "f:2"),
    ]
    found = from_rows(reply, rows, {}, what="f")
    assert [row.values for row in found.rows["reply"]] == [
        {"ask": "who?", "role": "be brief"},
        {"ask": "x", "given": "y"},
    ]
    assert list(from_rows(reply, [Row({"given": "y"}, "f:1")], {}, what="f").left_out) == ["reply"]


def test_each_row_may_be_for_one_task_only(network: Network, tasks: dict[str, Task], tokenizer: HFTokenizer):
    rows = [
        Row({"review": SENTENCES[0], "for": "many"}, "f:1"),
        Row({"review": SENTENCES[1], "for": "mood"}, "f:2"),
        Row({"review": " ", "for": "many"}, "f:3"),
        Row({"review": SENTENCES[1], "for": "many"}, "f:4"),
    ]
    every = from_rows(tasks, rows, {}, what="f")
    questions = only_named(every, rows, "for", tasks=tasks, what="f")
    assert [row is not None for row in questions.rows["many"]] == [True, False, True, True]
    found = put(network, tasks, tokenizer, questions)
    assert [list(row) for row in found] == [["many"], ["mood"], ["many"], ["many"]]
    assert isinstance(found[2]["many"], Dropped)
    for row, answers in zip(rows, found, strict=True):
        ((name, answer),) = answers.items()
        if isinstance(answer, Answer):
            (alone,) = put(
                network, tasks, tokenizer, from_texts(build((name,)), [str(row.values["review"])], None)
            )
            assert numbers(answer) == pytest.approx(numbers(alone[name]), abs=1e-6)


@pytest.mark.parametrize(
    ("named", "column", "words"),
    [
        ("moood", "for", "f:1: for must be a task, but is 'moood'. Did you mean 'mood'"),
        ("match", "for", "f:1: match: needs column a"),
        ("mood", "fro", "the column that names the task must exist, but fro does not. Did you mean 'for'"),
    ],
)
def test_a_row_for_a_task_that_cannot_answer_is_an_error(
    named: str, column: str, words: str, tasks: dict[str, Task]
):
    rows = [Row({"review": "good", "for": named}, "f:1")]
    every = from_rows(tasks, rows, {}, what="f")
    with pytest.raises(DataError, match=words):
        only_named(every, rows, column, tasks=tasks, what="f")
