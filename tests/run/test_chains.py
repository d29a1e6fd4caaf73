"""Chains of stages that people run, each from one file to one bundle."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from weft.core.example import Purpose
from weft.core.network import Inference
from weft.export.bundle import open_bundle, put_parts
from weft.export.fleet import Member, open_fleet
from weft.export.parts import load_parts
from weft.export.plain import export_plain
from weft.recipe.spec import Precision
from weft.run.probe import TOLERANCE
from weft.task.batching import make_batch

CPU = torch.device("cpu")
EXPERTS = "shared, then an expert for each task"
NAMES = (
    "full, then LoRA",
    "LoRA, merged, then full",
    "an adapter frozen under a new one",
    "general, domain, task",
    EXPERTS,
    "two branches averaged, then trained",
)


@pytest.fixture(scope="module")
def made(little: ModuleType, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return a function from a chain's name to the folder of its run, made once."""
    known: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in known:
            home = tmp_path_factory.mktemp("chain")
            little.run(little.write_job(home, tiny_bert, little.chain(name)), home / "run")
            known[name] = home / "run"
        return known[name]

    return make


def logits(network, task, texts, tokenizer):
    """Return what ``task`` says of ``texts``, each row through its own adapters."""
    rows = task.encode([task.ask(text, None) for text in texts], tokenizer, Purpose.ANSWER)
    batch = make_batch([(task.name, row) for row in rows], {task.name: task}, pad=tokenizer.pad, packed=True)
    with torch.inference_mode():
        return Inference(network, batch).outputs(task.name).float()


TEXTS = ["the film 7 is happy", "john works in berlin", "mary is sad", "what a great city"]


def test_every_chain_is_run(little: ModuleType) -> None:
    assert tuple(little.CHAINS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_chain_runs_from_one_file_to_one_bundle(little: ModuleType, made, name: str) -> None:
    run = made(name)
    report = little.report_of(little.resume(run))
    parented = [stage for stage in report.stages if isinstance(stage.parent, str) and stage.parent != "base"]
    assert all(stage.steps == little.CHAIN_STEPS for stage in report.stages)
    differences = [stage.entry_difference for stage in parented if stage.entry_difference is not None]
    assert len(differences) == len(report.stages) - (2 if "averaged" in name else 1)
    assert max(differences) <= TOLERANCE
    assert {task.task for task in report.final[0].tasks} == {"mood", "names"}
    bundle = open_bundle(run, device=CPU, precision=Precision.FP32)
    assert list(bundle.tasks) == ["mood", "names"]
    view = bundle.base.sites(bundle.base.network({}, device=torch.device("meta"))).view
    last = load_parts(run / "stages" / report.stages[-1].name / "final", view)
    if name != EXPERTS:
        assert [one.name for one in bundle.parts.adapters] == [one.name for one in last.adapters]
        assert set(bundle.parts.delta) == set(last.delta)


def test_each_task_is_answered_by_its_own_expert(little: ModuleType, made, tmp_path: Path) -> None:
    run = made(EXPERTS)
    bundle = open_bundle(run, device=CPU, precision=Precision.FP32)
    assert [(one.name, one.method, one.tasks) for one in bundle.parts.adapters] == [
        ("shared", "lora", ()),
        ("moods", "lora", ("mood",)),
        ("tags", "ia3", ("names",)),
    ]
    base = bundle.base
    view = base.sites(base.network({}, device=torch.device("meta"))).view
    for stage, task in (("moods", "mood"), ("tags", "names")):
        parts = load_parts(run / "stages" / stage / "final", view)
        network = base.network({task: bundle.tasks[task] for task in parts.heads}, device=CPU)
        put_parts(base, network, parts)
        ours, theirs = (
            logits(one, bundle.tasks[task], TEXTS, bundle.tokenizer) for one in (bundle.network, network)
        )
        assert torch.allclose(ours, theirs, atol=1e-6)
        other = "names" if task == "mood" else "mood"
        stray = logits(network, bundle.tasks[other], TEXTS, bundle.tokenizer)
        right = logits(bundle.network, bundle.tasks[other], TEXTS, bundle.tokenizer)
        assert not torch.allclose(stray, right, atol=1e-4), "one branch does not answer the other's task"
    fleet = open_fleet([Member(run)], device=CPU, precision=Precision.FP32)
    for task in ("mood", "names"):
        found = logits(fleet.network, fleet.tasks[task], TEXTS, fleet.tokenizer)
        assert torch.allclose(
            found, logits(bundle.network, bundle.tasks[task], TEXTS, bundle.tokenizer), atol=1e-5
        )
    exported = export_plain(bundle, tmp_path, tasks=["mood", "names"])
    assert [one.folder.name for one in exported] == ["mood", "names", "mood-adapter"]
