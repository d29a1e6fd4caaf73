"""Each task as a plain transformers folder, and as a PEFT folder where its adapter is not merged.

Everything is written aside, loaded again by the stock classes and compared with the bundle on probe rows; only when
all of it agrees does it appear (``weft.export.proof``).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from weft.build.combine import merge
from weft.build.network import META
from weft.core.parts import AdapterState
from weft.core.stock import Stock, StockForm
from weft.errors import ExportError, StrategyError, nearest
from weft.export.bundle import Bundle
from weft.export.chat import Chat, save_tokenizer, tell
from weft.export.proof import form_of, prove
from weft.model.quiet import quiet
from weft.recipe.names import check_name
from weft.strategy import peft_folder, peft_layout, peft_positions
from weft.strategy.adapters import joined, of_task
from weft.strategy.base import Edits
from weft.strategy.registry import adapter_method
from weft.task.base import Generates

TOLERANCE = 1e-4
"""Largest accepted difference of a logit, in fp32."""

_CLASSES = {
    StockForm.SEQUENCE: ("AutoModelForSequenceClassification", "SEQ_CLS"),
    StockForm.TOKENS: ("AutoModelForTokenClassification", "TOKEN_CLS"),
    StockForm.CHOICE: (
        "AutoModelForMultipleChoice",
        None,
    ),  # PEFT has no word for it, and wraps it as any model
    StockForm.SPAN: ("AutoModelForQuestionAnswering", "QUESTION_ANS"),
    StockForm.CAUSAL: ("AutoModelForCausalLM", "CAUSAL_LM"),
    StockForm.REPLIES: ("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM"),
}
# What stock classes call the layer that Weft's heads fit.
_LAST_LAYERS = ("classifier", "score", "qa_outputs")
_TRUNK = "base-of-adapters"


@dataclass(frozen=True, slots=True)
class Exported:
    """One folder that was written.

    Attributes:
        folder: where.
        loads_with: the class of transformers or peft that loads it.
        difference: largest difference of a logit on the probe rows.
        windows: how the windows of a long text have one answer in the bundle; the folder answers one window (its
            ``config.json`` says this too). None where the bundle cuts such a text as well.
        chat: how far the tokenizer's chat template asks as the bundle does; None where the task brings none of its own.
    """

    folder: Path
    loads_with: str
    difference: float
    windows: Mapping[str, Any] | None = None
    chat: Chat | None = None


def export_plain(
    bundle: Bundle, out: Path, *, tasks: Sequence[str], tolerance: float = TOLERANCE
) -> list[Exported]:
    """Write ``out/<task>`` for each of ``tasks``, and ``out/<task>-adapter`` where PEFT can say what its rows pass through.

    A task has the adapters that act on all rows and those of its own. All or nothing: when one folder is refused, ``out``
    stays as it was.

    Args:
        bundle: opened in fp32 on the CPU, where stock models are loaded.
        out: made if need be; folders of the same name are replaced.
        tasks: names of tasks in the bundle.
        tolerance: largest accepted difference of a logit.

    Raises:
        ExportError: unknown task, no stock class can say it, or the difference is beyond ``tolerance``.
    """
    for name in tasks:
        if name not in bundle.tasks:
            raise ExportError(
                f"{name}: must be a task of the bundle, but is not. {nearest(name, bundle.tasks)}"
            )
    if bundle.dtype is not torch.float32:
        raise ExportError(
            f"{bundle.folder}: must be opened in fp32 to be exported, but is in {bundle.dtype}. Open it with precision fp32."
        )
    if bundle.base.quantize is not None:
        raise ExportError(
            f"{bundle.folder}: must be opened on whole weights to be exported, but its base is in {bundle.base.quantize}. Open "
            f"it with keeps_whole=True; what is exported then differs from the bundle by that rounding."
        )
    adapters = {name: _adapter(bundle, name) for name in tasks}
    adapted = [name for name, adapter in adapters.items() if adapter is not None]
    reserved = {_TRUNK, *(f"{name}-adapter" for name in adapted)} if adapted else set[str]()
    for name in reserved.intersection(tasks):
        raise ExportError(
            f"{name}: must have a folder of its own, but an adapter needs it. Export it alone (--task)."
        )
    with _aside(out) as home:
        writer = _Writer(bundle, home, out.resolve(), tolerance)
        done = [writer.merged(name) for name in tasks if name not in adapted or _is_merged(bundle, name)]
        if adapted:
            base = writer.adapter_base()
            done += [
                writer.adapter(name, adapter, base)
                for name, adapter in adapters.items()
                if adapter is not None
            ]
    return [replace(one, folder=out / one.folder.name) for one in done]


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes folders of one bundle into ``home``, which will be moved to ``out``."""

    bundle: Bundle
    home: Path
    out: Path
    tolerance: float

    def merged(self, name: str) -> Exported:
        """Write one task with everything folded into the weights."""
        auto_class, _ = _CLASSES[form_of(self.bundle.network, self.bundle.tasks[name])]
        home = self.home / check_name(name)
        chat = self._save(stock_model(self.bundle, name, _merged(self.bundle, name)), home, name)
        difference = prove(self.bundle, name, _load(auto_class, home), tolerance=self.tolerance)
        return Exported(home, auto_class, difference, self.bundle.tasks[name].stock().windows, chat)

    def adapter(self, name: str, adapter: AdapterState, base: Path) -> Exported:
        """Write ``adapter`` and one task's last layer, to stand on ``base``."""
        from peft import PeftModel

        bundle, home = self.bundle, self.home / f"{check_name(name)}-adapter"
        form = form_of(bundle.network, bundle.tasks[name])
        auto_class, task_type = _CLASSES[form]
        model = stock_model(bundle, name, bundle.parts.delta)
        sites = _bare_sites(bundle)
        raw = {site.path: site.raw for site in sites}
        values = _last_layer_values(bundle, name, model)
        address = str(self.out / base.name if base.is_relative_to(self.home) else base)
        about: dict[str, Any] = {"base": address, "task_type": task_type, "modules_to_save": values}
        is_of_positions = adapter.method in peft_positions.METHODS
        if form is StockForm.SPAN and not is_of_positions:
            about["task_type"] = None  # PEFT's own class for question answering leaves segments out
        if is_of_positions:
            peft_positions.write(home, adapter, sites=sites, **about)
        else:
            known, prefix = _known_adapter(bundle, adapter, raw, model), _prefix(bundle, model)
            if adapter.method in peft_folder.METHODS:
                peft_folder.write(home, known, sites=sites, prefix=prefix, **about)
            else:
                peft_layout.write(home, known, raw=raw, prefix=prefix, **about)
        chat = save_tokenizer(bundle, name, home)
        if isinstance(bundle.tasks[name], Generates):
            model.generation_config.save_pretrained(home)
        with quiet():
            loaded = PeftModel.from_pretrained(_load(auto_class, base, config=model.config), str(home))
        difference = prove(bundle, name, loaded, tolerance=self.tolerance)
        windows = bundle.tasks[name].stock().windows
        return Exported(home, f"PeftModel on {auto_class}", difference, windows, chat)

    def adapter_base(self) -> Path:
        """Return the model that adapters stand on: the base itself, or a copy where earlier stages changed it."""
        bundle = self.bundle
        if not bundle.parts.delta:
            return bundle.base.folder.path
        home = self.home / _TRUNK
        model = _load(_trunk_class(bundle), bundle.base.folder.path)
        _put(model, {_raw(bundle, path): value for path, value in bundle.parts.delta.items()})
        self._save(model, home)
        return home

    def _save(self, model: Any, home: Path, name: str | None = None) -> Chat | None:
        """Write a model, and the tokenizer as the task ``name`` uses it."""
        with quiet():
            model.save_pretrained(home)
        chat = None if name is None else save_tokenizer(self.bundle, name, home)
        if name is None:
            self.bundle.tokenizer.save(home)
        for path in home.iterdir():
            path.chmod(0o644)
        return chat


