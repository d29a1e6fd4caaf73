"""The tuners of the installed ``peft`` at work: what one brings to a site, and its layers on given modules.

A tuner is not believed but tried: what it adds, whether it starts at the model's own function, treats each token alone
and merges is found out on modules of the same kind and shape.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from weft.core import linear
from weft.core.view import Site, SiteKind
from weft.errors import StrategyError
from weft.strategy.peft_config import as_ours, make_config

ADAPTER = "default"
"""What an adapter is called within PEFT's layers, whatever its own name."""


class Slot(NamedTuple):
    """Where PEFT's layer keeps one trained tensor."""

    holder: dict[str, Any]
    key: str


class Found(NamedTuple):
    """What a tuner does at a site.

    Attributes:
        shapes: of the trained tensors, by their name within the site in PEFT's folders.
        merges: whether it can be folded into the site's parameters.
    """

    shapes: Mapping[str, tuple[int, ...]]
    merges: bool


def build(
    word: str, options: Mapping[str, Any], modules: Mapping[str, nn.Module], *, seed: int
) -> dict[str, nn.Module]:
    """Return PEFT's layers, initialised from ``seed``, around copies of ``modules`` that share their parameters' values.

    Args:
        word: of ``names``.
        options: as ``checked`` returned them.
        modules: the plain modules, by the names that PEFT shall know them by.
        seed: of what is drawn.

    Raises:
        StrategyError: PEFT cannot act there, or what it trains is shared between modules.
    """
    model = _model(word, options, modules, seed=seed)
    layers = {name: model.base_model.model.get_submodule(name) for name in modules}
    owners: dict[int, str] = {}
    for name, layer in layers.items():
        for slot in slots(layer).values():
            if owners.setdefault(id(slot.holder[slot.key]), name) != name:
                raise _shared(word)
    if any(one.requires_grad and id(one) not in owners for one in model.parameters()):
        raise _shared(word)
    return layers


def _shared(word: str) -> StrategyError:
    return StrategyError(
        f"{word}: a tuner's trained tensors must each belong to one site, but some of its are shared. Choose another."
    )


def _model(word: str, options: Mapping[str, Any], modules: Mapping[str, nn.Module], *, seed: int) -> Any:
    from peft import get_peft_model

    config = make_config(word, options, sorted(modules))
    holder = nn.Module()
    for name, module in modules.items():
        parent = holder
        *above, last = name.split(".")
        for part in above:
            if part not in vars(parent)["_modules"]:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, stand(module))
    devices = [one.device for one in holder.parameters() if one.device.type == "cuda"][:1]
    with as_ours(f"{word} at {next(iter(modules))}"), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        return get_peft_model(holder, config, adapter_name=ADAPTER).eval()


def stand(module: nn.Module) -> nn.Module:
    """Return a module of the plain class of ``module`` with frozen parameters of the same values, without its edits."""
    kind = getattr(type(module), "edited", type(module))
    made: nn.Module = object.__new__(kind)
    nn.Module.__init__(made)
    own = {key: value for key, value in vars(module).items() if not key.startswith(("_", "peft_"))}
    vars(made).update({key: value for key, value in own.items() if key not in ("forward", "packed")})
    values = {**vars(module)["_parameters"], "weight": linear.dense(module)}
    vars(made)["_parameters"] = {
        name: None if value is None else nn.Parameter(value.detach(), requires_grad=False)
        for name, value in values.items()
    }
    vars(made)["_buffers"] = dict(vars(module)["_buffers"])
    return made


def slots(layer: nn.Module) -> dict[str, Slot]:
    """Return where ``layer`` keeps each tensor that it trains, by the tensor's name within the site."""
    found: dict[str, Slot] = {}
    for path, part in layer.named_modules():
        if path.split(".")[0] == "base_layer":
            continue
        own: dict[str, nn.Parameter | None] = vars(part)["_parameters"]
        for key, value in own.items():
            if value is not None and value.requires_grad:
                names = [name for name in (*path.split("."), *key.split(".")) if name not in ("", ADAPTER)]
                found[".".join(names)] = Slot(own, key)
    return found


