"""What a network looks like from outside: every module with parameters as a site under its canonical name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

from torch import nn

from weft.core.network import Network
from weft.core.quantized import is_quantized
from weft.core.view import ModelView, ParamInfo, Site, SiteKind
from weft.errors import ModelError
from weft.model.attention import TAKES_KEYS
from weft.model.decoder import has_encoder
from weft.model.names import NameTable, name_table
from weft.model.prefixed import unprefixed
from weft.model.trunk import is_causal

_LAYER = re.compile(r"(?P<stack>(?:encoder\.|decoder\.)?)layers\.(?P<index>\d+)\.")


def describe(network: Network) -> ModelView:
    """Return the view of a network, real or on the meta device.

    A module that owns parameters is one site, whole: its own and its children's parameters belong to it (so a site
    with LoRA factors stays one site). Aliases of tied weights are marked with the path that owns the storage, which
    is the first in order.

    Raises:
        ModelError: parameters hang at the top of the trunk, outside of any module.
    """
    model = cast(nn.Module, network.trunk.model)
    table = _table(model)
    sites: list[Site] = []
    owners: dict[int, str] = {}
    for raw, module in _owning(model, ""):
        if not raw:
            raise ModelError(
                f"{table.architecture}: every parameter must belong to a module of the model, but some hang at its "
                f"top. Choose another architecture."
            )
        sites.append(_site(module, path=table.canonical(raw) or raw, raw=raw, owners=owners))
    for task, head in network.heads.items():
        for raw, module in _owning(head, ""):
            path = f"heads.{task}.{raw}" if raw else f"heads.{task}"
            sites.append(_site(module, path=path, raw=raw, owners=owners))
    return ModelView(
        table.architecture,
        tuple(sites),
        _count_layers(sites, table),
        table.has_table,
        words=_words(model, table),
        unprefixed=unprefixed(cast(Any, model).config.to_dict(), looks_up=_looks_up(cast(Any, model), table)),
        is_causal=is_causal(table.architecture),
        width=int(getattr(cast(Any, model).config, "hidden_size", 0)),
    )


def _words(model: nn.Module, table: NameTable) -> str:
    """Return the path of the table that rows' token ids are looked up in: the encoder's, where there is one."""
    stock = cast(Any, model)
    words = (stock.get_encoder() if has_encoder(stock) else stock).get_input_embeddings()
    raw = next((name for name, module in model.named_modules() if module is words), "")
    return table.canonical(raw) or raw


def _looks_up(model: Any, table: NameTable) -> bool:
    """Return whether attention is looked up by name, which T5's kin do in the later ones of transformers' versions."""
    return table.architecture in TAKES_KEYS and bool(getattr(model, "_supports_sdpa", False))


def in_layer(path: str) -> bool:
    """Return whether the site at ``path`` lies in a layer of a stack."""
    return _LAYER.match(path) is not None


def _table(model: nn.Module) -> NameTable:
    """Return the names of ``model``; a causal LM holds its backbone under ``base_model_prefix``."""
    prefix = str(getattr(model, "base_model_prefix", ""))
    wraps = prefix in dict(model.named_children())
    return name_table(cast(Any, model).config.to_dict(), prefix=prefix if wraps else "")


def _owning(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the topmost modules with parameters of their own, aliases included, in registration order."""
    if next(module.parameters(recurse=False), None) is not None:
        yield name, module
        return
    for child_name, child in module.named_children():
        yield from _owning(child, f"{name}.{child_name}" if name else child_name)


def _site(module: nn.Module, *, path: str, raw: str, owners: dict[int, str]) -> Site:
    infos: list[ParamInfo] = []
    for name, parameter in module.named_parameters(remove_duplicate=False):
        own = f"{path}.{name}"
        owner = owners.setdefault(id(parameter), own)
        is_fixed = name == "weight" and is_quantized(module)
        infos.append(ParamInfo(own, tuple(parameter.shape), None if owner == own else owner, is_fixed))
    return Site(path, _kind(module), raw, tuple(infos))


def _kind(module: nn.Module) -> SiteKind:
    """Return what stands at a site, by what it has: a wrapped linear keeps its widths, whatever its class."""
    weight = getattr(module, "weight", None)
    if hasattr(module, "num_embeddings"):
        return SiteKind.EMBEDDING
    if hasattr(module, "nf") and hasattr(module, "nx"):
        return SiteKind.CONV1D
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return SiteKind.LINEAR
    if "norm" in type(module).__name__.lower() and weight is not None and weight.ndim == 1:
        return SiteKind.NORM
    return SiteKind.OTHER


def _count_layers(sites: list[Site], table: NameTable) -> dict[str, int]:
    counts: dict[str, int] = {}
    matches = (_LAYER.match(site.path) for site in sites if table.has_table)
    for match in filter(None, matches):
        counts[match["stack"]] = max(counts.get(match["stack"], 0), int(match["index"]) + 1)
    return counts
