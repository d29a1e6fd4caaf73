"""A model of random weights from a folder that holds a configuration and a tokenizer, for training from scratch."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from weft.core.seeds import fold
from weft.errors import ModelError
from weft.model.folder import CONFIG, TOKENIZER_FILES, WEIGHTS, ModelFolder, inspect
from weft.model.quiet import quiet
from weft.model.trunk import first_line, is_causal, is_encoder_decoder


def from_scratch(folder: ModelFolder, *, seed: int, home: Path) -> ModelFolder:
    """Return a folder of the same model with random weights, drawn as its architecture initialises them.

    It lies below ``home`` under a digest of all that decides the weights, and is made where it is not there yet: the
    same configuration, seed and versions always are the same model.

    Args:
        folder: its weights, if it has any, are not looked at.
        seed: of the recipe.
        home: made if need be.

    Raises:
        ModelError: no architecture that can be built from its configuration.
    """
    import transformers

    about = f"{folder.digest} {seed} {torch.__version__} {transformers.__version__}"
    target = home / hashlib.sha256(about.encode()).hexdigest()[:32]
    if not (target / WEIGHTS).is_file():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=home) as aside:
            made = Path(aside) / "model"
            _write(folder, made, seed=seed)
            if not target.exists():  # somebody else may have been faster
                made.rename(target)
    return inspect(target, name=folder.name)


def _write(folder: ModelFolder, target: Path, *, seed: int) -> None:
    from transformers import AutoConfig

    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            config = AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
            torch.manual_seed(fold(seed, "model"))
            model = _class_of(config)(config).float()
            model.save_pretrained(target, max_shard_size="1000GB")
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"{folder.path / CONFIG}: must be the config of a model that can be built, but {first_line(error)}."
        ) from error
    for name in (CONFIG, *TOKENIZER_FILES):
        if (folder.path / name).is_file():
            shutil.copyfile(folder.path / name, target / name)


def _class_of(config: Any) -> Any:
    """Return the class with an output embedding where the architecture writes, else the plain backbone."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        MODEL_MAPPING,
    )

    mapping: Any = MODEL_MAPPING
    if is_encoder_decoder(config.model_type):
        mapping = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    elif is_causal(config.model_type):
        mapping = MODEL_FOR_CAUSAL_LM_MAPPING
    return mapping[type(config)]