def found(word: str, options: Mapping[str, Any], site: Site) -> Found:
    """Return what a tuner does at ``site``.

    Raises:
        StrategyError: it cannot act there, or not as Weft needs it; the message says which.
    """
    try:
        return _found(word, json.dumps(options, sort_keys=True), site.kind, *_form(site))
    except StrategyError as error:
        raise StrategyError(f"{site.path}: {error}") from error


def _form(site: Site) -> tuple[tuple[int, ...], bool]:
    """Return the shape of the weight at ``site``, and whether it has a bias."""
    shapes = {info.path: info.shape for info in site.params}
    return shapes[f"{site.path}.weight"], f"{site.path}.bias" in shapes


@cache
def _found(word: str, options_json: str, kind: SiteKind, shape: tuple[int, ...], has_bias: bool) -> Found:  # noqa: FBT001
    options = json.loads(options_json)
    modules, others = (
        {f"site.{place}": sample(kind, shape, has_bias=has_bias, seed=seed + place) for place in (0, 1)}
        for seed in (1, 3)
    )
    layers = build(word, options, modules, seed=0)
    layer = layers["site.0"]
    shapes = {local: tuple(slot.holder[slot.key].shape) for local, slot in slots(layer).items()}
    trained = {f"{name}.{local}" for name, one in layers.items() for local in slots(one)}
    mine, other = (saved(_model(word, options, some, seed=0)) for some in (modules, others))
    if any(not torch.equal(mine[key], other[key]) for key in mine.keys() - trained):
        raise StrategyError(
            f"{word}: what it does not train must follow from its options alone, but some is made of the weights. "
            f"Choose another."
        )
    with as_ours(f"{word} on a {kind}"), torch.no_grad():
        inputs = _inputs(kind, shape)
        return Found(shapes, _merges(layer, inputs, _tried(word, layer, modules["site.0"], inputs)))


def _tried(word: str, layer: nn.Module, plain: nn.Module, inputs: Tensor) -> Tensor:
    """Return what ``layer`` gives with its tensors moved; refuse what a site cannot have."""
    before = plain(inputs)
    if not _near(layer(inputs), before):
        raise StrategyError(
            f"{word}: a tuner must start at the model's own function, but does not with these options. Set "
            f"init_weights: true."
        )
    generator = torch.Generator().manual_seed(7)
    for slot in slots(layer).values():
        tensor = slot.holder[slot.key]
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)
    after = layer(inputs)
    if not _near(layer(inputs[-1:, -1:]), after[-1:, -1:]):
        raise StrategyError(
            f"{word}: a tuner must treat each token by itself, but this one mixes them. Choose another."
        )
    if not _near(cast(Any, layer).get_base_layer()(inputs), before):
        raise StrategyError(
            f"{word}: a tuner must leave the base weights as they are, but this one changes them. Choose another."
        )
    return after


def saved(model: Any) -> dict[str, Tensor]:
    """Return what PEFT would save of ``model``, by module and local name."""
    from peft import get_peft_model_state_dict

    kept = get_peft_model_state_dict(model, adapter_name=ADAPTER)
    return {key.removeprefix("base_model.model."): tensor for key, tensor in kept.items()}


def derived(word: str, options: Mapping[str, Any], sites: Sequence[Site]) -> dict[str, Tensor]:
    """Return what PEFT saves beside trained tensors: it follows from the options and the sites' raw names and shapes."""
    modules: dict[str, nn.Module] = {}
    for site in sites:
        shape, has_bias = _form(site)
        modules[site.raw] = sample(site.kind, shape, has_bias=has_bias, seed=None)
    model = _model(word, options, modules, seed=0)
    trained = {
        f"{raw}.{local}" for raw in modules for local in slots(model.base_model.model.get_submodule(raw))
    }
    return {key: tensor for key, tensor in saved(model).items() if key not in trained}


def _merges(layer: nn.Module, inputs: Tensor, expected: Tensor) -> bool:
    try:
        with as_ours("merge"):
            return _near(_folded(layer)(inputs), expected)
    except StrategyError:
        return False


def _folded(layer: nn.Module) -> nn.Module:
    cast(Any, layer).merge(safe_merge=False, adapter_names=[ADAPTER])
    return cast(Any, layer).get_base_layer()


