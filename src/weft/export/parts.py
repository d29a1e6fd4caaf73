"""Parts on disk: ``delta.safetensors``, ``adapters/<name>/`` in PEFT's layout, ``heads/<task>/`` (DESIGN section 7).

What is read may have been tampered with: names stay plain, links are refused, and every tensor is held against the
network that it is for, before anything is put into one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.core.parts import AdapterState, HeadState, Parts, adapter_of, tasks_and_parts
from weft.core.routing import routes_of
from weft.core.sites import HEAD_PREFIX
from weft.core.view import ModelView
from weft.errors import ExportError, NameInvalidError, StrategyError
from weft.recipe.names import Name, check_name
from weft.strategy import adapter_layout, peft_folder, peft_layout, peft_positions
from weft.strategy.adapter_folder import read_folder


def _without_repeats(names: Any) -> Any:
    if isinstance(names, list) and len(set(map(str, names))) < len(names):
        raise ValueError("names must be different")
    return names


Names = Annotated[tuple[Name, ...], BeforeValidator(_without_repeats)]


def _plain_route(route: str) -> str:
    adapter, *parts = route.split("/", 1)
    for name in (adapter, *parts):
        check_name(name)
    return route


Route = Annotated[str, AfterValidator(_plain_route)]
Routes = Annotated[tuple[Route, ...], BeforeValidator(_without_repeats)]


class _Listing(BaseModel):
    """``parts.json``."""

    model_config = ConfigDict(frozen=True)

    adapters: Names
    heads: Names
    stages: dict[Name, Name] = {}
    routes: dict[Name, Routes] = {}


class _HeadFile(BaseModel):
    """``heads/<task>/head.json``."""

    model_config = ConfigDict(frozen=True)

    task: Name
    kind: str
    config: dict[str, Any]


Model = TypeVar("Model", bound=BaseModel)


def save_parts(folder: Path, parts: Parts, view: ModelView, *, base: str) -> None:
    """Write ``parts`` under ``folder``.

    Args:
        folder: exists; what it holds under the same names is replaced.
        parts: what differs from the base model.
        view: the base network's view, for the raw module names that PEFT's layout needs.
        base: path or id of the base model, as adapters should name it.
    """
    if parts.delta:
        save_tensors(folder / "delta.safetensors", parts.delta)
    raw = {site.path: site.raw for site in view.sites if not site.path.startswith(HEAD_PREFIX)}
    for adapter in parts.adapters:
        home = folder / "adapters" / check_name(adapter.name)
        if adapter.method in peft_layout.METHODS:
            peft_layout.write(home, adapter, raw=raw, base=base, task_type=None)
        elif adapter.method in peft_folder.METHODS:
            peft_folder.write(home, adapter, sites=view.sites, base=base, task_type=None)
        elif _is_of_positions(adapter, view):
            peft_positions.write(home, adapter, sites=view.sites, base=base, task_type=_task_type(view))
        else:
            adapter_layout.write(home, adapter)
    for head in parts.heads.values():
        home = folder / "heads" / check_name(head.task)
        home.mkdir(parents=True, exist_ok=True)
        write_json(home / "head.json", {"task": head.task, "kind": head.kind, "config": dict(head.config)})
        if head.tensors:
            save_tensors(home / "head.safetensors", head.tensors)
    names = {
        "adapters": [adapter.name for adapter in parts.adapters],
        "heads": list(parts.heads),
        "stages": {adapter.name: adapter.stage for adapter in parts.adapters if adapter.stage},
    }
    routes = routes_of(adapter.routes for adapter in parts.adapters)
    write_json(folder / "parts.json", {**names, **({"routes": routes} if routes else {})})


def load_parts(folder: Path, view: ModelView) -> Parts:
    """Return the parts that ``save_parts`` wrote.

    Args:
        folder: what was written; read as data, nothing in it is executed.
        view: the base network's view, which delta and adapters must fit.

    Raises:
        ExportError: a file is missing, leads out of the folder, or is not what ``parts.json`` says.
    """
    check_links(folder)
    listing = read_record(folder / "parts.json", _Listing)
    for task, routes in listing.routes.items():
        adapters = [adapter_of(route) for route in routes]
        if task not in listing.heads or not set(adapters) <= set(listing.adapters):
            raise ExportError(
                f"{folder / 'parts.json'}: routes must lead from a head to adapters of the bundle, but {task} leads to "
                f"{', '.join(adapters)}. Take the folder as Weft wrote it."
            )
    delta = folder / "delta.safetensors"
    return Parts(
        delta=_load_delta(delta, view) if delta.is_file() else {},
        adapters=tuple(
            _routed(_load_adapter(folder / "adapters" / name, view), listing) for name in listing.adapters
        ),
        heads={name: _load_head(folder / "heads" / name) for name in listing.heads},
    )


def _load_delta(path: Path, view: ModelView) -> dict[str, Tensor]:
    tensors = load_tensors(path)
    shapes = {info.path: info.shape for site in view.sites for info in site.params if info.tied_to is None}
    for name, tensor in tensors.items():
        if name not in shapes:
            raise ExportError(f"{path}: {name} must be a parameter of the base model, but is not.")
        check_tensor(name, tensor, shapes[name], where=path)
    return tensors


def _is_of_positions(adapter: AdapterState, view: ModelView) -> bool:
    """Return whether PEFT's folder says all of a prompt or prefix: a projection goes on being trained where it is kept."""
    is_whole = all("hidden" not in options for options in adapter.config["sites"].values())
    return (
        adapter.method in peft_positions.METHODS
        and is_whole
        and not peft_positions.obstacle(adapter, view.sites)
    )


