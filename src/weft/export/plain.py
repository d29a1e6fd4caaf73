"""Each task as a plain transformers folder, and as a PEFT folder where its adapter is not merged, proven by probe rows.

Legend: B probe rows, L padded length, T real tokens, C outputs.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from weft.build.stage import merge
from weft.core.batch import Batch, Target
from weft.core.layout import Layout
from weft.core.network import Head
from weft.core.parts import Parts
from weft.core.seeds import fold
from weft.core.stock import Stock, StockForm
from weft.errors import ExportError, nearest
from weft.export.bundle import Bundle
from weft.recipe.names import check_name
from weft.strategy import peft_layout
from weft.task.base import Task

TOLERANCE = 1e-4
"""Largest accepted difference of a logit, in fp32."""

_CLASSES = {
    StockForm.SEQUENCE: ("AutoModelForSequenceClassification", "SEQ_CLS"),
    StockForm.TOKENS: ("AutoModelForTokenClassification", "TOKEN_CLS"),
    StockForm.CAUSAL: ("AutoModelForCausalLM", "CAUSAL_LM"),
}
_LAST_LAYERS = ("classifier", "score")  # what stock classes call the layer that Weft's heads fit
_PROBE_ROWS, _PROBE_LENGTH = 16, 24


@dataclass(frozen=True, slots=True)
class Exported:
    """One folder that was written.

    Attributes:
        folder: where.
        loads_with: the class of transformers or peft that loads it.
        difference: largest difference of a logit on the probe rows.
    """

    folder: Path
    loads_with: str
    difference: float


def export_plain(bundle: Bundle, out: Path, *, tasks: Sequence[str], tolerance: float = TOLERANCE) -> list[Exported]:
    """Write ``out/<task>`` for each of ``tasks``, and ``out/<task>-adapter`` where the bundle holds one adapter.

    Every folder is loaded again by the stock class and compared on random token rows; it appears only if it agrees.

    Args:
        bundle: opened in fp32.
        out: made if need be; folders of the same name are replaced.
        tasks: names of tasks in the bundle.
        tolerance: largest accepted difference of a logit.

    Raises:
        ExportError: unknown task, no stock class can say it, or the difference is beyond ``tolerance``.
    """
    for name in tasks:
        if name not in bundle.tasks:
            raise ExportError(f"{name}: must be a task of the bundle. {nearest(name, bundle.tasks)}")
    out.mkdir(parents=True, exist_ok=True)
    done = [_export_merged(bundle, out, name, tolerance) for name in tasks]
    if len(bundle.parts.adapters) == 1:
        base = _adapter_base(bundle, out)
        done += [_export_adapter(bundle, out, name, base, tolerance) for name in tasks]
    return done


def _export_merged(bundle: Bundle, out: Path, name: str, tolerance: float) -> Exported:
    auto_class, _ = _CLASSES[bundle.tasks[name].stock().form]
    with _aside(out, check_name(name)) as home:
        model = stock_model(bundle, name, _merged(bundle))
        _save(model, bundle, home)
        difference = _prove(bundle, name, _load(auto_class, home), home, tolerance)
    return Exported(out / name, auto_class, difference)


def _export_adapter(bundle: Bundle, out: Path, name: str, base: Path, tolerance: float) -> Exported:
    from peft import PeftModel

    auto_class, task_type = _CLASSES[bundle.tasks[name].stock().form]
    sites = bundle.base.sites(bundle.base.network({}, device=torch.device("meta"))).view.sites
    empty = stock_model(bundle, name, bundle.parts.delta)
    with _aside(out, f"{name}-adapter") as home:
        peft_layout.write(
            home,
            bundle.parts.adapters[0],
            raw={site.path: site.raw for site in sites},
            base=str(base),
            task_type=task_type,
            prefix=_prefix(bundle, empty),
            modules_to_save=_last_layer_values(bundle, name, empty),
        )
        bundle.tokenizer.save(home)
        loaded = PeftModel.from_pretrained(_load(auto_class, base, config=empty.config), str(home))
        difference = _prove(bundle, name, loaded, home, tolerance)
    return Exported(out / f"{name}-adapter", f"PeftModel on {auto_class}", difference)


def _adapter_base(bundle: Bundle, out: Path) -> Path:
    """Return the model that adapters stand on: the base itself, or ``out/trunk`` when earlier stages changed it."""
    if not bundle.parts.delta:
        return bundle.base.folder.path
    from transformers import AutoModel, AutoModelForCausalLM

    with _aside(out, "trunk") as home:
        loader = AutoModelForCausalLM if bundle.base.wants_lm_head else AutoModel
        model = loader.from_pretrained(bundle.base.folder.path, local_files_only=True, dtype=torch.float32)
        _put(model, _raw_values(bundle, bundle.parts.delta, prefix=""))
        _save(model, bundle, home)
    return out / "trunk"


def stock_model(bundle: Bundle, name: str, trunk: Mapping[str, Tensor]) -> Any:
    """Return the stock model of one task with the trunk values ``trunk`` (by canonical path) and the task's head."""
    stock = bundle.tasks[name].stock()
    model = _load(_CLASSES[stock.form][0], bundle.base.folder.path, config=_config(bundle, stock))
    is_causal = stock.form is StockForm.CAUSAL
    values = _raw_values(bundle, trunk, prefix=_prefix(bundle, model), with_lm_head=is_causal)
    _put(model, {**values, **_last_layer_values(bundle, name, model)})
    return model.eval()


