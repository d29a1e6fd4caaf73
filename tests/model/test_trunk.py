"""Loading: what is read equals what transformers reads, what is missing is said, and nothing is invented."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from weft.core.features import Pooling
from weft.errors import ModelError
from weft.model.backbone import UNLIMITED
from weft.model.folder import check_size, inspect, locate
from weft.model.tokenizer import max_positions
from weft.model.trunk import _fused, empty_trunk, is_causal, load_trunk

CPU = torch.device("cpu")
ENCODERS = ["bert", "roberta", "electra", "distilbert", "modernbert", "mpnet"]
DECODERS = ["llama", "qwen3", "gpt2"]


def load(folder, *, lm=False, dropout=0.0):
    return load_trunk(folder, wants_lm_head=lm, dropout=dropout, device=CPU)


def rewrite(folder, target: Path, keep):
    """Copy a folder with only those weights whose name ``keep`` accepts."""
    shutil.copytree(folder.path, target)
    tensors = load_file(target / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if keep(name)}
    assert 0 < len(kept) < len(tensors)
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return inspect(target, name="rewritten")


@pytest.mark.parametrize("kind", ENCODERS + DECODERS)
def test_weights_are_those_of_the_file_in_fp32(saved, kind):
    folder = saved(kind)
    trunk = load(folder)
    stored = load_file(folder.path / "model.safetensors")
    own = trunk.model.state_dict()
    assert set(stored) <= set(own)
    assert all(torch.equal(own[name], stored[name]) for name in stored)
    assert {p.dtype for p in trunk.parameters()} == {torch.float32}
    assert not trunk.training


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_weights_are_aligned_copies_that_outlive_the_file(saved, tmp_path, kind):
    shutil.copytree(
        saved(kind, "AutoModelForCausalLM" if kind == "llama" else "AutoModel").path, tmp_path / "copy"
    )
    file = tmp_path / "copy" / "model.safetensors"
    trunk = load(inspect(tmp_path / "copy", name="copy"), lm=kind == "llama")
    before = {name: parameter.detach().clone() for name, parameter in trunk.named_parameters()}
    with file.open("r+b") as stream:
        stream.write(b"\xff" * file.stat().st_size)
    assert {parameter.data_ptr() % 64 for parameter in trunk.parameters()} == {0}
    assert all(torch.equal(parameter, before[name]) for name, parameter in trunk.named_parameters())
    if kind == "llama":
        assert trunk.model.lm_head.weight is trunk.model.model.embed_tokens.weight


def test_half_precision_files_become_fp32(saved, tmp_path):
    folder = saved("bert")
    shutil.copytree(folder.path, tmp_path / "half")
    tensors = {name: t.bfloat16() for name, t in load_file(tmp_path / "half" / "model.safetensors").items()}
    save_file(tensors, tmp_path / "half" / "model.safetensors", metadata={"format": "pt"})
    own = load(inspect(tmp_path / "half", name="half")).model.state_dict()
    assert all(torch.equal(own[name], tensor.float()) for name, tensor in tensors.items())


@pytest.mark.parametrize("kind", ENCODERS + DECODERS)
@pytest.mark.parametrize("lm", [False, True])
def test_the_empty_trunk_is_the_loaded_one_without_weights(saved, kind, lm):
    if lm and kind not in DECODERS:
        with pytest.raises(ModelError, match=f"must be a causal language model .* but {kind} is none"):
            empty_trunk(saved(kind), wants_lm_head=True, dropout=0.0, device=CPU)
        return
    folder = saved(kind, "AutoModelForCausalLM" if lm else "AutoModel")
    empty = empty_trunk(folder, wants_lm_head=lm, dropout=0.0, device=CPU)
    trunk = load(folder, lm=lm)
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    shapes = [(name, p.shape, p.dtype) for name, p in empty.named_parameters()]
    assert shapes == [(name, p.shape, p.dtype) for name, p in trunk.named_parameters()]
    assert empty.info == trunk.info


def test_a_folder_of_a_head_model_gives_its_backbone(saved):
    folder = saved("gpt2", "AutoModelForCausalLM")
    trunk = load(folder)
    assert type(trunk.model).__name__ == "GPT2Model"
    assert torch.equal(
        trunk.model.wte.weight, load_file(folder.path / "model.safetensors")["transformer.wte.weight"]
    )


@pytest.mark.parametrize(
    ("kind", "pooling", "has_pooler", "max_positions"),
    [
        ("bert", Pooling.POOLER, True, 40),
        ("roberta", Pooling.CLS, True, 38),
        ("electra", Pooling.CLS, False, 40),
        ("distilbert", Pooling.CLS, False, 40),
        ("modernbert", Pooling.CLS, False, 40),
        ("mpnet", Pooling.CLS, True, 38),
        ("llama", Pooling.LAST, False, 40),
        ("qwen3", Pooling.LAST, False, 40),
        ("gpt2", Pooling.LAST, False, 40),
    ],
)
def test_info_says_what_the_stock_classifier_does(saved, kind, pooling, has_pooler, max_positions):
    info = load(saved(kind)).info
    assert (info.pooling, info.has_pooler, info.max_positions) == (pooling, has_pooler, max_positions)
    assert (info.width, info.vocabulary, info.init_range) == (16, 0, 0.02)
    config = transformers.AutoConfig.from_pretrained(saved(kind).path)
    with torch.device("meta"):
        stock = transformers.AutoModelForSequenceClassification.from_config(config)
    *_, last = (
        part for part in stock.modules() if isinstance(part, torch.nn.Linear) and part.out_features == 2
    )
    assert info.has_bias == (last.bias is not None)
    assert info.is_causal == (kind in DECODERS)


@pytest.mark.parametrize("kind", ENCODERS + DECODERS)
def test_the_tokenizer_knows_the_same_limit_from_the_config_alone(saved, kind):
    config = transformers.AutoConfig.from_pretrained(saved(kind).path)
    assert max_positions(config) == load(saved(kind)).info.max_positions


def test_a_model_without_positions_has_no_limit():
    assert max_positions(transformers.T5Config()) == UNLIMITED


def test_causality_is_known_by_architecture():
    assert [
        kind
        for kind in ("bert", "roberta", "gpt2", "llama", "qwen2", "xlm-roberta", "mistral")
        if is_causal(kind)
    ] == [
        "gpt2",
        "llama",
        "qwen2",
        "mistral",
    ]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_checkpoint_without_pooler_gives_a_trunk_without_one(saved, kind):
    folder = saved(kind, "AutoModelForMaskedLM")
    trunk = load(folder)
    assert not trunk.info.has_pooler
    assert trunk.info.pooling is Pooling.CLS
    assert not any("pooler" in name for name, _ in trunk.named_parameters())
    assert empty_trunk(folder, wants_lm_head=False, dropout=0.0, device=CPU).info == trunk.info


@pytest.mark.parametrize(
    ("kind", "lost"), [("bert", "encoder.layer.1.output.dense.bias"), ("llama", "norm.weight")]
)
def test_a_missing_weight_is_an_error_that_names_it(saved, tmp_path, kind, lost):
    folder = rewrite(saved(kind), tmp_path / "cut", lambda name: name != lost)
    with pytest.raises(ModelError, match=rf"1 are missing: {lost}"):
        load(folder)


def test_a_missing_output_embedding_is_never_random(saved, tmp_path):
    folder = saved("qwen3", "AutoModelForCausalLM", tie_word_embeddings=False)
    cut = rewrite(folder, tmp_path / "cut", lambda name: name != "lm_head.weight")
    assert load(cut).info.vocabulary == 0
    with pytest.raises(ModelError, match=r"missing: lm_head\.weight"):
        load(cut, lm=True)


def test_other_shapes_than_the_config_says_are_an_error(saved, tmp_path):
    shutil.copytree(saved("bert").path, tmp_path / "odd")
    config = tmp_path / "odd" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 48}))
    with pytest.raises(ModelError, match="must load as BertModel"):
        load(inspect(tmp_path / "odd", name="odd"))


def test_a_model_larger_than_its_weights_is_refused_before_it_is_allocated(saved, tmp_path):
    shutil.copytree(saved("bert").path, tmp_path / "bomb")
    config = tmp_path / "bomb" / "config.json"
    bomb = json.loads(config.read_text()) | {"max_position_embeddings": 90_000_000}
    config.write_text(json.dumps(bomb))
    with pytest.raises(ModelError, match=r"it would have \d{10} values"):
        load(inspect(tmp_path / "bomb", name="bomb"))


def test_size_may_be_twice_what_is_stored_and_tables_come_free(saved):
    folder = saved("bert")
    stored = sum(t.numel() for t in load_file(folder.path / "model.safetensors").values())
    check_size(2 * stored + 64_000_000, folder)
    with pytest.raises(ModelError, match="must fit its weights"):
        check_size(2 * stored + 64_000_001, folder)


def test_a_model_that_changes_its_logits_is_refused_where_they_matter(saved, tmp_path):
    shutil.copytree(saved("llama", "AutoModelForCausalLM").path, tmp_path / "capped")
    config = tmp_path / "capped" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"final_logit_softcapping": 30.0}))
    folder = inspect(tmp_path / "capped", name="capped")
    assert load(folder).info.width == 16
    with pytest.raises(ModelError, match="final_logit_softcapping"):
        load(folder, lm=True)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2", "modernbert"])
def test_dropout_is_set_for_hidden_states_and_never_for_attention(saved, kind):
    trunk = load(saved(kind), dropout=0.25)
    places = {name: part.p for name, part in trunk.named_modules() if isinstance(part, torch.nn.Dropout)}
    attention = {
        name: p
        for name, p in places.items()
        if name.endswith(("self.dropout", "attn_dropout", "attention.dropout"))
    }
    assert set(attention.values()) <= {0.0}
    assert {p for name, p in places.items() if name not in attention} == {0.25}
    rates = {getattr(part, "attention_dropout", 0.0) for part in trunk.modules() if not hasattr(part, "p")}
    assert all(rate == 0.0 for rate in rates if isinstance(rate, float))
    assert {part.p for part in load(saved(kind)).modules() if isinstance(part, torch.nn.Dropout)} <= {0.0}


@pytest.mark.parametrize(("device", "expected"), [("cpu", "eager"), ("cuda", "sdpa")])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_attention_is_eager_on_cpu_and_sdpa_on_gpu(saved, kind, device, expected):
    trunk = empty_trunk(saved(kind), wants_lm_head=False, dropout=0.0, device=torch.device(device))
    assert trunk.model.config._attn_implementation == expected


def test_loading_says_nothing(saved, capfd, caplog):
    folders = saved("bert", "AutoModelForMaskedLM"), saved("gpt2", "AutoModelForCausalLM")
    capfd.readouterr()  # writing them is not what is looked at
    for folder in folders:
        load(folder)
    assert (capfd.readouterr(), caplog.text) == (("", ""), "")
    assert transformers.utils.logging.is_progress_bar_enabled()


@pytest.mark.slow
def test_minilm_is_a_bert_with_its_pooler():
    info = load(locate("minilm", None, root=Path())).info
    assert (info.width, info.max_positions, info.pooling, info.has_pooler) == (384, 512, Pooling.POOLER, True)


@pytest.mark.parametrize(
    ("device", "has_liger", "is_applied"),
    [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)],
)
def test_liger_kernels_are_used_on_a_gpu_and_only_on_the_instance(monkeypatch, device, has_liger, is_applied):
    told = []
    monkeypatch.setattr("transformers.utils.is_liger_kernel_available", lambda: has_liger)
    monkeypatch.setattr(
        "transformers.integrations.liger.apply_liger_kernel",
        lambda model, config: told.append((model, config)),
    )
    assert _fused("model", torch.device(device)) == "model"
    whole_process = {"rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False}
    assert told == ([("model", whole_process)] if is_applied else [])
