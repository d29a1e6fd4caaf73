"""Tables as people see them, at the width of a small terminal and of a page."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from weft.cli.show import in_short, show_data, show_plan, show_scores
from weft.report.records import (
    DataReport,
    EvalReport,
    GroupRow,
    Score,
    SplitReport,
    StagePlan,
    TaskDataReport,
    TaskReport,
)


def shown(show: Any, record: Any, width: int = 160) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=True)
    show(console, record)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def split(name: str, labels: dict[str, int], **others: Any) -> SplitReport:
    values = {
        "sources": ("a.csv",), "read": 1200, "used": 1100, "dropped": {}, "tokens_mean": 31.6, "tokens_p95": 60,
        "tokens_max": 64, "cut_share": 0.034, "duplicates": 2,
    }  # fmt: skip
    return SplitReport(split=name, labels=labels, **(values | others))


def data(*splits: SplitReport, warnings: tuple[str, ...] = ()) -> DataReport:
    task = TaskDataReport(task="mood", kind="classification", columns={}, splits=splits, overlap={})
    return DataReport(tasks=(task,), warnings=warnings)


def test_data_of_one_task_stands_together():
    report = data(
        split("train", {"yes": 900, "no": 200}, dropped={"no label": 60, "empty text": 40}),
        split("dev", {"yes": 9, "no": 2}),
        warnings=("mood: 3 texts of train/dev are equal.",),
    )
    lines = shown(show_data, report)
    assert lines[0].split() == [
        "task",
        "split",
        "read",
        "used",
        "tokens",
        "cut",
        "twice",
        "dropped",
        "labels",
    ]
    first = "mood train 1,200 1,100 32 ≤64 3.4 % 2 no label: 60 · empty text: 40 yes: 900 · no: 200"
    assert lines[1].split() == first.split()
    assert lines[2].split() == "dev 1,200 1,100 32 ≤64 3.4 % 2 – yes: 9 · no: 2".split()
    assert lines[3] == "warning: mood: 3 texts of train/dev are equal."


def test_ranges_of_numbers_keep_their_order_and_empty_ones_are_left_out():
    labels = {"0 to 1": 5, "1 to 2": 0, "2 to 3": 70, "3 to 4": 8}
    assert shown(show_data, data(split("train", labels)))[1].endswith("0 to 1: 5 · 2 to 3: 70 · 3 to 4: 8")


def test_of_many_labels_the_most_frequent_are_shown():
    labels = {f"label{i}": i for i in range(1, 21)}
    line = shown(show_data, data(split("train", labels)))[1]
    assert line.endswith("label20: 20 · label19: 19 · label18: 18 · label17: 17 · label16: 16 · +15")


@pytest.mark.parametrize("width", [80, 160])
def test_no_line_of_the_data_is_wider_than_the_terminal(width: int):
    report = data(
        split("train", {f"a long label {i}": i for i in range(1, 9)}, dropped={"label not in the list": 9})
    )
    lines = shown(show_data, report, width)
    assert max(map(len, lines)) <= width
    assert "1,200" in lines[1], "numbers are never broken"


LORA_PATHS = "layers.{0-5}.attention.{query,key,value,output}.{lora_A,lora_B}.together, layers.{0-5}.ffn.{up,down}.{weight,bias}"


def plan(**others: Any) -> StagePlan:
    groups = (
        GroupRow(paths="embeddings.word.weight", num_tensors=1, num_values=9_000_000, role="frozen", owner="trunk",
                 why="no rule names it", lr=0.0),
        GroupRow(paths=LORA_PATHS, num_tensors=2, num_values=111_000, role="trained", owner="adapter:x",
                 why="rule 1: linear -> lora", lr=5e-4),
    )  # fmt: skip
    values: dict[str, Any] = {
        "name": "one", "parent": "base", "strategy": "lora", "carry": {}, "tasks": {"a": 0.25, "b": 0.75},
        "passes": {"a": 123.4, "b": 1.0}, "table": groups, "num_trained": 111_000, "num_values": 9_111_000,
        "steps": 1234, "examples": 1, "tokens": 98_765, "memory_bytes": 2**30, "seconds": 75.0,
        "notes": ("take care",),
    }  # fmt: skip
    return StagePlan(**(values | others))


def test_a_plan_on_a_wide_terminal_is_a_table():
    lines = shown(show_plan, plan())
    assert lines[:4] == [
        "Stage one, from base: lora",
        "  draws: a 25.0 % (123 passes), b 75.0 % (1.00 passes)",
        "  1,234 steps, 98.8 k tokens, about 1.0 GiB of memory and 1 min 15 s",
        "  trains 111 k of 9.11 M values (1.2 %)",
    ]
    assert lines[4].split() == ["role", "lr", "values", "parameters", "why"]
    assert lines[5].split() == "frozen – 9.00 M embeddings.word.weight no rule names it".split()
    first, second = LORA_PATHS.split(", ")
    assert lines[6].split() == ["trained", "5e-4", "111", "k", first, "rule", "1:", "linear", "->", "lora"]
    assert lines[7].split() == [second]
    assert lines[8] == "warning: take care"


def test_a_plan_on_a_narrow_terminal_keeps_paths_whole():
    lines = shown(show_plan, plan(), 80)
    assert lines[5] == "      embeddings.word.weight"
    assert lines[6].split() == "trained 5e-4 111 k rule 1: linear -> lora".split()
    assert [line.strip() for line in lines[7:9]] == LORA_PATHS.split(", ")
    assert max(map(len, lines)) <= 80


def test_a_plan_in_minutes_does_not_know_its_steps():
    lines = shown(show_plan, plan(steps=None, tokens=None, seconds=None, passes={}))
    assert lines[1] == "  draws: a 25.0 %, b 75.0 %"
    assert lines[2] == "  ? steps, ? tokens, about 1.0 GiB of memory and ?"


def test_a_plan_in_chinese(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WEFT_LANG", "zh")
    lines = shown(show_plan, plan())
    assert lines[0] == "阶段 one，起点 base：lora"
    assert lines[1] == "  抽样：a 25.0 %（123 遍）, b 75.0 %（1.00 遍）"


def scores() -> EvalReport:
    accuracy = Score(metric="accuracy", value=0.9, low=0.8, high=0.95, n=1500, baseline=0.5)
    rmse = Score(
        metric="rmse", value=1.5, low=1.25, high=2, n=9, baseline=3, higher_is_better=False, best=0.0
    )
    tasks = (
        TaskReport(task="mood", kind="classification", split="test", scores=(accuracy, accuracy)),
        TaskReport(task="grade", kind="regression", split="dev", scores=(rmse,)),
    )
    return EvalReport(split="test", tasks=tasks, selection=0.5)


def test_scores_name_a_task_once():
    lines = shown(show_scores, scores())
    assert lines[1].split() == "mood test accuracy 90.0 [80.0, 95.0] 50.0 1,500".split()
    assert lines[2].split() == "accuracy 90.0 [80.0, 95.0] 50.0 1,500".split()
    assert lines[3].split() == "grade dev rmse 1.50 [1.25, 2.00] 3.00 9".split()


def test_in_short_has_the_primary_scores():
    assert in_short(scores().tasks) == "mood accuracy 90.0  grade rmse 1.50"


def test_examples_have_a_column_where_rows_give_several(monkeypatch: pytest.MonkeyPatch):
    report = data(split("train", {}, examples=34_567), split("dev", {}))
    lines = shown(show_data, report)
    assert lines[0].split() == "task split read used examples tokens cut twice dropped labels".split()
    assert lines[1].split()[:6] == "mood train 1,200 1,100 34,567 32".split()
    assert lines[2].split()[:5] == "dev 1,200 1,100 1,100 32".split()
    monkeypatch.setenv("WEFT_LANG", "zh")
    assert "样本" in shown(show_data, report)[0]


@pytest.mark.parametrize(("language", "word"), [("en", "perplexity"), ("zh", "困惑度")])
def test_perplexity_stands_beside_scores_that_choose_nothing(
    language: str, word: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WEFT_LANG", language)
    score = Score(metric="exact_match", value=0.1, low=0.0, high=0.2, n=9, baseline=0.0)
    task = TaskReport(task="tales", kind="generation", split="dev", scores=(score,), loss=2.0)
    chosen = task.model_copy(update={"is_chosen_by_loss": True})
    report = EvalReport(split="dev", tasks=(chosen, task), selection=0.3)
    lines = shown(show_scores, report)
    assert lines[2].split() == [word, "7.39", "–", "–"]
    assert len(lines) == 4
    assert in_short([chosen]) == f"tales loss 2.00 {word} 7.39 exact_match 10.0"
    assert word not in in_short([task])
    assert chosen.model_copy(update={"loss": 1e9}).perplexity == float("inf")