def _config(bundle: Bundle, stock: Stock) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(bundle.base.folder.path, local_files_only=True)
    config.pad_token_id = bundle.tokenizer.pad
    if stock.labels:
        config.id2label = dict(enumerate(stock.labels))
        config.label2id = {label: index for index, label in enumerate(stock.labels)}
    if stock.problem_type is not None:
        config.problem_type = stock.problem_type
    return config


def _load(auto_class: str, folder: Path, *, config: Any = None) -> Any:
    import transformers

    loader = getattr(transformers, auto_class)
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # a new last layer is expected: it is filled next
    try:
        model = loader.from_pretrained(folder, config=config, local_files_only=True, dtype=torch.float32)
    except ValueError as error:
        raise ExportError(f"{folder.name}: {auto_class} must know this architecture, but {error}.") from error
    finally:
        transformers.logging.set_verbosity(level)
    return model.eval()


def _merged(bundle: Bundle) -> dict[str, Tensor]:
    """Return every changed trunk value with adapters folded in."""
    sites = bundle.base.sites(bundle.base.network({}, device=bundle.network.device))
    return merge(Parts(delta=bundle.parts.delta, adapters=bundle.parts.adapters), sites)


def _prefix(bundle: Bundle, model: Any) -> str:
    """Return what stands before the trunk's raw names in a stock model."""
    return "" if bundle.base.wants_lm_head else f"{model.base_model_prefix}."


def _raw_values(
    bundle: Bundle, values: Mapping[str, Tensor], *, prefix: str, with_lm_head: bool = True
) -> dict[str, Tensor]:
    raw: dict[str, Tensor] = {}
    for path, value in values.items():
        site, _, local = path.rpartition(".")
        if with_lm_head or site != "lm_head":
            raw[f"{prefix}{bundle.sites.site(site).raw}.{local}"] = value
    return raw


def _last_layer_values(bundle: Bundle, name: str, model: Any) -> dict[str, Tensor]:
    """Return the head's values under the names of the stock model's last layer."""
    head = bundle.network.heads[name]
    if not any(True for _ in head.parameters()):
        return {}
    values = cast(Mapping[str, Tensor], cast(Any, head).stock_weights())
    for layer in _LAST_LAYERS:
        found = getattr(model, layer, None)
        if isinstance(found, nn.Linear) and set(dict(found.named_parameters())) == set(values):
            return {f"{layer}.{local}": value for local, value in values.items()}
    raise ExportError(
        f"{name}: the head must fit the last layer of {type(model).__name__}, but that is not a plain linear layer. "
        f"Use the bundle itself."
    )


