"""Cloze tests become a row a blank, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from weft.data.cloze import flattened
from weft.data.sources import read

CHID = {
    "idx": 3,
    "candidates": ["画蛇添足", "一举两得", "手忙脚乱"],
    "content": ["这样做#idiom000001#，何必#idiom000002#。", "没有空", "他#idiom000003#。"],
}
TEXTS = ["这样做____，何必……。", "这样做……，何必____。", "他____。"]
RIGHT = ["一举两得", "画蛇添足", "手忙脚乱"]


@pytest.mark.parametrize(
    "answers",
    [
        {"text": RIGHT, "candidate_id": [1, 0, 2]},
        [{"text": text, "candidate_id": place} for text, place in zip(RIGHT, (1, 0, 2), strict=True)],
        RIGHT,
    ],
)
def test_each_blank_is_a_row_with_its_answer(answers: Any):
    rows = list(flattened([({**CHID, "answers": answers}, 7), ({"text": "plain"}, 8)]))
    assert [place for _, place in rows] == ["7.1", "7.2", "7.3", 8]
    assert [row["content"] for row, _ in rows[:3]] == TEXTS
    assert [row["answer"] for row, _ in rows[:3]] == RIGHT
    assert all(row["candidates"] == CHID["candidates"] and row["idx"] == 3 for row, _ in rows[:3])
    assert "answers" not in rows[0][0]


@pytest.mark.parametrize("answers", [None, [], {"text": None}, {}])
def test_blanks_without_answers_are_questions(answers: Any):
    rows = [row for row, _ in flattened([({**CHID, "answers": answers}, 1)])]
    assert [row["content"] for row in rows] == TEXTS
    assert not any("answer" in row for row in rows)


@pytest.mark.parametrize(
    "values",
    [
        {"content": "他#idiom000003#。", "candidates": ["a"]},
        {"content": ["没有空"], "candidates": ["a"]},
        {"content": ["他#idiom000003#。"]},
        {"content": [{"type": "text"}], "candidates": ["a"]},
        {"content": None, "candidates": None},
    ],
)
def test_other_records_stay_as_they_are(values: dict[str, Any]):
    assert list(flattened([(values, 1)])) == [(values, 1)]


def test_every_format_is_flattened(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {**CHID, "answers": [{"text": text} for text in RIGHT]}
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "x.parquet")
    for name in ("x.jsonl", "x.parquet"):
        found = read(name, root=tmp_path).rows
        assert [one.values["content"] for one in found] == TEXTS
        assert [one.where for one in found] == [f"{name}:1.{number}" for number in (1, 2, 3)]
    assert len(read("x.jsonl[:2]", root=tmp_path).rows) == 2
