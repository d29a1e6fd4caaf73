"""Bundles on one trunk answer in one mixed batch what each answers alone, or are refused with one clear error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.core.example import Answer, Dropped
from weft.errors import ExportError, NameInvalidError
from weft.evaluate.ask import Questions, ask, from_texts
from weft.export.bundle import Bundle
from weft.export.fleet import Fleet, Member, open_fleet
from weft.recipe.spec import Precision

Made = Any  # tests/export/conftest.py
Make = Callable[..., Made]
CPU = torch.device("cpu")
LORA = {"strategy": "lora"}
KEEP = {"carry": {"trunk": "stack"}}


def fleet(*members: Member) -> Fleet:
    return open_fleet(members, device=CPU, precision=Precision.FP32)


def put(opened: Fleet | Bundle, questions: Questions) -> list[dict[str, Answer | Dropped]]:
    return ask(
        opened.network, opened.tasks, opened.tokenizer, questions.rows, budget=512, dtype=torch.float32
    )


def assert_equal(ours: Answer | Dropped, theirs: Answer | Dropped) -> None:
    assert isinstance(ours, Answer)
    assert isinstance(theirs, Answer)
    assert (ours.label, ours.tags, ours.spans, ours.text) == (theirs.label, theirs.tags, theirs.spans, theirs.text)  # fmt: skip
    numbers = [[one.value or 0.0, *(one.probabilities or {}).values()] for one in (ours, theirs)]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)


def assert_like_each_alone(together: Fleet, alone: Mapping[str, Bundle], texts: Sequence[str]) -> None:
    """The fleet answers as the bundle at each prefix, and mixed rows differ between bundles: else nothing is shown."""
    mixed = put(together, from_texts(together.tasks, texts, None))
    for prefix, bundle in alone.items():
        for row, apart in zip(mixed, put(bundle, from_texts(bundle.tasks, texts, None)), strict=True):
            for name, answer in apart.items():
                assert_equal(row[f"{prefix}{name}"], answer)


@pytest.fixture(scope="module")
def trio(make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any]) -> dict[str, Made]:
    """Return three bundles on one base: a LoRA, two LoRAs on each other, and heads alone."""
    mood = {"mood": encoder_tasks["mood"]}
    words = {"names": encoder_tasks["names"], "topics": encoder_tasks["topics"]}
    return {
        "a": make(tiny_bert, mood, {"strategy": [{"train": "lora", "rank": 2}, {"sites": "heads", "train": "full"}]}),
        "b": make(tiny_bert, {**mood, **words}, LORA, {**LORA, **KEEP}),
        "c": make(tiny_bert, {"mood": encoder_tasks["mood"]}, {"strategy": "head"}),
    }  # fmt: skip


def test_a_fleet_answers_as_each_bundle_alone(trio: dict[str, Made], sentences: list[str]):
    together = fleet(*(Member(made.folder, name) for name, made in trio.items()))
    assert list(together.tasks) == ["a-mood", "b-mood", "b-names", "b-topics", "c-mood"]
    assert set(together.network.routes) == {"a-mood", "b-mood", "b-names", "b-topics"}
    assert len(set(together.network.routes.values())) == 2
    bundles = {f"{name}-": made.open() for name, made in trio.items()}
    assert_like_each_alone(together, bundles, sentences[:40])
    (row,) = put(together, from_texts(together.tasks, sentences[:1], None))
    moods = [tuple(row[f"{name}-mood"].probabilities.values()) for name in trio]
    assert len(set(moods)) == 3


def test_equal_texts_pass_once_for_each_adapter(trio: dict[str, Made], sentences: list[str]):
    together = fleet(*(Member(made.folder, name) for name, made in trio.items()))
    rows: list[int] = []
    together.network.trunk.register_forward_pre_hook(lambda _, args: rows.append(args[0].layout.num_rows))
    put(together, from_texts(together.tasks, sentences[:3] * 2, None))
    assert sum(rows) == 3 * 3


def test_a_part_of_an_adapter_for_each_task_joins_a_fleet(
    trio: dict[str, Made], make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any], sentences: list[str]
):
    tasks = {name: encoder_tasks[name] for name in ("mood", "names")}
    made = make(tiny_bert, tasks, LORA, {"strategy": "mtl-lora", **KEEP})
    assert made.open().network.routes == {"mood": ("stage1/mood",), "names": ("stage1/names",)}
    together = fleet(Member(made.folder, "m"), Member(trio["a"].folder, "a"))
    assert together.network.routes == {
        "m-mood": ("bundle-0",),
        "m-names": ("bundle-0-1",),
        "a-mood": ("bundle-1",),
    }
    assert_like_each_alone(together, {"m-": made.open(), "a-": trio["a"].open()}, sentences[:20])


def test_a_decoder_that_generates(make: Make, stories260k: Path, decoder_tasks: dict[str, Any]):
    reply = {"reply": decoder_tasks["reply"], "mood": decoder_tasks["mood"]}
    top = {
        "strategy": [{"sites": "layers[2:]", "train": "lora", "rank": 3}, {"sites": "heads", "train": "full"}]
    }
    one, two = make(stories260k, reply, LORA), make(stories260k, {"mood": decoder_tasks["mood"]}, top)
    together = fleet(Member(one.folder), Member(two.folder, "other"))
    texts = ["once upon a time", "the big dog", "lily"]
    assert_like_each_alone(together, {"": one.open(), "other-": two.open()}, texts)
    said = [row["reply"].text for row in put(together, from_texts(together.tasks, texts, None))]
    plain = open_fleet([Member(two.folder)], device=CPU, precision=Precision.FP32)
    assert plain.network.routes == {"mood": ("bundle-0",)}
    assert all(isinstance(text, str) for text in said)


def test_one_trunk_that_was_trained_before_is_shared(make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any]):  # fmt: skip
    tasks = {"mood": encoder_tasks["mood"]}
    stages = ({"strategy": "full"}, {**LORA, "carry": {"trunk": "merge"}})
    made = make(tiny_bert, tasks, *stages)
    assert made.parts.delta
    together = fleet(Member(made.folder), Member(made.folder, "twin"))
    assert list(together.tasks) == ["mood", "twin-mood"]
    assert_like_each_alone(together, {"": made.open(), "twin-": made.open()}, ["mary likes london"])


def test_bundles_with_several_methods_for_each_task_join_a_fleet(
    trio: dict[str, Made], make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any], sentences: list[str]
):
    tasks = {name: encoder_tasks[name] for name in ("mood", "names")}
    both = [
        {"sites": "attention", "train": "lora", "rank": 3, "per_task": True},
        {"train": "adapter", "form": "parallel", "size": 4, "per_task": True},
    ]
    made = make(tiny_bert, tasks, {"strategy": both})
    assert made.open().network.routes == {
        task: (f"stage0-lora-{task}", f"stage0-adapter-{task}") for task in tasks
    }
    together = fleet(Member(made.folder, "m"), Member(trio["a"].folder, "a"))
    assert together.network.routes["m-names"] == ("bundle-0-1-lora", "bundle-0-1-adapter")
    assert_like_each_alone(together, {"m-": made.open(), "a-": trio["a"].open()}, sentences[:20])


def test_an_adapter_that_acts_on_all_rows_is_asked_alone(
    trio: dict[str, Made], make: Make, tiny_bert: Path, encoder_tasks: dict[str, Any]
):
    made = make(tiny_bert, {"mood": encoder_tasks["mood"]}, {"strategy": "dora"})
    with pytest.raises(ExportError, match=r"stage0 \(dora\) acts on all rows. Ask this bundle on its own"):
        fleet(Member(made.folder, "d"), Member(trio["c"].folder, "c"))
    assert_like_each_alone(fleet(Member(made.folder, "d")), {"d-": made.open()}, ["mary likes london"])


def test_two_tasks_of_one_name_are_refused(trio: dict[str, Made]):
    with pytest.raises(ExportError, match=r"but mood is in both.*NAME="):
        fleet(Member(trio["a"].folder), Member(trio["b"].folder))
    assert list(fleet(Member(trio["a"].folder), Member(trio["b"].folder, "b")).tasks)[:2] == ["mood", "b-mood"]  # fmt: skip
    with pytest.raises(NameInvalidError):
        fleet(Member(trio["a"].folder, "../up"))


def test_a_trunk_of_its_own_is_refused(trio: dict[str, Made], merged_bert: Made):
    with pytest.raises(ExportError, match=r"must have the trunk of .*, but .* is another"):
        fleet(Member(trio["c"].folder, "c"), Member(merged_bert.folder))


def test_another_base_is_refused(trio: dict[str, Made], adapter_llama: Made):
    with pytest.raises(ExportError, match=r"must stand on the base model of"):
        fleet(Member(trio["a"].folder, "a"), Member(adapter_llama.folder))


def test_other_lengths_are_refused(trio: dict[str, Made], tmp_path: Path):
    folder = shutil.copytree(trio["a"].folder, tmp_path / "bundle")
    record = json.loads((folder / "weft.json").read_text())
    (folder / "weft.json").write_text(json.dumps({**record, "max_tokens": 32}))
    with pytest.raises(ExportError, match=r"must cut texts at 64 tokens .*, but cuts at 32"):
        fleet(Member(trio["a"].folder), Member(folder, "short"))


def test_no_bundle_is_refused(tmp_path: Path):
    with pytest.raises(ExportError, match="at least one"):
        fleet()
    with pytest.raises(ExportError, match=r"no weft\.json"):
        fleet(Member(tmp_path))
