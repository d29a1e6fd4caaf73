"""The model card: YAML that the Hub reads, and every measured number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from weft.export.card import model_card
from weft.model.folder import ModelFolder
from weft.report.records import (
    DataReport,
    EvalReport,
    RunReport,
    Score,
    SplitReport,
    StagePlan,
    StageReport,
    TaskDataReport,
    TaskReport,
)
from weft.task.registry import FAMILIES

BASE = ModelFolder(path=Path("somewhere"), name='an "odd": name', digest="0" * 64, config={})


def score(metric: str, value: float, **others: Any) -> Score:
    values = {"low": value - 0.05, "high": value + 0.05, "n": 1234, "baseline": 0.5} | others
    return Score(metric=metric, value=value, **values)


def report(*tasks: TaskReport) -> RunReport:
    plan = StagePlan(
        name="one", parent="base", strategy="lora", carry={}, tasks={}, passes={}, table=(), num_trained=1500,
        num_values=60_000, steps=10, examples=1, tokens=1, memory_bytes=1, seconds=1.0,
    )  # fmt: skip
    stage = StageReport(
        name="one", parent="base", plan=plan, steps=1000, epochs=1, examples={}, tokens=1, padded_tokens=1, skipped=0,
        seconds=1, seconds_evaluating=1, peak_memory_bytes=1, entry_difference=None, best_step=7, stopped="length",
        curve=(), evaluations=(),
    )  # fmt: skip
    split = SplitReport(
        split="train", sources=("a.csv",), read=2000, used=1999, dropped={"no label": 1}, labels={}, tokens_mean=1,
        tokens_p95=1, tokens_max=1, cut_share=0, duplicates=0,
    )  # fmt: skip
    data = TaskDataReport(
        task="mood", kind="classification", columns={"text": "review"}, splits=(split,), overlap={}
    )
    return RunReport(
        weft="9.9", name="runs-name", digest="abcdef0123456789", seed=5, model="m",
        data=DataReport(tasks=(data,), warnings=("mood: odd.",)), stages=(stage,),
        final=(EvalReport(split="test", tasks=tasks, selection=0.5),), environment={}, finished=True, seconds=1,
    )  # fmt: skip


def task_report(split: str) -> TaskReport:
    rmse = score("rmse", 0.25, higher_is_better=False, best=0.0, low=0.2, high=0.3)
    return TaskReport(task="mood", kind="classification", split=split, scores=(score("accuracy", 0.9), rmse))


@pytest.fixture
def tasks() -> dict[str, Any]:
    config = {
        "columns": {"text": "text", "pair": None, "label": "label"},
        "labels": ["a", "b"],
        "multi_label": False,
        "threshold": 0.5,
        "pooling": None,
    }
    return {name: FAMILIES["classification"].from_config(name, config) for name in ("mood", "other")}


def test_metadata_is_yaml_that_says_what_the_hub_asks(tasks: dict[str, Any]):
    card = model_card(report(task_report("test")), BASE, tasks)
    _, head, _ = card.split("---\n", 2)
    assert YAML(typ="safe").load(head) == {
        "base_model": 'an "odd": name',
        "base_model_relation": "finetune",
        "library_name": "weft",
        "pipeline_tag": "text-classification",
        "tags": ["weft"],
        "metrics": ["accuracy"],
    }


def test_several_tasks_are_tagged_so(tasks: dict[str, Any]):
    other = task_report("test").model_copy(update={"task": "other"})
    card = model_card(report(task_report("test"), other), BASE, tasks)
    assert YAML(typ="safe").load(card.split("---\n", 2)[1])["tags"] == ["weft", "multi-task"]
    assert "Answers 2 task(s) on one trunk" in card


def test_every_score_has_interval_baseline_and_n(tasks: dict[str, Any]):
    lines = model_card(report(task_report("test")), BASE, tasks).splitlines()
    assert "| mood | classification | test | accuracy | 90.0 [85.0, 95.0] | 50.0 | 1,234 |" in lines
    assert "| mood | classification | test | rmse | 0.250 [0.200, 0.300] | 0.500 | 1,234 |" in lines


def test_scores_on_dev_are_called_optimistic(tasks: dict[str, Any]):
    warning = "are optimistic: the best checkpoint was chosen on it"
    assert warning in model_card(report(task_report("dev")), BASE, tasks)
    assert warning not in model_card(report(task_report("test")), BASE, tasks)


def test_stages_data_and_use(tasks: dict[str, Any]):
    card = model_card(report(task_report("test")), BASE, tasks)
    assert "- **one** (from base): lora; 1,000 steps, 1,500 of 60,000 parameters trained (2.5 %)" in card
    assert "- **mood**: 1,999 train rows; text in `review`" in card
    assert "- Warning: mood: odd." in card
    assert "weft predict <this folder>" in card
    assert "made by Weft 9.9" in card
    assert "(recipe abcdef012345, seed 5)" in card