def folded(layer: nn.Module) -> dict[str, Tensor]:
    """Return weight and bias of ``layer``'s module with the adapter folded in; those it had are changed."""
    with as_ours("merge"), torch.no_grad():
        return {name: value.detach() for name, value in _folded(layer).named_parameters(recurse=False)}


def _near(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool(
        (found - expected).abs().max() <= 1e-4 * (1.0 + expected.abs().max())
    )


def plain(kind: SiteKind, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Return the usual module of ``kind`` with these parameters."""
    made: nn.Module
    match kind:
        case SiteKind.LINEAR:
            made = nn.Linear(1, 1, bias=False, device="meta")
            made.out_features, made.in_features = weight.shape
        case SiteKind.CONV1D:
            from peft.tuners.tuners_utils import Conv1D

            made = Conv1D(1, 1)
            made.nx, made.nf = weight.shape
        case SiteKind.EMBEDDING:
            made = nn.Embedding(1, 1, device="meta")
            made.num_embeddings, made.embedding_dim = weight.shape
        case SiteKind.NORM | SiteKind.OTHER:
            made = nn.LayerNorm(weight.shape[0], device="meta")
    values = {"weight": weight, "bias": bias}
    vars(made)["_parameters"] = {
        name: None if value is None else nn.Parameter(value, requires_grad=False)
        for name, value in values.items()
        if name == "weight" or kind is not SiteKind.EMBEDDING
    }
    return made


def sample(kind: SiteKind, shape: tuple[int, ...], *, has_bias: bool, seed: int | None) -> nn.Module:
    """Return a module of ``kind`` with drawn values, or without a seed with zeros that take no memory."""
    width = shape[-1] if kind is SiteKind.CONV1D else shape[0]
    if seed is None:
        zero = torch.zeros(())
        return plain(kind, zero.expand(shape), zero.expand(width) if has_bias else None)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator) * shape[-1] ** -0.5
    return plain(kind, weight, torch.randn(width, generator=generator) if has_bias else None)


def _inputs(kind: SiteKind, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    if kind is SiteKind.EMBEDDING:
        return torch.randint(0, shape[0], (2, 3), generator=generator)
    return torch.randn(2, 3, shape[0] if kind is not SiteKind.LINEAR else shape[1], generator=generator)


class Held:
    """PEFT's layer at a site: it computes with parameters that lie elsewhere, in fp32, around whatever stands there.

    Args:
        layer: of ``build``; its module is put aside.
    """

    def __init__(self, layer: nn.Module) -> None:
        inside: dict[str, nn.Module] = vars(layer)["_modules"]
        base = inside["base_layer"]
        self._base = object.__new__(_living(type(base)))
        vars(self._base).update(vars(base))
        vars(self._base)["_parameters"] = {}
        inside["base_layer"] = self._base
        self._layer = layer
        self.slots = slots(layer)

    def __call__(
        self,
        module: nn.Module,
        inputs: Tensor,
        *,
        inner: Callable[[Tensor], Tensor],
        values: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the layer's outputs.

        Args:
            module: at the site; its weight is read where the tuner reads it.
            inputs: of the module.
            inner: what the module computes without this adapter.
            values: trained tensors by local name.
        """
        for local, slot in self.slots.items():
            slot.holder[slot.key] = values[local].float()
        is_table = not inputs.is_floating_point()
        width = vars(module)["_parameters"]["weight"].dtype if is_table else inputs.dtype
        own = vars(self._base)
        own["living"] = module
        own["forward"] = inner if is_table else lambda given: inner(given.to(width))
        if self._layer.training is not module.training:
            self._layer.train(module.training)
        return self._layer(inputs if is_table else inputs.float()).to(width)


@cache
def _living(kind: type[nn.Module]) -> type[nn.Module]:
    """Return ``kind`` with the parameters of the module that it stands for, as they are at the moment, in fp32."""

    def read(name: str) -> property:
        def value(own: nn.Module) -> Tensor | None:
            weight, bias = linear.dense(vars(own)["living"]), linear.values(vars(own)["living"])[1]
            found = weight if name == "weight" else bias
            return None if found is None else found.float()

        return property(value)

    return type(kind.__name__, (kind,), {"weight": read("weight"), "bias": read("bias")})
