"""The table of strategies: means over seeds, verdicts by the interval, what is done is not done again."""

from __future__ import annotations

import json
from dataclasses import asdict

from bench.order import Figures, Lap, Score
from bench.strategies import FULL, KEY, STRATEGIES, table, write_files

from bench import kept
from weft.recipe.yaml import parse
from weft.strategy.named import STRATEGIES as NAMED


def figures(value, *, trained=10.0, seconds=2.0, threads=2):
    score = Score("a", "accuracy", value, value - 0.05, value + 0.05, 100)
    facts = {"trained": trained, "values": 100.0, "stored_bytes": 2.0**20, "threads": threads}
    return Figures((Lap("training", seconds, 5),), (score,), 7.0, facts=facts)


def test_a_difference_within_the_interval_of_full_training_is_a_tie():
    found = {
        (FULL, "a", 0): figures(0.80, trained=100.0),
        (FULL, "a", 1): figures(0.82, trained=100.0),
        ("lora", "a", 0): figures(0.84, seconds=1.0),
        ("lora", "a", 1): figures(0.86, seconds=3.0),
        ("head", "a", 0): figures(0.7),
        ("ia3", "a", 0): figures(0.9),
    }
    lines = table(found, ["a"]).splitlines()
    assert lines[0] == "| | trained | a, accuracy, n = 100 | against full | seconds | peak MiB | MiB a task |"
    assert "| lora | 10.00% | 0.850 [0.800, 0.900] | 1 tie | 2 | 7 | 1.00 |" in lines
    assert [line.split("|")[4].strip() for line in lines[2:]] == ["1 tie", "1 tie", "1 worse", "1 better"]


def test_seconds_are_those_of_rounds_with_the_most_threads():
    found = {
        (FULL, "a", 0): figures(0.80, seconds=2.0),
        (FULL, "a", 1): figures(0.82, seconds=9.0, threads=1),
    }
    assert "| 0.810 [0.760, 0.860] | 1 tie | 2 |" in table(found, ["a"])


def test_who_has_not_done_every_task_is_not_in_the_table():
    found = {(FULL, "a", 0): figures(0.8), (FULL, "b", 0): figures(0.8), ("lora", "a", 0): figures(0.8)}
    assert "| lora |" not in table(found, ["a", "b"])
    assert f"| {FULL} |" in table(found, ["a", "b"])


def test_what_is_done_is_read_back(tmp_path):
    line = {"name": "lora", "task": "a", "seed": 1, "figures": asdict(figures(0.5))}
    (tmp_path / "earlier.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert kept.read(tmp_path / "earlier.jsonl", KEY) == {("lora", "a", 1): figures(0.5)}


def test_rows_to_choose_by_are_not_rows_to_learn_from_nor_to_be_judged_by(tmp_path):
    for name in ("sst2", "mrpc", "conll2003", "stsb_en"):
        for split in ("train", "dev"):
            rows = [{"text": f"{split} {number}"} for number in range(300)]
            (tmp_path / name).mkdir(exist_ok=True)
            lines = "\n".join(json.dumps(row) for row in rows)
            (tmp_path / name / f"{split}.jsonl").write_text(lines + "\n", encoding="utf-8")
    write_files(tmp_path, tmp_path / "out", 80)
    found = {
        split: (tmp_path / "out" / f"mrpc.{split}.jsonl").read_text(encoding="utf-8").splitlines()
        for split in ("train", "dev", "test")
    }
    assert [len(rows) for rows in found.values()] == [80, 200, 300]
    assert not set(found["train"]) & set(found["dev"])
    assert not set(found["dev"]) & set(found["test"])


def test_every_strategy_is_one_of_a_recipe():
    for keys in STRATEGIES.values():
        stage = parse("{" + ", ".join(keys) + "}", "stage")
        strategy = stage.data["strategy"]
        assert isinstance(strategy, list) or strategy in NAMED or strategy.startswith("top ")
