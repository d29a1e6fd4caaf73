"""A run as it could have been: three tasks, two stages in a chain and one beside them, numbers of believable size."""

from __future__ import annotations

import math

import pytest

from weft.report.records import (
    DataReport,
    EvalReport,
    GroupRow,
    RunReport,
    Score,
    SplitReport,
    StagePlan,
    StageReport,
    StepReport,
    TaskDataReport,
    TaskReport,
)

KINDS = {"sentiment": "classification", "similarity": "regression", "entities": "tagging"}
METRICS = {"sentiment": "accuracy", "similarity": "pearson", "entities": "span_f1"}
BASELINES = {"sentiment": 0.509, "similarity": 0.0, "entities": 0.0}
CEILINGS = {"sentiment": 0.91, "similarity": 0.84, "entities": 0.87}
ROWS = {"sentiment": 872, "similarity": 1500, "entities": 800}


def make_score(name: str, value: float, *, n: int | None = None) -> Score:
    n = ROWS[name] if n is None else n
    half = 1.96 * math.sqrt(max(value * (1 - value), 0.01) / n)
    return Score(
        metric=METRICS[name],
        value=value,
        low=max(value - half, 0.0),
        high=min(value + half, 1.0),
        n=n,
        baseline=BASELINES[name],
    )


def make_evaluation(stage: str, step: int, values: dict[str, float], *, epoch: float) -> EvalReport:
    tasks = tuple(
        TaskReport(
            task=name, kind=KINDS[name], split="dev", scores=(make_score(name, value),), loss=1 - value
        )
        for name, value in values.items()
    )
    return EvalReport(
        split="dev", tasks=tasks, selection=0.8, step=step, epoch=epoch, stage=stage, seconds=3.1
    )


def make_curve(stage: str, steps: int, start: dict[str, float], *, lr: float) -> tuple[StepReport, ...]:
    found = []
    for step in range(10, steps + 1, 10):
        wobble = 0.04 * math.sin(step * 1.7)
        losses = {name: loss * (0.25 + 0.75 * math.exp(-step / 120)) + wobble for name, loss in start.items()}
        found.append(
            StepReport(
                stage=stage,
                step=step,
                epoch=step / 140,
                lr=lr * (1 - step / (steps + 1)),
                losses=losses,
                grad_norm=0.8 + wobble,
                examples=320,
                tokens=9000,
                padded_tokens=9400,
                seconds=1.2,
            )
        )
    return tuple(found)


def make_plan(
    name: str, parent: str, strategy: str, tasks: dict[str, float], *, trained: int, steps: int
) -> StagePlan:
    table = (
        GroupRow(
            paths="embeddings.{word,position,segment}.weight, embeddings.norm.{weight,bias}",
            num_tensors=5,
            num_values=11_918_208,
            role="frozen",
            owner="trunk",
            why="no rule trains it",
            lr=0.0,
        ),
        GroupRow(
            paths="layers.{0-5}.attention.{query,key,value,output}.{weight,bias}, layers.{0-5}.ffn.{up,down}.{weight,bias}",
            num_tensors=72,
            num_values=10_646_784,
            role="frozen" if trained < 5_000_000 else "trained",
            owner="trunk",
            why="rule 1: all -> lora" if trained < 5_000_000 else "rule 1: all -> full",
            lr=0.0 if trained < 5_000_000 else 1e-5,
        ),
        GroupRow(
            paths="layers.{0-5}.attention.{query,value}.lora_{A,B}.together",
            num_tensors=24,
            num_values=73_728,
            role="trained",
            owner="adapter:together",
            why="rule 1: all -> lora",
            lr=2e-4,
        ),
        GroupRow(
            paths="heads.{sentiment,similarity,entities}.out.{weight,bias}",
            num_tensors=6,
            num_values=4_620,
            role="trained",
            owner="head:sentiment",
            why="heads are trained",
            lr=1.5e-4,
        ),
    )
    return StagePlan(
        name=name,
        parent=parent,
        strategy=strategy,
        carry={"trunk": "merge", "heads": "keep", "optimizer": "fresh"} if parent != "base" else {},
        tasks=tasks,
        passes=dict.fromkeys(tasks, 3.0),
        table=table,
        num_trained=trained,
        num_values=22_713_216,
        steps=steps,
        examples=steps * 32,
        tokens=steps * 32 * 28,
        memory_bytes=1_300_000_000,
        seconds=95.0,
        notes=("dropout is 0: attention runs eager on this CPU",) if parent == "base" else (),
    )