def stock_model(bundle: Bundle, name: str, trunk: Mapping[str, Tensor]) -> Any:
    """Return the stock model of one task with the trunk values ``trunk`` (by canonical path) and the task's head.

    Raises:
        ExportError: no stock class of this architecture has a place for the head.
    """
    stock, form = bundle.tasks[name].stock(), form_of(bundle.network, bundle.tasks[name])
    model = _load(_CLASSES[form][0], bundle.base.folder.path, config=_config(bundle, stock))
    if _own_prefix(model) != model.base_model_prefix:
        _put(model.base_model, _load("AutoModel", bundle.base.folder.path).state_dict())
    _put(model, {**_known_values(bundle, trunk, model), **_last_layer_values(bundle, name, model)})
    tell(model, bundle, name)
    return model


def _config(bundle: Bundle, stock: Stock) -> Any:
    from transformers import AutoConfig

    path = bundle.base.folder.path
    config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    config.pad_token_id = bundle.tokenizer.pad
    if stock.labels:
        config.id2label = dict(enumerate(stock.labels))
        config.label2id = {label: index for index, label in enumerate(stock.labels)}
    if stock.problem_type is not None:
        config.problem_type = stock.problem_type
    if stock.windows is not None:
        config.windows = dict(stock.windows)
    return config