def _task_type(view: ModelView) -> str:
    """Return what PEFT calls a model by what it writes with: it decides where positions are put."""
    if "decoder." in view.num_layers:
        return peft_positions.TWO_STACKS
    is_causal = any(site.path == "lm_head" for site in view.sites)
    return "CAUSAL_LM" if is_causal else "FEATURE_EXTRACTION"


def _load_adapter(folder: Path, view: ModelView) -> AdapterState:
    try:
        return read_folder(folder, view)
    except (StrategyError, NameInvalidError) as error:
        raise ExportError(str(error)) from error


def _routed(adapter: AdapterState, listing: _Listing) -> AdapterState:
    tasks, parts = tasks_and_parts(adapter.name, listing.routes)
    return replace(adapter, tasks=tasks, parts=parts, stage=listing.stages.get(adapter.name, ""))


def _load_head(folder: Path) -> HeadState:
    record = read_record(folder / "head.json", _HeadFile)
    if record.task != folder.name:
        raise ExportError(
            f"{folder / 'head.json'}: task must be {folder.name} as the folder says, but is {record.task}."
        )
    weights = folder / "head.safetensors"
    tensors = load_tensors(weights) if weights.is_file() else {}
    return HeadState(task=record.task, kind=record.kind, config=record.config, tensors=tensors)


def check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], *, where: Path) -> None:
    """Refuse a tensor of another shape, or one that does not hold finite numbers.

    Raises:
        ExportError: it is not what the network needs.
    """
    if tuple(tensor.shape) != shape:
        raise ExportError(f"{where}: {name} must have shape {shape}, but has {tuple(tensor.shape)}.")
    if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
        raise ExportError(f"{where}: {name} must hold finite floating-point numbers, but does not.")


def check_links(folder: Path) -> None:
    """Refuse links that lead out of ``folder``; a snapshot of the Hub may link into its own repository.

    Raises:
        ExportError: a link leads elsewhere.
    """
    home = (folder.parent.parent if folder.parent.name == "snapshots" else folder).resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise ExportError(
                f"{path}: must lie in its folder, but links to {path.resolve()}. Copy it there instead."
            )


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write ``tensors`` as one safetensors file that others can read (mode 0644)."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    path.chmod(0o644)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one safetensors file.

    Raises:
        ExportError: not a readable safetensors file.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ExportError(
            f"{path}: must be a whole safetensors file, but reading it says: {error}."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable UTF-8 JSON."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``.

    Raises:
        ExportError: missing, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path}: must be a JSON file that Weft wrote, but {error}.") from error
    if not isinstance(value, dict):
        raise ExportError(f"{path}: must hold a JSON object, but holds a {type(value).__name__}.")
    return value


def read_record(path: Path, kind: type[Model]) -> Model:
    """Return the JSON object in ``path`` as a ``kind``.

    Raises:
        ExportError: missing, not JSON, or with missing or wrong values.
    """
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise ExportError(f"{path}: {place} must be as Weft wrote it, but: {first['msg']}.") from error
