"""The script that cuts the instruction data: short rows, each once, whatever their order."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "tools" / "make_instruct_data.py"
    spec = importlib.util.spec_from_file_location("make_instruct_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(count: int) -> list[dict[str, str]]:
    return [{"instruction": f"Do number {i}.", "input": "", "output": "Done."} for i in range(count)]


def test_choose_makes_splits_of_fixed_sizes_that_share_no_row(tool: ModuleType):
    splits = tool.choose(rows(100))
    assert {split: len(found) for split, found in splits.items()} == {"test": 10, "dev": 10, "train": 50}
    texts = [row["instruction"] for found in splits.values() for row in found]
    assert len(set(texts)) == 70


def test_choose_does_not_depend_on_the_order_of_the_file(tool: ModuleType):
    shuffled = random.Random(0).sample(rows(100), 100)
    assert tool.choose(shuffled) == tool.choose(rows(100))


def test_long_rows_and_rows_without_an_answer_are_left_out(tool: ModuleType):
    row = rows(1)[0]
    assert tool.is_short(row)
    assert not tool.is_short({**row, "output": ""})
    assert not tool.is_short({**row, "output": "x" * (tool.MAX_ANSWER + 1)})
    assert not tool.is_short({**row, "input": "x" * tool.MAX_CHARACTERS})


def test_too_few_rows_are_said_so(tool: ModuleType):
    with pytest.raises(SystemExit, match="70 short rows must be there, but there are 69"):
        tool.choose(rows(69))
