"""Bundles of tiny networks: entered like a run's stages, shaken instead of trained, so that all weights matter."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from weft.build.opened import open_all
from weft.build.stage import enter
from weft.core.network import Network
from weft.core.parts import Parts
from weft.core.table import Role
from weft.export.bundle import Bundle, open_bundle, write_bundle
from weft.recipe.spec import Precision

CPU = torch.device("cpu")
SUBJECTS = ("the cat", "a dog", "john smith", "mary", "the film", "a book", "paris", "the old man")
VERBS = ("likes", "hates", "eats", "runs to", "sleeps in", "is")
OBJECTS = ("london", "the movie", "a good story", "bad food", "germany", "very happy", "sad", "not poor")
SENTENCES = [f"{a} {b} {c}" for a in SUBJECTS for b in VERBS for c in OBJECTS]

ENCODER_TASKS: dict[str, dict[str, object]] = {
    "mood": {"kind": "classification", "train": "mood.csv"},
    "topics": {"kind": "classification", "train": "topics.csv", "multi_label": True},
    "grade": {"kind": "regression", "train": "grade.csv"},
    "match": {"kind": "regression", "train": "match.csv"},
    "names": {"kind": "tagging", "train": "names.jsonl"},
}
DECODER_TASKS: dict[str, dict[str, object]] = {
    "mood": {"kind": "classification", "train": "mood.csv"},
    "names": {"kind": "tagging", "train": "names.jsonl"},
    "reply": {"kind": "generation", "train": "reply.jsonl", "max_new_tokens": 8},
}


def write_data(folder: Path) -> None:
    """Write one file for each task, 40 rows each."""
    sentences = SENTENCES[::9][:40]
    tables = {
        "mood": [{"text": s, "label": ("sad", "happy", "calm")[i % 3]} for i, s in enumerate(sentences)],
        "topics": [{"text": s, "label": ("a", "a|b", "b|c")[i % 3]} for i, s in enumerate(sentences)],
        "grade": [{"text": s, "score": i % 7 / 2} for i, s in enumerate(sentences)],
        "match": [{"text1": s, "text2": sentences[-i], "score": i % 5 / 4} for i, s in enumerate(sentences)],
    }
    tables["stars"] = [{"text": s, "stars": 1 + i % 4} for i, s in enumerate(sentences)]
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    words = [sentence.split() for sentence in sentences]
    tagged = [
        {"tokens": row, "tags": ["B-X", *["I-X", "O", "O", "O", "O", "O"][: len(row) - 1]]} for row in words
    ]
    replies = [{"instruction": f"who is {s}?", "output": s.split()[0]} for s in sentences]
    picks = [
        {"premise": s, "choices": [sentences[-i], s[:9], OBJECTS[i % 8]][: 2 + i % 2], "label": i % 2}
        for i, s in enumerate(sentences)
    ]
    asked = [
        {
            "question": f"who {s.split()[-1]}?",
            "context": f"{s} and {s[::-1]}",
            "answers": [s] if i % 3 else [],
        }
        for i, s in enumerate(sentences)
    ]
    for name, lines in (("names", tagged), ("reply", replies), ("pick", picks), ("asked", asked)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Made:
    """A bundle on disk, the network that it was made of, and its parts."""

    folder: Path
    network: Network
    parts: Parts

    def open(self) -> Bundle:
        return open_bundle(self.folder, device=CPU, precision=Precision.FP32)


Make = Callable[..., Made]


@pytest.fixture(scope="session")
def encoder_tasks() -> dict[str, dict[str, object]]:
    """Return one task of each kind that an encoder can do."""
    return ENCODER_TASKS


@pytest.fixture(scope="session")
def decoder_tasks() -> dict[str, dict[str, object]]:
    """Return one task of each form that a decoder can do."""
    return DECODER_TASKS


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """Return a hundred sentences that no tiny model has seen."""
    return SENTENCES[1::3][:100]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that makes a bundle: model folder, tasks by name, stages (as in a recipe, without length)."""

    def build(model: Path, tasks: dict[str, dict[str, object]], *stages: dict[str, object]) -> Made:
        root = tmp_path_factory.mktemp("made")
        write_data(root)
        recipe = {
            "model": {"path": str(model), "max_tokens": 64},
            "tasks": tasks,
            "stages": [{"name": f"stage{i}", "length": "1 epoch", **stage} for i, stage in enumerate(stages)],
        }
        (root / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
        opened = open_all(root / "recipe.yaml")
        parts, network = Parts(), None
        for index, stage in enumerate(opened.recipe.stages):
            entered = enter(
                opened.recipe, stage, base=opened.base, tasks=opened.data.fitted, parts=parts, device=CPU
            )
            shake(
                dict(entered.sites.parameters()),
                {r.path for r in entered.table if r.role is Role.TRAINED},
                index,
            )
            parts, network = entered.leave(), entered.network.eval()
        assert network is not None
        write_bundle(
            root / "bundle",
            parts,
            base=opened.base,
            model=opened.recipe.model,
            tokenizer=opened.tokenizer,
            about={"recipe": "0" * 64},
        )
        return Made(root / "bundle", network, parts)

    return build


def shake(parameters: dict[str, torch.nn.Parameter], trained: set[str], seed: int) -> None:
    """Move every trained parameter, heads most: what is lost or mixed up must show in the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path in sorted(trained):
            size = 0.5 if path.startswith("heads.") else 0.05
            value = parameters[path]
            value += size * torch.randn(value.shape, generator=generator)


@pytest.fixture(scope="session")
def merged_bert(make: Make, tiny_bert: Path) -> Made:
    """Return a bundle of all encoder tasks after full training: a delta, no adapter."""
    return make(tiny_bert, ENCODER_TASKS, {"strategy": "full"})


@pytest.fixture(scope="session")
def adapter_bert(make: Make, tiny_bert: Path) -> Made:
    """Return a bundle of all encoder tasks after LoRA: one adapter on the bare base."""
    return make(tiny_bert, ENCODER_TASKS, {"strategy": "lora"})


@pytest.fixture(scope="session")
def peft_bert(make: Make, tiny_bert: Path) -> Made:
    """Return a bundle of one task after VeRA, a tuner of PEFT whose projections all sites share."""
    rule = {"train": "peft", "method": "VERA", "options": {"r": 8, "d_initial": 1.0}}
    return make(tiny_bert, {"mood": ENCODER_TASKS["mood"]}, {"strategy": [rule], "lr": 1e-2})


@pytest.fixture(scope="session")
def adapter_llama(make: Make, stories260k: Path) -> Made:
    """Return a bundle of decoder tasks: some layers trained, then a LoRA on top of the changed trunk."""
    stages = ({"strategy": "top 2"}, {"strategy": "lora", "carry": {"trunk": "merge"}})
    return make(stories260k, DECODER_TASKS, *stages)
