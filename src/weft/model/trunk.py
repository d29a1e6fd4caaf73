"""Read a checked model folder into a trunk, with its weights or without.

A pooler exists where the weights have one: a checkpoint without it gives a trunk without it (``has_pooler`` False,
pooling by the first token), never one with random values. Every other missing weight is an error.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from weft.core.features import Pooling
from weft.core.network import TrunkInfo
from weft.errors import ModelError
from weft.model.backbone import UNLIMITED, HFTrunk, first_position
from weft.model.dropout import count_dropout
from weft.model.folder import CONFIG, ModelFolder, check_size, stored_values, weight_shapes
from weft.model.quiet import quiet

__all__ = ["HFTrunk", "empty_trunk", "is_causal", "load_trunk"]

_HIDDEN_DROPOUT = (
    "hidden_dropout_prob",
    "hidden_dropout",
    "dropout",
    "dropout_rate",
    "resid_pdrop",
    "embd_pdrop",
    "embedding_dropout",
    "mlp_dropout",
    "pooler_dropout",
)
_OTHER_DROPOUT = (
    "attention_probs_dropout_prob",
    "attention_dropout",
    "attn_pdrop",
    "activation_dropout",
    "layerdrop",
    "encoder_layerdrop",
    "decoder_layerdrop",
)
_LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier")


def load_trunk(folder: ModelFolder, *, wants_lm_head: bool, dropout: float, device: torch.device) -> HFTrunk:
    """Return the trunk in ``folder`` with its weights in fp32 on ``device``, in evaluation mode.

    Args:
        folder: as ``locate`` returned it.
        wants_lm_head: whether a task needs logits over the vocabulary; causal models and encoder-decoders have them. Of
            an encoder-decoder only the encoder is there without.
        dropout: probability for hidden states while training; attention weights are never dropped, but by the T5 family,
            which has one rate for both.
        device: where to put it; decides the attention implementation (eager on CPU, SDPA elsewhere).

    Raises:
        ModelError: not an architecture that Weft drives, weights missing, or of other shapes than the config says.
    """
    config = _config(folder, dropout=dropout)
    model_class, options = _model_class(folder, config, wants_lm_head=wants_lm_head)
    config._attn_implementation = _attention(model_class, device)
    _check_allocation(folder, config, model_class, options)
    try:
        with quiet():
            model, report = model_class.from_pretrained(
                folder.path,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ModelError(
            f"{folder.path}: must load as {model_class.__name__}, but {first_line(error)}."
        ) from error
    missing = sorted(name for name in report["missing_keys"] if not _is_computed(model, name))
    if missing:
        raise ModelError(
            f"{folder.path}: must hold every weight of {model_class.__name__}, but {len(missing)} are missing: "
            f"{', '.join(missing[:5])}. Choose a complete checkpoint of this architecture."
        )
    _own_memory(model)
    return _trunk(_fused(_read_only(model).to(device), device), wants_lm_head=wants_lm_head)


def empty_trunk(folder: ModelFolder, *, wants_lm_head: bool, dropout: float, device: torch.device) -> HFTrunk:
    """Return the same trunk as ``load_trunk`` on the meta device: all shapes and names, no weights read.

    Raises:
        ModelError: not an architecture that Weft drives.
    """
    config = _config(folder, dropout=dropout)
    model_class, options = _model_class(folder, config, wants_lm_head=wants_lm_head)
    config._attn_implementation = _attention(model_class, device)
    return _trunk(_on_meta(folder, config, model_class, options), wants_lm_head=wants_lm_head)


def _fused(model: Any, device: torch.device) -> Any:
    """Return ``model`` with liger-kernel's norms and gated products, on a GPU where that package is installed.

    Only what lies on the instance: the rotary embedding and the losses would be replaced for the whole process.
    """
    from transformers.integrations.liger import apply_liger_kernel
    from transformers.utils import is_liger_kernel_available

    if device.type == "cuda" and is_liger_kernel_available():
        with quiet():
            apply_liger_kernel(
                model, dict.fromkeys(("rope", "cross_entropy", "fused_linear_cross_entropy"), False)
            )
    return model


def _config(folder: ModelFolder, *, dropout: float) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    except (StrictDataclassError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ModelError(
            f"{folder.path / CONFIG}: must be a valid config, but {first_line(error)}."
        ) from error
    for name in (*_HIDDEN_DROPOUT, *_OTHER_DROPOUT):
        if isinstance(getattr(config, name, None), int | float):
            setattr(config, name, dropout if name in _HIDDEN_DROPOUT else 0.0)
    return config


def _attention(model_class: Any, device: torch.device) -> str:
    """Return the implementation of attention: the backward pass of SDPA is slow on CPU in bf16, so eager there."""
    return "sdpa" if device.type != "cpu" and model_class._supports_sdpa else "eager"


def _model_class(folder: ModelFolder, config: Any, *, wants_lm_head: bool) -> tuple[Any, dict[str, Any]]:
    """Return the transformers class to build and its options."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    where, kind = folder.path / CONFIG, config.model_type
    if is_encoder_decoder(kind):
        return _two_stacks(config, wants_lm_head=wants_lm_head, where=where), {}
    mapping: Any = MODEL_FOR_CAUSAL_LM_MAPPING if wants_lm_head else MODEL_MAPPING
    if (wants_lm_head and not is_causal(kind)) or type(config) not in mapping:
        wanted = "a causal language model for a task that generates" if wants_lm_head else "a text backbone"
        raise ModelError(
            f"{where}: must be {wanted}, but {kind} is none. Choose another model, e.g. a Llama or Qwen."
        )
    changes = [name for name in _LOGIT_CHANGES if getattr(config, name, None) not in (None, 1.0)]
    if wants_lm_head and changes:
        raise ModelError(
            f"{where}: logits must be the output embedding's alone, but {kind} has {', '.join(changes)}. "
            f"Choose another model."
        )
    found = mapping[type(config)]
    model_class = found[0] if isinstance(found, tuple) else found
    if "add_pooling_layer" not in inspect.signature(model_class.__init__).parameters:
        return model_class, {}
    stored = weight_shapes(folder.path)
    return model_class, {"add_pooling_layer": any("pooler." in name for name in stored)}