def _put(model: Any, values: Mapping[str, Tensor]) -> None:
    left = model.load_state_dict(values, strict=False)
    if left.unexpected_keys:
        raise ExportError(f"{left.unexpected_keys[0]}: must be a parameter of {type(model).__name__}, but is not.")


def _save(model: Any, bundle: Bundle, home: Path) -> None:
    model.save_pretrained(home)
    bundle.tokenizer.save(home)
    for path in home.iterdir():
        path.chmod(0o644)


def _prove(bundle: Bundle, name: str, model: Any, home: Path, tolerance: float) -> float:
    """Return the largest difference of a logit between ``model`` and the bundle; refuse more than ``tolerance``."""
    batch = probe_batch(bundle)
    ours = weft_logits(bundle, bundle.tasks[name], batch)
    theirs = stock_logits(model, bundle.tasks[name], batch)
    difference = float((ours - theirs).abs().max())
    if not difference <= tolerance:
        raise ExportError(
            f"{name}: the exported model must compute what the bundle computes, but a logit differs by "
            f"{difference:.1e} (limit {tolerance:.0e}). {type(model).__name__} may pool in another way than the head: "
            f"train with the default pooling, or use the bundle itself. {home.name} was not kept."
        )
    return difference


def probe_batch(bundle: Bundle) -> Batch:
    """Return random rows of ordinary tokens, padded; always the same for a model."""
    random = np.random.default_rng(fold(0, "export"))
    vocabulary = bundle.network.trunk.model.get_input_embeddings().weight.shape[0]  # pyright: ignore
    ordinary = np.setdiff1d(np.arange(vocabulary), [bundle.tokenizer.pad])
    lengths = [int(n) for n in random.integers(2, _PROBE_LENGTH + 1, size=_PROBE_ROWS)]
    tokens_BL = torch.full((_PROBE_ROWS, max(lengths)), bundle.tokenizer.pad, dtype=torch.int64)
    for row, length in enumerate(lengths):
        tokens_BL[row, :length] = torch.from_numpy(random.choice(ordinary, size=length))
    rows = tuple(f"probe:{row}" for row in range(_PROBE_ROWS))
    return Batch(tokens=tokens_BL, segments=None, layout=Layout.padded(lengths), targets={}, ids=rows)


def weft_logits(bundle: Bundle, task: Task, batch: Batch) -> Tensor:
    """Return the outputs of the bundle's head for every row, (B, C), or every real token, (T, C)."""
    layout = batch.layout
    target = Target(
        rows_R=torch.arange(layout.num_rows),
        values={"positions": torch.arange(layout.num_tokens)},
        weight=0.0,
        num_examples=layout.num_rows,
    )
    device = bundle.network.device
    with torch.inference_mode():
        features = bundle.network.features(batch.to(device))
        return cast(Head, bundle.network.heads[task.name])(features, target.to(device)).float().cpu()


def stock_logits(model: Any, task: Task, batch: Batch) -> Tensor:
    """Return a stock model's logits for the same rows or tokens."""
    with torch.inference_mode():
        logits = model(input_ids=batch.tokens, attention_mask=batch.layout.mask_BL().long()).logits.float()
    if task.stock().form is StockForm.SEQUENCE:
        return logits
    return logits.flatten(0, 1)[batch.layout.index_T]


@contextmanager
def _aside(out: Path, name: str) -> Iterator[Path]:
    """Yield a folder that becomes ``out / name`` when all went well, and is removed when not."""
    aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=out))
    try:
        yield aside
        aside.chmod(0o755)
        if (out / name).exists():
            shutil.rmtree(out / name)
        aside.rename(out / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
