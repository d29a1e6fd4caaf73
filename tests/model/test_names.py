"""Every module of every architecture with a table has one canonical name, and the way back leads to the same module."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from weft.model.names import TABLES, NameTable, name_table

ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
}
STACKS = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "vocab_size": 50,
}
T5 = {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 32, "d_kv": 8, "vocab_size": 50}
MARKS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = ENCODER | MARKS | {"num_key_value_heads": 1, "head_dim": 8}

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": ENCODER,
    "roberta": ENCODER,
    "xlm-roberta": ENCODER,
    "camembert": ENCODER,
    "electra": ENCODER | {"embedding_size": 8},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 50},
    "modernbert": ENCODER | MARKS | {"cls_token_id": 1, "sep_token_id": 2},
    "llama": DECODER,
    "mistral": DECODER,
    "qwen2": DECODER,
    "qwen3": DECODER,
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50} | MARKS,
    "t5": T5,
    "mt5": T5,
    "bart": STACKS | MARKS,
    "mbart": STACKS | MARKS,
    "umt5": T5,
    "blenderbot": STACKS | MARKS,
    "m2m_100": STACKS | MARKS,
    "marian": STACKS | MARKS | {"decoder_start_token_id": 0},
    "pegasus": STACKS | MARKS,
    "plbart": STACKS | MARKS,
}
GATED_T5 = T5 | {"feed_forward_proj": "gated-gelu"}
CASES = [*CONFIGS.items(), ("t5", GATED_T5)]


def build(kind: str, options: dict[str, Any], *, auto: Any = transformers.AutoModel) -> Any:
    config = transformers.AutoConfig.for_model(kind, **options)
    with torch.device("meta"):
        return auto.from_config(config)


def owners(model: torch.nn.Module) -> list[str]:
    """Return every module name, aliases included, under which parameters hang directly."""
    modules = model.named_modules(remove_duplicate=False)
    return [name for name, module in modules if next(module.parameters(recurse=False), None) is not None]


def test_every_table_is_tested():
    assert set(CONFIGS) == set(TABLES)


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_backbone_names_go_there_and_back_one_to_one(kind, options):
    model = build(kind, options)
    table = name_table(model.config.to_dict())
    raws = owners(model)
    canonicals = [table.canonical(raw) for raw in raws]
    assert None not in canonicals
    assert len(set(canonicals)) == len(raws) > 8
    assert [table.raw(canonical) for canonical in canonicals] == raws


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gpt2"])
def test_a_prefix_moves_the_table_into_the_causal_model(kind):
    model = build(kind, CONFIGS[kind], auto=transformers.AutoModelForCausalLM)
    table = name_table(model.config.to_dict(), prefix=model.base_model_prefix)
    raws = owners(model)
    canonicals = [table.canonical(raw) for raw in raws]
    assert None not in canonicals
    assert canonicals[0] == "embeddings.word"
    assert canonicals[-1] == "lm_head"
    assert [table.raw(canonical) for canonical in canonicals] == raws
    assert table.canonical("layers.0.mlp.up_proj") is None, "without the prefix it is another module"


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_table_says_nothing_that_two_rows_say(kind, options):
    pairs = name_table({"model_type": kind, **options}).pairs
    assert len({raw for raw, _ in pairs}) == len(pairs) == len({canonical for _, canonical in pairs})
    assert all(raw.count("{i}") == canonical.count("{i}") for raw, canonical in pairs)


@given(kind=st.sampled_from(sorted(TABLES)), data=st.data(), layer=st.integers(0, 10_000))
def test_any_layer_number_survives_the_round_trip(kind, data, layer):
    table = name_table({"model_type": kind})
    raw, canonical = (side.replace("{i}", str(layer)) for side in data.draw(st.sampled_from(table.pairs)))
    assert table.canonical(raw) == canonical
    assert table.raw(canonical) == raw


def test_sites_are_the_documented_ones():
    stems = {
        "attention": {"query", "key", "value", "output", "qkv", "relative_bias"},
        "cross_attention": {"query", "key", "value", "output", "relative_bias"},
        "ffn": {"up", "gate", "down"},
        "norm": {"attention", "ffn", "cross_attention", "query", "key"},
        "embeddings": {"word", "position", "segment", "norm", "project"},
    }
    for pairs in TABLES.values():
        for _, canonical in pairs:
            parts = [
                part for part in canonical.split(".") if part not in ("encoder", "decoder", "layers", "{i}")
            ]
            assert parts in (["final_norm"], ["pooler"]) or parts[1] in stems[parts[0]], canonical


@pytest.mark.parametrize(
    "raw",
    [
        "encoder.layer.01.output.dense",
        "encoder.layer.x.output.dense",
        "encoder.layer.1.output.dense.x",
        "Xpooler.dense",
    ],
)
def test_near_misses_are_not_names(raw):
    assert name_table({"model_type": "bert"}).canonical(raw) is None


def test_t5_says_by_its_config_whether_up_is_wi_or_wi_1():
    up = "encoder.layers.0.ffn.up"
    plain, gated = name_table({"model_type": "t5"}), name_table({"model_type": "t5", **GATED_T5})
    assert plain.raw(up) == "encoder.block.0.layer.1.DenseReluDense.wi"
    assert gated.raw(up) == "encoder.block.0.layer.1.DenseReluDense.wi_1"


def test_an_unknown_architecture_keeps_its_own_names():
    table = name_table({"model_type": "mpnet"})
    assert not table.has_table
    assert table.canonical("encoder.layer.0.attention.attn.q") == "encoder.layer.0.attention.attn.q"
    assert table.raw("pooler.dense") == "pooler.dense"


def test_a_site_that_does_not_exist_is_named():
    with pytest.raises(KeyError, match=r"layers\.0\.ffn\.gate: must be a site of bert"):
        name_table({"model_type": "bert"}).raw("layers.0.ffn.gate")


def test_name_tables_are_values():
    assert name_table({"model_type": "gpt2"}) == NameTable("gpt2", TABLES["gpt2"])
    assert hash(name_table({"model_type": "gpt2"})) == hash(name_table({"model_type": "gpt2"}))


@pytest.mark.parametrize("module", ["weft.model.names", "weft.model.folder"])
def test_names_and_folders_load_no_tensor_library(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'numpy'}} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "[]"
