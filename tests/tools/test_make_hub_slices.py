"""The stand-ins for sets of the Hub: what is in the repository is what the script writes, and it fits together."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    import sys

    path = REPOSITORY / "tools" / "make_hub_slices.py"
    spec = importlib.util.spec_from_file_location("make_hub_slices", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_repository_has_what_the_script_writes(tool: ModuleType):
    folder = REPOSITORY / "recipes" / "data" / "hub"
    there = {file.relative_to(folder).as_posix(): file.read_text("utf-8") for file in folder.rglob("*.jsonl")}
    assert there == tool.slices()


def every(splits: Any) -> list[dict[str, Any]]:
    return [row for split in splits.values() for row in split]


def test_every_row_is_there_once_and_labels_of_both_halves_are_the_same(tool: ModuleType):
    for name, splits in {**tool.glue(), **tool.super_glue(), **tool.clue(), **tool.texts()}.items():
        found = [
            json.dumps({k: v for k, v in row.items() if k not in ("idx", "id")}, sort_keys=True)
            for split in splits.values()
            for row in split
        ]
        assert len(set(found)) == len(found), name
        train, *held = splits.values()
        labels = {row.get("label") for row in train}
        assert (
            all(isinstance(label, float) for label in labels)
            or {row.get("label") for split in held for row in split} <= labels
        )


def test_answers_stand_where_they_are_said_to_stand(tool: ModuleType):
    num_unanswerable = 0
    for splits in tool.questions().values():
        for split in splits.values():
            for row in split:
                answers = row["answers"]
                for text, start in zip(answers["text"], answers["answer_start"], strict=True):
                    assert row["context"][start : start + len(text)] == text
                num_unanswerable += not answers["text"]
    assert num_unanswerable == 8


def test_marked_words_stand_where_they_are_said_to_stand(tool: ModuleType):
    for row in every(tool.super_glue()["aps/super_glue/wic"]):
        for number in "12":
            sentence, start, end = (row[f"{key}{number}"] for key in ("sentence", "start", "end"))
            assert sentence[start:end] == row["word"]
    for row in every(tool.super_glue()["aps/super_glue/wsc.fixed"]):
        for number in "12":
            assert row["text"].split()[row[f"span{number}_index"]].strip(",.") == row[f"span{number}_text"]
    for row in every(tool.clue()["clue/clue/cluewsc2020"]):
        target = row["target"]
        for number in "12":
            assert row["text"].startswith(target[f"span{number}_text"], target[f"span{number}_index"])


def test_names_that_are_left_out_stand_in_the_passage(tool: ModuleType):
    for row in every(tool.super_glue()["aps/super_glue/record"]):
        spans = row["entity_spans"]
        for text, start, end in zip(spans["text"], spans["start"], spans["end"], strict=True):
            assert row["passage"][start:end] == text
        assert set(row["answers"]) < set(row["entities"]) == set(spans["text"])
        assert "@placeholder" in row["query"]


def test_every_blank_has_an_idiom(tool: ModuleType):
    for row in every(tool.clue()["clue/clue/chid"]):
        assert len(set(row["candidates"])) == 10
        assert sum(text.count("#idiom") for text in row["content"]) == len(row["answers"]["text"]) == 2
        assert [row["candidates"][at] for at in row["answers"]["candidate_id"]] == row["answers"]["text"]


def test_tags_are_as_many_as_tokens(tool: ModuleType):
    (splits,) = tool.conll().values()
    assert set(splits) == {"train", "validation", "test"}
    for split in splits.values():
        for row in split:
            assert len(row["tokens"]) == len(row["ner_tags"])
            assert set(row["ner_tags"]) <= set(range(9))


def test_main_writes_below_a_folder(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path)])
    tool.main()
    assert capsys.readouterr().out.startswith("77 files, ")
    (first, *_) = rows((tmp_path / "nyu-mll/glue/sst2/train.jsonl").read_text("utf-8"))
    assert set(first) == {"sentence", "label", "idx"}