def _load(auto_class: str, folder: Path, *, config: Any = None) -> Any:
    """Return a stock model in fp32 and eval mode. A last layer that is new is no matter: it is filled next."""
    import transformers

    loader = getattr(transformers, auto_class)
    options = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    try:
        with quiet():
            model = loader.from_pretrained(folder, config=config, dtype=torch.float32, **options)
    except ValueError as error:
        raise ExportError(f"{folder.name}: {auto_class} must know this architecture, but {error}") from error
    return model.eval()


def _merged(bundle: Bundle, name: str) -> dict[str, Tensor]:
    """Return every changed trunk value with the adapters of one task folded in.

    Raises:
        ExportError: one of them cannot be folded into weights.
    """
    parts = replace(bundle.parts, adapters=of_task(bundle.parts.adapters, name))
    if not parts.adapters:
        return dict(parts.delta)
    for adapter in parts.adapters:
        edits = adapter_method(adapter.method).edits
        if edits is not Edits.WEIGHT:
            raise ExportError(
                f"{name}: adapters must edit weights to be folded into a stock model, but {adapter.name} ({adapter.method}) "
                f"edits {edits}{_no_folder(bundle, name, adapter)}. Use the bundle itself, or choose other tasks with --task."
            )
    return merge(parts, bundle.base.sites(bundle.base.network({}, device=bundle.network.device)))


def _adapter(bundle: Bundle, name: str) -> AdapterState | None:
    """Return the one adapter that does what all those of a task do, None where PEFT has no such one."""
    adapters = of_task(bundle.parts.adapters, name)
    if not _finds_base(bundle, name):
        return None
    methods = {adapter.method for adapter in adapters}
    known = peft_layout.METHODS | peft_folder.METHODS | peft_positions.METHODS
    if bundle.tasks[name].stock().form is StockForm.CHOICE:
        known -= (
            peft_positions.METHODS
        )  # PEFT puts positions before rows (B, L), and these are (B, choices, L)
    if len(methods) != 1 or not methods <= known:
        return None
    try:
        adapter = joined(adapters, name=adapters[-1].name)
    except StrategyError:  # these do not add up to one: the folder with merged weights is all there is
        return None
    if adapter.method not in peft_positions.METHODS:
        return adapter
    return None if _obstacle(bundle, name, adapter) else adapter


def _obstacle(bundle: Bundle, name: str, adapter: AdapterState) -> str:
    """Return why PEFT cannot put the positions of ``adapter`` into the stock model of a task; empty where it can."""
    in_decoder = any(path.startswith("decoder.") for path in adapter.config["sites"])
    if in_decoder and form_of(bundle.network, bundle.tasks[name]) is not StockForm.REPLIES:
        return "the stock model of this task has no decoder"
    return peft_positions.obstacle(adapter, _bare_sites(bundle))


def _no_folder(bundle: Bundle, name: str, adapter: AdapterState) -> str:
    """Return words that say why ``adapter``, which no weights can say, has no folder of PEFT's either."""
    if adapter.method not in peft_positions.METHODS:
        return ""
    methods = dict.fromkeys(one.method for one in of_task(bundle.parts.adapters, name))
    why = (
        f"a row passes through {' and '.join(methods)}"
        if len(methods) > 1
        else _obstacle(bundle, name, adapter)
    )
    return f", and PEFT has no folder for it, as {why}" if why else ""


def _is_merged(bundle: Bundle, name: str) -> bool:
    """Return whether all adapters of a task fold into weights."""
    adapters = of_task(bundle.parts.adapters, name)
    return all(adapter_method(one.method).edits is Edits.WEIGHT for one in adapters)


def _bare_sites(bundle: Bundle) -> Sequence[Any]:
    return bundle.base.sites(bundle.base.network({}, device=META)).view.sites


def _prefix(bundle: Bundle, model: Any) -> str:
    """Return what stands before the trunk's raw names in a stock model: nothing where the trunk's have it already."""
    prefix = str(model.base_model_prefix)
    is_there = prefix in dict(cast(Any, bundle.trunk).model.named_children())
    return "" if is_there or not hasattr(model, prefix) else f"{prefix}."