def make_stage(plan: StagePlan, *, entry: float | None, levels: tuple[float, ...], best: int) -> StageReport:
    steps = plan.steps or 0
    evaluations = tuple(
        make_evaluation(
            plan.name,
            round(steps * (at + 1) / len(levels)),
            {
                name: CEILINGS[name] * level
                for name, level in zip(plan.tasks, (level, level * 0.99, level * 0.97), strict=False)
            },
            epoch=at + 1.0,
        )
        for at, level in enumerate(levels)
    )
    tokens = steps * 32 * 28
    return StageReport(
        name=plan.name,
        parent=plan.parent,
        plan=plan,
        steps=steps,
        epochs=float(len(levels)),
        examples={name: round(steps * 32 * share) for name, share in plan.tasks.items()},
        tokens=tokens,
        padded_tokens=round(tokens * 1.043),
        skipped=0,
        seconds=92.4,
        seconds_evaluating=8.3,
        peak_memory_bytes=1_288_490_188,
        entry_difference=entry,
        best_step=evaluations[best].step,
        stopped="length",
        curve=make_curve(plan.name, steps, {n: 0.3 + 0.35 * i for i, n in enumerate(plan.tasks, 1)}, lr=2e-4),
        evaluations=evaluations,
    )


def make_split(split: str, used: int, *, labels: dict[str, int]) -> SplitReport:
    return SplitReport(
        split=split,
        sources=(f"data/{split}.csv",),
        read=used + 14,
        used=used,
        dropped={"no label": 11, "empty text": 3},
        labels=labels,
        tokens_mean=24.6,
        tokens_p95=52,
        tokens_max=256,
        cut_share=0.0031,
        duplicates=7,
    )


def make_data() -> DataReport:
    labels = {
        "sentiment": {"positive": 2610, "negative": 2390},
        "similarity": {},
        "entities": {"O": 40123, "PER": 1870, "LOC": 1650, "ORG": 1492, "MISC": 803},
    }
    return DataReport(
        tasks=tuple(
            TaskDataReport(
                task=name,
                kind=kind,
                columns={"text": "sentence", "label": "label"},
                splits=(
                    make_split("train", 5000, labels=labels[name]),
                    make_split("dev", ROWS[name], labels={}),
                    make_split("test", ROWS[name], labels={}),
                ),
                overlap={"train/dev": 2, "train/test": 0},
                shared_with={"similarity": 310} if name == "sentiment" else {},
            )
            for name, kind in KINDS.items()
        ),
        warnings=("sentiment: 2 dev texts are training texts too; dev scores flatter a little.",),
    )


def make_report() -> RunReport:
    shares = {"sentiment": 0.4, "similarity": 0.35, "entities": 0.25}
    together = make_plan("together", "base", "lora", shares, trained=78_348, steps=420)
    expert = make_plan("expert", "together", "full", {"entities": 1.0}, trained=10_725_132, steps=160)
    final = tuple(
        TaskReport(
            task=name,
            kind=kind,
            split="dev" if name == "similarity" else "test",
            scores=(
                make_score(name, CEILINGS[name]),
                Score(
                    metric="rmse",
                    value=0.521,
                    low=0.49,
                    high=0.553,
                    n=ROWS[name],
                    baseline=1.48,
                    higher_is_better=False,
                    best=0.0,
                ),
            )
            if name == "similarity"
            else (make_score(name, CEILINGS[name]),),
        )
        for name, kind in KINDS.items()
    )
    return RunReport(
        weft="0.1.0",
        name="quickstart",
        digest="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        seed=0,
        model="minilm",
        data=make_data(),
        stages=(
            make_stage(together, entry=None, levels=(0.82, 0.94, 0.99), best=2),
            make_stage(expert, entry=3.1e-7, levels=(0.985, 1.0, 0.992), best=1),
        ),
        final=(EvalReport(split="test", tasks=final, selection=0.86, step=160, stage="expert"),),
        environment={
            "python": "3.11.9",
            "torch": "2.13.0+cpu",
            "transformers": "5.23.0",
            "platform": "Linux x86_64",
            "threads": "2",
            "precision": "bf16",
        },
        finished=True,
        seconds=221.4,
    )


@pytest.fixture
def report() -> RunReport:
    return make_report()
