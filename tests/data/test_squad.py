"""Nested reading comprehension becomes one row a question, whichever of its layouts a file has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from weft.data.sources import read
from weft.errors import DataError

SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Normans",
            "paragraphs": [
                {
                    "context": "The Normans came from France.",
                    "qas": [
                        {
                            "id": "q1",
                            "question": "Where did they come from?",
                            "answers": [{"text": "France", "answer_start": 22}],
                            "is_impossible": False,
                        },
                        {"id": "q2", "question": "When?", "answers": [], "is_impossible": True},
                    ],
                },
                {"context": "Rollo swore fealty.", "qas": [{"question": "Who?", "answers": []}]},
            ],
        },
        {"title": "Empty", "paragraphs": [{"context": "Nothing asked.", "qas": []}]},
        {
            "title": "Paris",
            "paragraphs": [{"context": "A city.", "qas": [{"id": "q1", "question": "What?", "answers": []}]}],
        },
    ],
}
CMRC = [
    {
        "context_id": "DEV_0",
        "context_text": "《战国无双3》是由光荣开发的第三续作。",
        "title": "战国无双3",
        "qas": [{"query_id": "DEV_0_QUERY_0", "query_text": "由谁开发？", "answers": ["光荣", "光荣"]}],
    }
]
MRQA = [
    {"header": {"dataset": "x"}},
    {"context": "a b", "qas": [{"qid": "m1", "question": "?", "answers": ["b"], "detected_answers": []}]},
]


def rows(folder: Path, name: str, text: str, ref: str = "") -> list[tuple[str, dict[str, Any]]]:
    (folder / name).write_text(text, encoding="utf-8")
    return [(row.where, dict(row.values)) for row in read(name + ref, root=folder).rows]


@pytest.mark.parametrize("indent", [None, 1])
def test_articles_become_rows_at_the_ids_of_their_questions(tmp_path: Path, indent: int | None):
    found = rows(tmp_path, "dev.json", json.dumps(SQUAD, indent=indent))
    assert [where for where, _ in found] == ["dev.json:q1", "dev.json:q2", "dev.json:1.3", "dev.json:3.1"]
    assert found[0][1] == {
        "title": "Normans",
        "context": "The Normans came from France.",
        "id": "q1",
        "question": "Where did they come from?",
        "answers": [{"text": "France", "answer_start": 22}],
        "is_impossible": False,
    }
    assert [values["title"] for _, values in found] == ["Normans", "Normans", "Normans", "Paris"]
    assert [values["context"] for _, values in found][2:] == ["Rollo swore fealty.", "A city."]


def test_a_slice_is_of_questions(tmp_path: Path):
    found = rows(tmp_path, "dev.json", json.dumps(SQUAD), "[1:3]")
    assert [where for where, _ in found] == ["dev.json:q2", "dev.json:1.3"]


def test_the_older_layout_of_cmrc_keeps_its_names(tmp_path: Path):
    ((where, values),) = rows(tmp_path, "cmrc.json", json.dumps(CMRC, ensure_ascii=False, indent=2))
    assert where == "cmrc.json:DEV_0_QUERY_0"
    assert values == {
        "context_id": "DEV_0",
        "context_text": CMRC[0]["context_text"],
        "title": "战国无双3",
        "query_id": "DEV_0_QUERY_0",
        "query_text": "由谁开发？",
        "answers": ["光荣", "光荣"],
    }


def test_paragraphs_a_line_are_read_beside_plain_rows(tmp_path: Path):
    found = rows(tmp_path, "mrqa.jsonl", "".join(json.dumps(one) + "\n" for one in MRQA))
    assert [where for where, _ in found] == ["mrqa.jsonl:1", "mrqa.jsonl:m1"]
    assert found[1][1]["context"] == "a b"
    assert "qas" not in found[1][1]


@pytest.mark.parametrize("value", [["one", "two"], [], "text", [{"text": "one"}], None])
def test_paragraphs_without_questions_are_a_row_as_they_are(tmp_path: Path, value: Any):
    row = {"paragraphs": value, "label": "a"}
    assert rows(tmp_path, "long.jsonl", json.dumps(row)) == [("long.jsonl:1", row)]


@pytest.mark.parametrize(
    ("article", "place"),
    [
        ({"context": "a", "qas": ["who?"]}, r"x\.jsonl:1: qas"),
        ({"paragraphs": [{"context": "a", "qas": {"id": 1}}]}, r"x\.jsonl:1: qas"),
        ({"paragraphs": [{"context": "a", "qas": []}, "b"]}, r"x\.jsonl:1: paragraphs"),
    ],
)
def test_what_is_no_question_is_refused_with_its_place(tmp_path: Path, article: Any, place: str):
    with pytest.raises(DataError, match=f"^{place} must be a list of objects, but is "):
        rows(tmp_path, "x.jsonl", json.dumps(article))