def _own_prefix(model: Any) -> str:
    """Return what the architecture itself calls its trunk, which stands in the names of the base's files.

    Some stock classes call it otherwise, for compatibility (``LlamaForQuestionAnswering``: ``transformer``, not
    ``model``). They then find none of the base's weights, and begin with random ones.
    """
    return type(model.base_model).base_model_prefix


def _finds_base(bundle: Bundle, name: str) -> bool:
    """Return whether the stock class of a task finds the base's weights, as PEFT needs it to."""
    import transformers

    form = form_of(bundle.network, bundle.tasks[name])
    config, classes = _config(bundle, bundle.tasks[name].stock()), ("AutoModel", _CLASSES[form][0])
    found = [getattr(transformers, one)._model_mapping.get(type(config), None) for one in classes]
    return len({getattr(one, "base_model_prefix", None) for one in found} - {None}) < 2


def _stock_name(bundle: Bundle, model: Any, raw: str) -> str:
    """Return the stock model's name for ``raw`` of the bundle's trunk."""
    own = _own_prefix(model)
    return _prefix(bundle, model) + (raw if own == model.base_model_prefix else raw.removeprefix(f"{own}."))


def _known_values(bundle: Bundle, values: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Return trunk values under the stock model's names; those it has no place for (a pooler under tags) stay out.

    Nothing is lost unseen: a value that matters and is missing shows in the proof.
    """
    known = model.state_dict().keys()
    raw: dict[str, Tensor] = {}
    for path, value in values.items():
        name = _stock_name(bundle, model, _raw(bundle, path))
        if name in known:
            raw[name] = value
    return raw


def _raw(bundle: Bundle, path: str) -> str:
    # A module with parameters of its own is one site, whatever lies in it.
    site = next(site for site in bundle.sites.view.sites if path.startswith(f"{site.path}."))
    return f"{site.raw}{path.removeprefix(site.path)}"


def _known_adapter(bundle: Bundle, adapter: AdapterState, raw: Mapping[str, str], model: Any) -> AdapterState:
    """Return ``adapter`` at the sites that the stock model has."""
    modules = {name.removeprefix(_prefix(bundle, model)) for name, _ in model.named_modules()}
    options = {path: at_site for path, at_site in adapter.config["sites"].items() if raw[path] in modules}
    tensors = {path: tensor for path, tensor in adapter.tensors.items() if path.rsplit(".", 2)[0] in options}
    return replace(adapter, config={**adapter.config, "sites": options}, tensors=tensors)


def _last_layer_values(bundle: Bundle, name: str, model: Any) -> dict[str, Tensor]:
    """Return the head's values under the names of the stock model's last layer."""
    head = bundle.network.heads[name]
    if not any(True for _ in head.parameters()):
        return {}
    values = cast(Mapping[str, Tensor], cast(Any, head).stock_weights())
    for layer in _LAST_LAYERS:
        found = getattr(model, layer, None)
        own = {local for local, _ in found.named_parameters()} if isinstance(found, nn.Linear) else set[str]()
        if own - set(values) == {"bias"}:  # a layer without one is a layer whose bias is 0
            values = {**values, "bias": torch.zeros(values["weight"].shape[0])}
        if own == set(values):
            return {f"{layer}.{local}": value for local, value in values.items()}
    raise ExportError(
        f"{name}: the head must fit the last layer of {type(model).__name__}, but that is not a plain linear layer. "
        f"Use the bundle itself, or leave the task out with --task."
    )


def _put(model: Any, values: Mapping[str, Tensor]) -> None:
    left = model.load_state_dict(values, strict=False)
    if left.unexpected_keys:
        raise ExportError(
            f"{left.unexpected_keys[0]}: must be a parameter of {type(model).__name__}, but is not."
        )


def _trunk_class(bundle: Bundle) -> str:
    """Return the class of a model with the trunk's parameters and no others."""
    if not bundle.base.wants_lm_head:
        return "AutoModel"
    return _CLASSES[StockForm.REPLIES if bundle.trunk.info.is_encoder_decoder else StockForm.CAUSAL][0]


@contextmanager
def _aside(out: Path) -> Generator[Path]:
    """Yield a folder whose folders move into ``out`` when all went well; otherwise nothing is left of it."""
    had_parents = [path for path in (out, *out.parents) if path.exists()]
    out.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".weft-export-", dir=out))
    try:
        yield aside
        for folder in sorted(aside.iterdir()):
            target = out / folder.name
            if target.exists():
                shutil.rmtree(target)
            folder.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        for path in (out, *out.parents):
            if path not in had_parents and path.exists() and not any(path.iterdir()):
                path.rmdir()