def _two_stacks(config: Any, *, wants_lm_head: bool, where: Path) -> Any:
    """Return the class of an encoder-decoder, or of what holds its encoder where nothing is to be written."""
    from transformers import (
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        MODEL_FOR_TEXT_ENCODING_MAPPING,
        MODEL_MAPPING,
    )

    order: Any = (MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING)
    mappings: Any = (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,) if wants_lm_head else order
    found = next((mapping[type(config)] for mapping in mappings if type(config) in mapping), None)
    if found is None or not all(hasattr(config, name) for name in ("vocab_size", "hidden_size")):
        raise ModelError(
            f"{where}: must be an encoder-decoder of one width for text, but {config.model_type} is none. Choose another "
            f"model, e.g. a T5 or BART."
        )
    return found


def _read_only(model: Any) -> Any:
    """Return ``model`` without the decoder, which nothing asks of a plain backbone: it would only be trained in vain."""
    if model.config.is_encoder_decoder and model.get_output_embeddings() is None:
        model.decoder = None
    return model


def is_encoder_decoder(model_type: str) -> bool:
    """Return whether an architecture has an encoder and a decoder of its own."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as BOTH

    return model_type in BOTH


def is_causal(model_type: str) -> bool:
    """Return whether an architecture sees earlier tokens only: there is a causal LM of it and no masked LM."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED,
    )

    return model_type in CAUSAL and model_type not in MASKED and not is_encoder_decoder(model_type)


def _on_meta(folder: ModelFolder, config: Any, model_class: Any, options: dict[str, Any]) -> Any:
    with quiet(), torch.device("meta"):
        model = model_class(config, **options)
        model.tie_weights()
        _untie(model, folder)
    return _read_only(model.float())


def _untie(model: Any, folder: ModelFolder) -> None:
    """Give the output embedding a weight of its own where the files hold one, as loading does, whatever the config says.

    Checkpoints of T5's later versions say that it is tied, and hold another.
    """
    output, words = model.get_output_embeddings(), model.get_input_embeddings()
    if output is None or output.weight is not words.weight:
        return
    names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    pair = [
        value for name in (names[id(output)], names[id(words)]) for value in stored_values(folder.path, name)
    ]
    if len(pair) == 2 and not torch.equal(*pair):
        output.weight = torch.nn.Parameter(torch.empty_like(output.weight))


def _check_allocation(folder: ModelFolder, config: Any, model_class: Any, options: dict[str, Any]) -> None:
    """Count what would be allocated on a model that allocates nothing."""
    model = _on_meta(folder, config, model_class, options)
    values = [*model.parameters(), *model.buffers()]
    check_size(sum(value.numel() for value in values), folder)


def _trunk(model: Any, *, wants_lm_head: bool) -> HFTrunk:
    from transformers import GenerationConfig

    config = model.config
    causal = is_causal(config.model_type)
    backbone = model.base_model
    has_pooler = getattr(getattr(backbone, "pooler", None), "dense", None) is not None
    if wants_lm_head:
        model.generation_config = (
            GenerationConfig()
        )  # what a folder sets for sampling is no part of greedy decoding
    writes = wants_lm_head and config.is_encoder_decoder
    if causal:
        pooling = Pooling.LAST
    elif is_encoder_decoder(config.model_type):
        pooling = Pooling.MEAN  # stock classifiers read the decoder, which here only writes
    elif has_pooler and config.model_type == "bert":
        pooling = Pooling.POOLER
    else:
        pooling = Pooling.CLS
    output = model.get_output_embeddings() if wants_lm_head else None
    info = TrunkInfo(
        width=config.hidden_size,
        vocabulary=0 if output is None else output.weight.shape[0],
        pooling=pooling,
        has_pooler=has_pooler,
        has_bias=not causal,  # every decoder's stock ``score`` layer is without, every encoder's with
        is_causal=causal,
        max_positions=int(getattr(config, "max_position_embeddings", UNLIMITED)) - first_position(backbone),
        init_range=float(getattr(config, "initializer_range", 0.02)),
        is_encoder_decoder=writes,
    )
    count_dropout(model)
    return HFTrunk(model, info).eval()


def _is_computed(model: Any, name: str) -> bool:
    """Return whether the weight ``name`` follows from its shape alone, so that some checkpoints leave it out."""
    return "Sinusoidal" in type(model.get_submodule(name.rpartition(".")[0])).__name__


def _own_memory(model: torch.nn.Module) -> None:
    """Copy every weight out of the mapped file.

    A mapped weight changes when the file does, and lies at whatever offset the file gives it: kernels then round
    differently than on the same weights restored from a checkpoint, which breaks bit-equal resuming.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    for buffer in model.buffers():
        buffer.data = buffer.data.clone()


def first_line(error: Exception) -> str:
    """Return what an error says in one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
