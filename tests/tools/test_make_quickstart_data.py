"""The script that cuts the quickstart data: what it keeps, and that order in the source does not matter."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "tools" / "make_quickstart_data.py"
    spec = importlib.util.spec_from_file_location("make_quickstart_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_closing_keeps_whole_last_sentences(tool: ModuleType):
    review = "\n".join([" ".join(["early"] * 50), " ".join(["middle"] * 60), " ".join(["late"] * 50)])
    assert tool.closing(review).split() == ["middle"] * 60 + ["late"] * 50  # 110 words, not one more


def test_closing_cuts_a_sentence_that_is_too_long_alone(tool: ModuleType):
    words = [str(number) for number in range(300)]
    assert tool.closing(" ".join(words)).split() == words[-110:]


def _rows() -> list[dict[str, str]]:
    return [{"a": f"premise {number // 3}", "b": f"claim {number}"} for number in range(300)]


def _draw(tool: ModuleType, rows: list[dict[str, str]], train: int) -> dict[str, list[dict[str, str]]]:
    pools = {"dev": rows, "train": rows}
    return tool.choose(pools, {"dev": 30, "train": train}, lambda row: [row["a"], row["b"]])


def test_choose_does_not_depend_on_the_order_of_the_file(tool: ModuleType):
    rows = _rows()
    shuffled = random.Random(0).sample(rows, len(rows))
    assert _draw(tool, rows, 200) == _draw(tool, shuffled, 200)


def test_choose_keeps_rows_of_one_text_in_one_split(tool: ModuleType):
    chosen = _draw(tool, _rows(), 200)
    dev, train = ({row["a"] for row in chosen[split]} for split in ("dev", "train"))
    assert len(chosen["dev"]) == 30
    assert len(chosen["train"]) == 200
    assert dev.isdisjoint(train)
    assert len(dev) == 10  # three rows a premise, drawn together


def test_choose_drops_repeated_rows(tool: ModuleType):
    rows = _rows()
    chosen = _draw(tool, rows + [{key: text.upper() for key, text in row.items()} for row in rows], 200)
    claims = [row["b"].casefold() for part in chosen.values() for row in part]
    assert len(claims) == len(set(claims)) == 230


def test_choose_says_when_there_is_too_little(tool: ModuleType):
    with pytest.raises(SystemExit, match="train: 271 rows must be left to draw, but there are 270"):
        _draw(tool, _rows(), 271)


def test_files_round_trip(tool: ModuleType):
    rows = [{"text": 'says "hi", twice', "label": "positive"}]
    assert tool.as_csv(rows) == 'text,label\n"says ""hi"", twice",positive\n'
    assert tool.as_jsonl([{"text": "好"}]) == '{"text": "好"}\n'
    sentences = [{"tokens": ["a", "b"], "tags": ["O", "B-X"]}, {"tokens": ["c"], "tags": ["O"]}]
    assert tool.as_conll(sentences) == "a O\nb B-X\n\nc O\n"
