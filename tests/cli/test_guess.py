from __future__ import annotations

from typing import Any

import pytest

from weft.cli.guess import Guess, group, guess
from weft.core.example import Row
from weft.errors import DataError


def rows(*values: dict[str, Any], times: int = 1) -> list[Row]:
    return [Row(value, f"f:{number}") for number, value in enumerate(values * times, start=1)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}], Guess("classification", {}, {"x": 1, "y": 1})),
        ([{"sentence": "a", "label": "1"}, {"sentence": "b", "label": "0"}], Guess("classification", {}, {"0": 1, "1": 1})),
        ([{"premise": "a", "hypothesis": "b", "label": 2}] * 2, Guess("classification", {}, {"2": 2})),
        ([{"text": "a", "labels": ["x", "y"]}, {"text": "b", "labels": ["y"]}], Guess("classification", {"multi_label": True}, {"y": 2, "x": 1})),
        ([{"text": "a", "label": "x|y"}, {"text": "b", "label": "y"}], Guess("classification", {"multi_label": True}, {"y": 2, "x": 1})),
        ([{"文本": "好", "标签": "正面"}], Guess("classification", {}, {"正面": 1})),
        ([{"text": "a", "label": True}, {"text": "b", "label": False}], Guess("classification", {}, {"False": 1, "True": 1})),
        ([{"text1": "a", "text2": "b", "score": 0.5}, {"text1": "a", "text2": "b", "score": 1.0}], Guess("regression")),
        ([{"text1": "a", "text2": "b", "score": "0.5"}, {"text1": "a", "text2": "b", "score": "1"}], Guess("regression")),
        ([{"text": "a", "label": 3.25}], Guess("regression")),
        ([{"text": "a", "label": 7 * at} for at in range(12)], Guess("regression")),
        ([{"tokens": ["a", "b"], "tags": ["O", "B-X"]}], Guess("tagging", {}, {"B-X": 1, "O": 1})),
        ([{"words": "a b", "ner_tags": "O O"}], Guess("tagging", {}, {"O": 2})),
        ([{"text": "在云南", "label": {"address": {"云南": [[1, 2]]}}}, {"text": "在", "label": {}}], Guess("tagging", {}, {"address": 1})),
        ([{"text": "in Rome", "entities": [{"start": 3, "end": 7, "label": "LOC"}]}], Guess("tagging", {}, {"LOC": 1})),
        ([{"text": "in Rome", "label": [[3, 7, "LOC"]]}], Guess("tagging", {}, {"LOC": 1})),
        ([{"text": "in Rome", "tokens": [{"text": "in"}], "spans": [{"start": 3, "end": 7, "label": "LOC"}]}], Guess("tagging", {}, {"LOC": 1})),
        ([{"tokens": ["in", "Rome"], "tags": ["O", "B-LOC"], "entities": [{"start": 3, "end": 7, "label": "LOC"}]}], Guess("tagging", {}, {"B-LOC": 1, "O": 1})),
        ([{"candidates": ["一举两得", "画蛇添足"], "content": "这样做____。", "answer": "一举两得"}], Guess("choice")),
        ([{"内容": "这样做____。", "选项": ["一举两得", "画蛇添足"], "答案": "一举两得"}], Guess("choice")),
        ([{"id": "x", "comment_text": "a", "toxic": "1", "threat": "0"}, {"id": "y", "comment_text": "b", "toxic": "1", "threat": "1"}], Guess("classification", {"multi_label": True}, {"toxic": 2, "threat": 1})),
        ([{"Tweet": "a", "text": "b", "anger": True, "joy": False}], Guess("classification", {"multi_label": True}, {"anger": 1})),
        ([{"instruction": "a", "input": "", "output": "b"}], Guess("generation")),
        ([{"instruction": "a", "context": "", "response": "b", "category": "c"}], Guess("generation")),
        ([{"messages": [{"role": "user", "content": "a"}]}], Guess("generation")),
        ([{"question": "a", "answer": "b"}], Guess("generation")),
        ([{"document": "a", "summary": "b"}], Guess("generation")),
    ],
)  # fmt: skip
def test_guess(values: list[dict[str, Any]], expected: Guess):
    assert guess(rows(*values), what="f") == expected


