"""Random two-layer models of many architectures, saved as a user would have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.model.folder import ModelFolder, inspect

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 60,
    "max_position_embeddings": 40,
}
MARKS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 60} | {
    "decoder_start_token_id": 0
}
BART = (
    {"d_model": 16, "vocab_size": 60, "max_position_embeddings": 40}
    | {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    | {f"{side}_ffn_dim": 32 for side in ("encoder", "decoder")}
    | MARKS
)
OPTIONS: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": SIZES | {"pad_token_id": 1, "type_vocab_size": 1},
    "electra": SIZES | {"embedding_size": 8},
    "distilbert": {
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 32,
        "vocab_size": 60,
        "max_position_embeddings": 40,
    },
    "modernbert": SIZES | MARKS | {"cls_token_id": 1, "sep_token_id": 2},
    "mpnet": SIZES | {"pad_token_id": 1},
    "llama": SIZES | MARKS | {"num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True},
    "qwen3": SIZES | MARKS | {"num_key_value_heads": 1, "head_dim": 8},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 60, "n_positions": 40} | MARKS,
    "t5": T5,
    "mt5": T5,
    "umt5": T5,
    "bart": BART,
    "mbart": BART,
    "m2m_100": BART | {"encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5},
    "marian": BART | {"decoder_start_token_id": 0},
    "pegasus": BART | {"decoder_start_token_id": 0},
    "blenderbot": BART,
    "plbart": BART,
}

MakeFolder = Callable[..., ModelFolder]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """Return ``saved(kind, auto="AutoModel", **options)``: the folder of a random model; treat it as read-only."""
    import transformers

    known: dict[Any, ModelFolder] = {}

    def make(kind: str, auto: str = "AutoModel", **options: Any) -> ModelFolder:
        key = (kind, auto, tuple(sorted(options.items())))
        if key not in known:
            folder: Path = tmp_path_factory.mktemp(kind)
            config = transformers.AutoConfig.for_model(kind, **(OPTIONS[kind] | options))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                getattr(transformers, auto).from_config(config).save_pretrained(folder)
            known[key] = inspect(folder, name=kind)
        return known[key]

    return make
