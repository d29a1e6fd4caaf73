"""The script that writes the customer-service data: words and tags agree, splits are apart, files are those shipped."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY / "recipes" / "data" / "service"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = REPOSITORY / "tools" / "make_service_data.py"
    spec = importlib.util.spec_from_file_location("make_service_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def test_the_repository_has_what_the_script_writes(tool: ModuleType):
    splits = tool.own_splits(tool.SIZES["service"])
    assert {name: rows(f"service.{name}.jsonl") for name in splits} == splits


def test_tags_mark_the_slots_of_the_text(tool: ModuleType):
    slots: Counter[str] = Counter()
    for language in (tool.CHINESE, tool.ENGLISH):
        for row in list(tool.service_rows(language))[::97]:
            assert "".join(row["tokens"]) == row["text"].replace(" ", "")
            for word, tag in zip(row["tokens"], row["tags"], strict=True):
                if tag != "O":
                    slots[tag[2:]] += 1
                    assert any(word in value for value in language.slots[tag[2:]])
            assert row["reply"] in row["dialogue"]
            assert row["text"] in row["dialogue"]
    assert set(slots) == {"product", "order", "city", "date"}


def test_every_intent_and_mood_is_in_every_split_in_both_languages():
    for split in ("train", "dev", "test"):
        found = rows(f"service.{split}.jsonl")
        assert len({row["intent"] for row in found}) == 6
        assert len({row["mood"] for row in found}) == 4
        share = sum(row["text"].isascii() for row in found) / len(found)
        assert 0.2 < share < 0.5


@pytest.mark.parametrize("name", ["service", "general", "banking", "talk"])
def test_splits_share_no_question(tool: ModuleType, name: str):
    questions = [
        tool.question(row) for split in ("train", "dev", "test") for row in rows(f"{name}.{split}.jsonl")
    ]
    assert len(set(questions)) == len(questions) == sum(tool.SIZES[name])


def test_what_is_cut_from_other_sets(tool: ModuleType):
    banking = [{"text": f"t{n}", "labels": ["often"], "domain": "banking"} for n in range(tool.LEAST_ROWS)]
    rare = {"text": "x", "labels": ["often", "rare"], "domain": "banking"}
    hotel = {"text": "y", "labels": ["often"], "domain": "hotels"}
    assert tool.banking_rows([*banking, rare, hotel]) == [
        {"text": row["text"], "intents": ["often"]} for row in banking
    ]
    kept, other = {"text": "a", "label": "greeting"}, {"text": "b", "label": "poem"}
    assert tool.general_rows([kept, other]) == [{"text": "a", "intent": "greeting"}]
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant") * 3]
    assert tool.talk_rows([{"messages": turns}, {"messages": turns[:3]}]) == [{"messages": turns[:4]}]


def test_too_few_rows_are_refused(tool: ModuleType):
    with pytest.raises(SystemExit, match="3 rows must be there, but there are 2"):
        tool.cut([{"text": "a"}, {"text": "b"}, {"text": "A"}], (1, 1, 1))


def test_main_writes_every_file(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    sizes = {"service": (3, 1, 1), "general": (3, 1, 1), "banking": (3, 1, 1), "talk": (3, 1, 1)}
    monkeypatch.setattr(tool, "SIZES", sizes)
    monkeypatch.setattr(tool, "LEAST_ROWS", 1)
    sources = {
        "clinc150": [{"text": f"t{n}", "label": "goodbye"} for n in range(9)],
        "nlupp": [{"text": f"t{n}", "labels": ["card"], "domain": "banking"} for n in range(9)],
        "crosswoz_subset": [
            {"messages": [{"role": role, "content": f"{n}"} for role in ("user", "assistant") * 2]}
            for n in range(9)
        ],
    }
    for name, found in sources.items():
        (tmp_path / name).mkdir()
        text = "".join(json.dumps(row) + "\n" for row in found)
        (tmp_path / name / "train.jsonl").write_text(text, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path), str(tmp_path / "out")])
    tool.main()
    assert len(capsys.readouterr().out.splitlines()) == 12
    assert sorted({file.name.split(".")[0] for file in (tmp_path / "out").iterdir()}) == sorted(sizes)