def test_long_texts_that_differ_are_answers_and_not_labels():
    values = [
        {"text": f"question {n}", "target": f"a long answer that nobody would call a label, number {n}"}
        for n in range(9)
    ]
    assert guess(rows(*values), what="f").kind == "generation"
    labels = [{"text": f"question {n}", "target": f"intent {n % 3}"} for n in range(9)]
    assert guess(rows(*labels), what="f").kind == "classification"


def test_counts_are_most_frequent_first():
    found = guess(rows(*({"text": "t", "label": label} for label in "abbccc")), what="f")
    assert list(found.counts.items()) == [("c", 3), ("b", 2), ("a", 1)]


@pytest.mark.parametrize(
    "value", [{"foo": "a", "bar": "b"}, {"text": "a", "speaker": "b"}, {"label": "no text"}]
)
def test_columns_that_say_nothing(value: dict[str, str]):
    with pytest.raises(
        DataError, match=f"^f: must have columns that say what to learn.*but has {', '.join(value)}"
    ):
        guess(rows(value), what="f")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.train.csv", "a.dev.csv", "a.test.csv"], {"a": {"train": ["a.train.csv"], "dev": ["a.dev.csv"], "test": ["a.test.csv"]}}),
        (["ner.conll", "ner.dev.conll"], {"ner": {"train": ["ner.conll"], "dev": ["ner.dev.conll"]}}),
        (["data/sst2/train.jsonl", "data/sst2/validation.jsonl"], {"sst2": {"train": ["data/sst2/train.jsonl"], "dev": ["data/sst2/validation.jsonl"]}}),
        (["train_sst-2.tsv", "VALID_sst-2.tsv"], {"sst_2": {"train": ["train_sst-2.tsv"], "dev": ["VALID_sst-2.tsv"]}}),
        (["train.csv"], {"task": {"train": ["train.csv"]}}),
        (["a.csv[:500]", "a.dev.csv"], {"a": {"train": ["a.csv[:500]"], "dev": ["a.dev.csv"]}}),
        (["a.train.csv.gz"], {"a": {"train": ["a.train.csv.gz"]}}),
        (["a.train.csv", "a.train.jsonl"], {"a": {"train": ["a.train.csv", "a.train.jsonl"]}}),
        (["情感.train.csv"], {"task": {"train": ["情感.train.csv"]}}),
        (["data/agnews:train", "data/agnews:test"], {"agnews": {"train": ["data/agnews:train"], "test": ["data/agnews:test"]}}),
        (["glue@mnli:train", "glue@mnli:validation_matched"], {"glue_mnli": {"train": ["glue@mnli:train"], "dev": ["glue@mnli:validation_matched"]}}),
        (["cnn@3.0.0:train", "cnn@3.0.0:validation[:9]"], {"cnn_3_0_0": {"train": ["cnn@3.0.0:train"], "dev": ["cnn@3.0.0:validation[:9]"]}}),
        (["a.csv", "b.csv"], {"a": {"train": ["a.csv"]}, "b": {"train": ["b.csv"]}}),
    ],
)  # fmt: skip
def test_group(files: list[str], expected: dict[str, dict[str, list[str]]]):
    assert group(files) == expected


def test_spans_that_do_not_fit_their_text_are_said_and_not_guessed_around():
    with pytest.raises(DataError, match=r"^f:2: span 5-9 of LOC must lie within"):
        guess(
            rows({"text": "in Rome", "label": [[3, 7, "LOC"]]}, {"text": "in", "label": [[5, 9, "LOC"]]}),
            what="f",
        )
