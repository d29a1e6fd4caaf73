"""A bundle opened computes bit by bit what was written; one that was tampered with is refused with one clear error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from weft.errors import ExportError, ModelError, WeftError
from weft.export.bundle import open_bundle
from weft.export.proof import probe_batch, weft_logits

Made = Any  # tests/export/conftest.py
Tasks = dict[str, dict[str, Any]]
LORA = {"strategy": "lora"}


def assert_same(made: Made) -> None:
    """The network that was written and the one that was opened give equal logits, bit by bit."""
    bundle = made.open()
    batch = probe_batch(bundle)
    assert list(bundle.tasks) == list(made.parts.heads)
    for name, task in bundle.tasks.items():
        ours, theirs = (weft_logits(network, task, batch) for network in (bundle.network, made.network))
        assert torch.equal(ours, theirs), name
        assert ours.std() > 1e-3, "logits that do not differ prove nothing"


@pytest.mark.parametrize(
    "stages",
    [
        pytest.param([{"strategy": "full"}], id="delta"),
        pytest.param([LORA], id="adapter"),
        pytest.param([LORA, {**LORA, "carry": {"trunk": "merge"}}], id="merged-then-adapter"),
        pytest.param([LORA, {"strategy": "head", "carry": {"trunk": "merge"}}], id="merged"),
        pytest.param([LORA, {**LORA, "carry": {"trunk": "stack"}}], id="stacked"),
        pytest.param([{"strategy": "head"}], id="heads-only"),
        pytest.param([{"strategy": "prompt"}], id="prompt"),
        pytest.param(
            [{"strategy": "ptuning-v2"}, {"strategy": "top 1", "carry": {"trunk": "stack"}}], id="prefix"
        ),
        pytest.param([{"strategy": "prefix"}], id="prefix-projected"),
        pytest.param([{"strategy": "llama-adapter"}], id="prefix-gated"),
    ],
)
def test_opened_equals_written(
    make: Callable[..., Made], tiny_bert: Path, encoder_tasks: Tasks, stages: list[dict[str, Any]]
):
    assert_same(make(tiny_bert, encoder_tasks, *stages))


def test_opened_equals_written_on_a_decoder(adapter_llama: Made, decoder_tasks: Tasks):
    assert_same(adapter_llama)
    bundle = adapter_llama.open()
    assert bundle.parts.delta
    assert len(bundle.parts.adapters) == 1
    assert list(bundle.tasks) == list(decoder_tasks)


def test_parts_and_tasks_come_back_as_they_were(merged_bert: Made):
    bundle = merged_bert.open()
    assert bundle.parts.delta.keys() == merged_bert.parts.delta.keys()
    for path, value in merged_bert.parts.delta.items():
        assert torch.equal(bundle.parts.delta[path], value), path
    for name, head in merged_bert.parts.heads.items():
        assert bundle.tasks[name].config() == head.config


def test_a_run_folder_opens_its_bundle(merged_bert: Made):
    assert open_bundle(merged_bert.folder.parent).folder == merged_bert.folder


def test_a_bundle_is_plain_files(adapter_bert: Made):
    suffixes = {path.suffix for path in adapter_bert.folder.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".txt", ".jinja"}
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in adapter_bert.folder.rglob("*.safetensors"))


def test_the_base_may_have_moved(merged_bert: Made, tiny_bert: Path, tmp_path: Path):
    folder = shutil.copytree(merged_bert.folder, tmp_path / "bundle")
    record = json.loads((folder / "weft.json").read_text())
    record["base"]["path"] = "/nowhere/at/all"
    (folder / "weft.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"nowhere.*--base"):
        open_bundle(folder)
    moved = shutil.copytree(tiny_bert, tmp_path / "elsewhere")
    assert open_bundle(folder, base=moved).base.folder.path == moved


def test_another_base_is_refused(merged_bert: Made, tiny_bert: Path, tmp_path: Path):
    other = shutil.copytree(tiny_bert, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"must be the base model that the bundle was trained on.*--base"):
        open_bundle(merged_bert.folder, base=other)


# ------------------------------------------------------------------------------------------- tampering


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def retensor(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    save_file(tensors, path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def link(path: Path) -> None:
    outside = path.parents[3] / "outside.safetensors"
    shutil.copy(path, outside)
    path.unlink()
    path.symlink_to(outside)


def nested(path: Path) -> None:
    path.write_text("[" * 100_000, encoding="utf-8")


DELTA, MOOD = "delta.safetensors", "heads/mood/head.safetensors"
TAMPERED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no-json": ("weft.json", lambda p: p.write_text("{nonsense"), "must be a JSON file"),
    "deep-json": ("weft.json", nested, "must be a JSON file"),
    "binary": ("weft.json", lambda p: p.write_bytes(b"\xff\xfe\x00"), "must be a JSON file"),
    "list": ("weft.json", lambda p: p.write_text("[]"), "must hold a JSON object, but holds a list"),
    "format": ("weft.json", lambda p: rewrite(p, lambda v: v.update(format=2)), "must have format 1, but has 2"),
    "key-gone": ("weft.json", lambda p: rewrite(p, lambda v: v.pop("base")), "base must be as Weft wrote it"),
    "key-type": ("weft.json", lambda p: rewrite(p, lambda v: v.update(max_tokens="9")), "max_tokens must be"),
    "digest": ("weft.json", lambda p: rewrite(p, lambda v: v["base"].update(digest="0" * 64)), "must be the base model"),
    "tasks": ("weft.json", lambda p: rewrite(p, lambda v: v["tasks"].pop()), "must name the same tasks"),
    "listing-gone": ("parts.json", Path.unlink, "must be a JSON file"),
    "path-up": ("parts.json", lambda p: rewrite(p, lambda v: v["heads"].append("../mood")), "must be 1-64 letters"),
    "path-abs": ("parts.json", lambda p: rewrite(p, lambda v: v["adapters"].append("/etc")), "must be 1-64 letters"),
    "twice": ("parts.json", lambda p: rewrite(p, lambda v: v["heads"].append("mood")), "must be different"),
    "not-names": ("parts.json", lambda p: rewrite(p, lambda v: v.update(heads={"a": 1})), "heads must be"),
    "head-gone": ("heads/mood/head.json", Path.unlink, "must be a JSON file"),
    "head-name": ("heads/mood/head.json", lambda p: rewrite(p, lambda v: v.update(task="grade")), "task must be mood"),
    "kind": ("heads/mood/head.json", lambda p: rewrite(p, lambda v: v.update(kind="taging")), "Did you mean 'tagging'"),
    "config": ("heads/mood/head.json", lambda p: rewrite(p, lambda v: v["config"].pop("labels")), "config must be"),
    "pooling": ("heads/mood/head.json", lambda p: rewrite(p, lambda v: v["config"].update(pooling="x")), "config must"),
    "labels": ("heads/mood/head.json", lambda p: rewrite(p, lambda v: v["config"]["labels"].pop()), "must have shape"),
    "head-cut": (MOOD, cut, "must be a whole safetensors file"),
    "head-empty": (MOOD, lambda p: p.write_bytes(b""), "must be a whole safetensors file"),
    "weights-gone": (MOOD, Path.unlink, "out.bias is missing"),
    "bias-gone": (MOOD, lambda p: retensor(p, lambda t: t.pop("out.bias")), "out.bias is missing"),
    "head-more": (MOOD, lambda p: retensor(p, lambda t: t.update(more=torch.ones(1))), "more is there too"),
    "head-shape": (MOOD, lambda p: retensor(p, lambda t: t.update({"out.bias": torch.ones(9)})), "must have shape"),
    "head-nan": (MOOD, lambda p: retensor(p, lambda t: t["out.bias"].fill_(torch.nan)), "must hold finite"),
    "head-ints": (MOOD, lambda p: retensor(p, lambda t: t.update({"out.bias": torch.ones(3).int()})), "must hold finite"),
    "delta-cut": (DELTA, cut, "must be a whole safetensors file"),
    "delta-name": (DELTA, lambda p: retensor(p, lambda t: t.update(x=torch.ones(1))), "x must be a parameter of the base"),
    "delta-head": (
        DELTA,
        lambda p: retensor(p, lambda t: t.update({"heads.mood.out.bias": torch.ones(3)})),
        "must be a parameter of the base",
    ),
    "delta-shape": (
        DELTA,
        lambda p: retensor(p, lambda t: t.update({"layers.0.ffn.up.bias": torch.ones(1)})),
        "must have shape",
    ),
    "link": (MOOD, link, "links to"),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_a_tampered_bundle_is_refused(case: str, merged_bert: Made, tmp_path: Path):
    file, change, words = TAMPERED[case]
    folder = shutil.copytree(merged_bert.folder, tmp_path / "b" / "bundle")
    change(folder / file)
    with pytest.raises(ExportError) as caught:
        open_bundle(folder)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message


ADAPTER = "adapters/stage0"
TAMPERED_ADAPTER: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "gone": (f"{ADAPTER}/adapter_config.json", Path.unlink, "must be a JSON file"),
    "kind": (
        f"{ADAPTER}/adapter_config.json",
        lambda p: rewrite(p, lambda v: v.update(peft_type="SORCERY")),
        "SORCERY",
    ),
    "cut": (f"{ADAPTER}/adapter_model.safetensors", cut, "must be a safetensors file"),
    "rank": (f"{ADAPTER}/adapter_config.json", lambda p: rewrite(p, lambda v: v.update(r=3)), "rank"),
    "module": (
        f"{ADAPTER}/adapter_model.safetensors",
        lambda p: retensor(p, lambda t: t.update({"base_model.model.x.lora_A.weight": torch.ones(8, 1)})),
        "a factor at a module of this model",
    ),
}


@pytest.mark.parametrize("case", TAMPERED_ADAPTER)
def test_a_tampered_adapter_is_refused(case: str, adapter_bert: Made, tmp_path: Path):
    file, change, words = TAMPERED_ADAPTER[case]
    folder = shutil.copytree(adapter_bert.folder, tmp_path / "bundle")
    change(folder / file)
    with pytest.raises(ExportError, match=words):
        open_bundle(folder)


def test_a_linked_folder_is_refused(adapter_bert: Made, tmp_path: Path):
    folder = shutil.copytree(adapter_bert.folder, tmp_path / "a" / "bundle")
    shutil.move(folder / "heads", tmp_path / "heads")
    (folder / "heads").symlink_to(tmp_path / "heads")
    with pytest.raises(ExportError, match="must lie in its folder"):
        open_bundle(folder)


def test_a_snapshot_of_the_hub_may_link_to_its_blobs(merged_bert: Made, tmp_path: Path):
    folder = shutil.copytree(merged_bert.folder, tmp_path / "models--me--it" / "snapshots" / "abc")
    blobs = tmp_path / "models--me--it" / "blobs"
    blobs.mkdir()
    shutil.move(folder / DELTA, blobs / "d")
    (folder / DELTA).symlink_to(Path("..") / ".." / "blobs" / "d")
    assert open_bundle(folder).parts.delta


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_what_is_no_bundle_is_said_so(name: str, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeftError, match="must be a bundle or a finished run"):
        open_bundle(tmp_path / name)
