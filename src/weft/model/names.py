"""Reversible names: from a backbone's own module names to canonical sites and back, one small table an architecture.

A table is a tuple of pairs (raw module name, canonical site); ``{i}`` stands for a layer number in both. Raw names are
relative to the plain backbone (``AutoModel``); ``prefix`` moves a whole table into a model that wraps the backbone,
such as a causal LM (``model.layers.0...`` with ``lm_head`` beside it).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class NameTable:
    """The names of one architecture.

    Attributes:
        architecture: transformers ``model_type``.
        pairs: raw and canonical patterns; each side matches at most one pattern.
        has_table: False for an unknown architecture: then every name is its own canonical name.
        prefix: where the backbone lies in the model (``model``), empty for the backbone itself.
    """

    architecture: str
    pairs: Pairs
    has_table: bool = True
    prefix: str = ""

    def canonical(self, raw: str) -> str | None:
        """Return the canonical site of module ``raw``, None where the table does not know it."""
        if not self.has_table:
            return raw
        if raw == LM_HEAD:
            return LM_HEAD
        if not self.prefix:
            return _translate(raw, self.pairs)
        start = f"{self.prefix}."
        return _translate(raw.removeprefix(start), self.pairs) if raw.startswith(start) else None

    def raw(self, canonical: str) -> str:
        """Return the module name of site ``canonical``.

        Raises:
            KeyError: the architecture has no such site.
        """
        if not self.has_table or canonical == LM_HEAD:
            return canonical
        found = _translate(canonical, tuple((there, here) for here, there in self.pairs))
        if found is None:
            raise KeyError(
                f"{canonical}: must be a site of {self.architecture}, but its name table has none such."
            )
        return f"{self.prefix}.{found}" if self.prefix else found


def name_table(config: Mapping[str, Any], *, prefix: str = "") -> NameTable:
    """Return the table for a model.

    Args:
        config: the model's whole configuration, ``PreTrainedConfig.to_dict()``.
        prefix: where the backbone lies in the model.

    Example:
        >>> table = name_table({"model_type": "bert"})
        >>> table.canonical("encoder.layer.3.attention.self.query")
        'layers.3.attention.query'
        >>> table.raw("layers.3.ffn.down")
        'encoder.layer.3.output.dense'
    """
    architecture = str(config.get("model_type", ""))
    if architecture in _T5_LIKE:
        gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
        return NameTable(architecture, T5_GATED if gated else T5, prefix=prefix)
    if architecture in TABLES:
        return NameTable(architecture, TABLES[architecture], prefix=prefix)
    return NameTable(architecture, (), has_table=False, prefix=prefix)


def _translate(name: str, pairs: Pairs) -> str | None:
    for here, there in pairs:
        match = _matcher(here).fullmatch(name)
        if match is not None:
            return there.format(**match.groupdict())
    return None


@lru_cache(maxsize=4096)
def _matcher(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\{i\}", r"(?P<i>0|[1-9]\d*)"))


def _under(raw: str, canonical: str, pairs: Pairs) -> Pairs:
    return tuple((f"{raw}.{here}", f"{canonical}.{there}") for here, there in pairs)


LM_HEAD = "lm_head"

BERT: Pairs = (
    ("embeddings.word_embeddings", "embeddings.word"),
    ("embeddings.position_embeddings", "embeddings.position"),
    ("embeddings.token_type_embeddings", "embeddings.segment"),
    ("embeddings.LayerNorm", "embeddings.norm"),
    ("embeddings_project", "embeddings.project"),  # electra
    ("encoder.layer.{i}.attention.self.query", "layers.{i}.attention.query"),
    ("encoder.layer.{i}.attention.self.key", "layers.{i}.attention.key"),
    ("encoder.layer.{i}.attention.self.value", "layers.{i}.attention.value"),
    ("encoder.layer.{i}.attention.output.dense", "layers.{i}.attention.output"),
    ("encoder.layer.{i}.attention.output.LayerNorm", "layers.{i}.norm.attention"),
    ("encoder.layer.{i}.intermediate.dense", "layers.{i}.ffn.up"),
    ("encoder.layer.{i}.output.dense", "layers.{i}.ffn.down"),
    ("encoder.layer.{i}.output.LayerNorm", "layers.{i}.norm.ffn"),
    ("pooler.dense", "pooler"),
)

DISTILBERT: Pairs = (
    ("embeddings.word_embeddings", "embeddings.word"),
    ("embeddings.position_embeddings", "embeddings.position"),
    ("embeddings.LayerNorm", "embeddings.norm"),
    ("transformer.layer.{i}.attention.q_lin", "layers.{i}.attention.query"),
    ("transformer.layer.{i}.attention.k_lin", "layers.{i}.attention.key"),
    ("transformer.layer.{i}.attention.v_lin", "layers.{i}.attention.value"),
    ("transformer.layer.{i}.attention.out_lin", "layers.{i}.attention.output"),
    ("transformer.layer.{i}.sa_layer_norm", "layers.{i}.norm.attention"),
    ("transformer.layer.{i}.ffn.lin1", "layers.{i}.ffn.up"),
    ("transformer.layer.{i}.ffn.lin2", "layers.{i}.ffn.down"),
    ("transformer.layer.{i}.output_layer_norm", "layers.{i}.norm.ffn"),
)

MODERNBERT: Pairs = (
    ("embeddings.tok_embeddings", "embeddings.word"),
    ("embeddings.norm", "embeddings.norm"),
    ("layers.{i}.attn_norm", "layers.{i}.norm.attention"),
    ("layers.{i}.attn.Wqkv", "layers.{i}.attention.qkv"),
    ("layers.{i}.attn.Wo", "layers.{i}.attention.output"),
    ("layers.{i}.mlp_norm", "layers.{i}.norm.ffn"),
    ("layers.{i}.mlp.Wi", "layers.{i}.ffn.up"),  # up and gate in one matrix
    ("layers.{i}.mlp.Wo", "layers.{i}.ffn.down"),
    ("final_norm", "final_norm"),
)

LLAMA: Pairs = (
    ("embed_tokens", "embeddings.word"),
    ("layers.{i}.input_layernorm", "layers.{i}.norm.attention"),
    ("layers.{i}.self_attn.q_proj", "layers.{i}.attention.query"),
    ("layers.{i}.self_attn.k_proj", "layers.{i}.attention.key"),
    ("layers.{i}.self_attn.v_proj", "layers.{i}.attention.value"),
    ("layers.{i}.self_attn.q_norm", "layers.{i}.norm.query"),
    ("layers.{i}.self_attn.k_norm", "layers.{i}.norm.key"),
    ("layers.{i}.self_attn.o_proj", "layers.{i}.attention.output"),
    ("layers.{i}.post_attention_layernorm", "layers.{i}.norm.ffn"),
    ("layers.{i}.mlp.gate_proj", "layers.{i}.ffn.gate"),
    ("layers.{i}.mlp.up_proj", "layers.{i}.ffn.up"),
    ("layers.{i}.mlp.down_proj", "layers.{i}.ffn.down"),
    ("norm", "final_norm"),
)

GPT2: Pairs = (
    ("wte", "embeddings.word"),
    ("wpe", "embeddings.position"),
    ("h.{i}.ln_1", "layers.{i}.norm.attention"),
    ("h.{i}.attn.c_attn", "layers.{i}.attention.qkv"),
    ("h.{i}.attn.c_proj", "layers.{i}.attention.output"),
    ("h.{i}.ln_2", "layers.{i}.norm.ffn"),
    ("h.{i}.mlp.c_fc", "layers.{i}.ffn.up"),
    ("h.{i}.mlp.c_proj", "layers.{i}.ffn.down"),
    ("ln_f", "final_norm"),
)

_T5_ATTENTION: Pairs = (
    ("q", "query"),
    ("k", "key"),
    ("v", "value"),
    ("o", "output"),
    ("relative_attention_bias", "relative_bias"),
)
_T5_PLAIN_FFN: Pairs = (("wi", "up"), ("wo", "down"))
_T5_GATED_FFN: Pairs = (("wi_0", "gate"), ("wi_1", "up"), ("wo", "down"))


def _t5(ffn: Pairs) -> Pairs:
    block, layers = "block.{i}.layer", "layers.{i}"
    shared = (
        ("embed_tokens", "embeddings.word"),
        *_under(f"{block}.0.SelfAttention", f"{layers}.attention", _T5_ATTENTION),
        (f"{block}.0.layer_norm", f"{layers}.norm.attention"),
    )
    last = (("final_layer_norm", "final_norm"),)
    encoder = (
        *_under(f"{block}.1.DenseReluDense", f"{layers}.ffn", ffn),
        (f"{block}.1.layer_norm", f"{layers}.norm.ffn"),
    )
    decoder = (
        *_under(f"{block}.1.EncDecAttention", f"{layers}.cross_attention", _T5_ATTENTION),
        (f"{block}.1.layer_norm", f"{layers}.norm.cross_attention"),
        *_under(f"{block}.2.DenseReluDense", f"{layers}.ffn", ffn),
        (f"{block}.2.layer_norm", f"{layers}.norm.ffn"),
    )
    return (
        ("shared", "embeddings.word"),
        *_under("encoder", "encoder", (*shared, *encoder, *last)),
        *_under("decoder", "decoder", (*shared, *decoder, *last)),
    )


T5 = _t5(_T5_PLAIN_FFN)
T5_GATED = _t5(_T5_GATED_FFN)
_T5_LIKE = frozenset({"t5", "mt5", "umt5"})

_BART_ATTENTION: Pairs = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "output"))
_BART_STACK: Pairs = (
    ("embed_tokens", "embeddings.word"),
    ("embed_positions", "embeddings.position"),
    ("layernorm_embedding", "embeddings.norm"),
    *_under("layers.{i}.self_attn", "layers.{i}.attention", _BART_ATTENTION),
    ("layers.{i}.self_attn_layer_norm", "layers.{i}.norm.attention"),
    *_under("layers.{i}.encoder_attn", "layers.{i}.cross_attention", _BART_ATTENTION),
    ("layers.{i}.encoder_attn_layer_norm", "layers.{i}.norm.cross_attention"),
    ("layers.{i}.fc1", "layers.{i}.ffn.up"),
    ("layers.{i}.fc2", "layers.{i}.ffn.down"),
    ("layers.{i}.final_layer_norm", "layers.{i}.norm.ffn"),
    ("layer_norm", "final_norm"),  # mbart
)
BART: Pairs = (
    ("shared", "embeddings.word"),
    *_under("encoder", "encoder", _BART_STACK),
    *_under("decoder", "decoder", _BART_STACK),
)

TABLES: Mapping[str, Pairs] = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "camembert": BERT,
    "electra": BERT,
    "distilbert": DISTILBERT,
    "modernbert": MODERNBERT,
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gpt2": GPT2,
    "t5": T5,
    "mt5": T5_GATED,
    "umt5": T5_GATED,
    "bart": BART,
    "mbart": BART,
    "blenderbot": BART,
    "m2m_100": BART,
    "marian": BART,
    "pegasus": BART,
    "plbart": BART,
}
