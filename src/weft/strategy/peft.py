"""The long tail: any tuner of the installed ``peft`` that edits modules, by PEFT's own name and options.

PEFT's layers compute and give the initial values; Weft keeps the parameters, in its own table under its own paths, and
folds them in, in fp32 on copies. ``weft.strategy.peft_tuner`` says what a tuner must be to stand here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from weft.core.parts import AdapterState
from weft.core.seeds import fold
from weft.core.sites import SiteMap
from weft.core.view import ParamInfo, Site, SiteKind
from weft.errors import StrategyError
from weft.recipe.spec import Rule
from weft.strategy import peft_config, peft_tuner
from weft.strategy.base import AdapterRule, Edits
from weft.strategy.edit import Edit, Factors, options_at
from weft.strategy.site_method import AtSite, SiteMethod, given

Option = bool | int | float | str | None
HELD = "peft_held"
"""Attribute of a module: PEFT's layers by adapter."""


class _Tuner(BaseModel):
    """A tuner with its options, as PEFT understands them."""

    method: str
    options: dict[str, Option | list[Option]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> Self:
        try:
            found = peft_config.checked(self.method, self.options)
        except StrategyError as error:
            raise PydanticCustomError("peft", "{why}", {"why": str(error)}) from error
        for name, value in zip(("method", "options"), found, strict=True):
            object.__setattr__(self, name, value)  # both are frozen
        return self


class PeftRule(AdapterRule, _Tuner):
    """``{train: peft, method: VERA, options: {r: 256}}``."""

    sites: str = "linear"
    """Selector; default: every linear site but the output embedding."""
    train: Literal["peft"] = "peft"  # pyright: ignore[reportIncompatibleVariableOverride]
    method: str
    """PEFT's name of the tuner: VERA, LOHA, LOKR, OFT, BOFT, HRA, FOURIERFT, ..."""
    options: dict[str, Option | list[Option]] = Field(default_factory=dict)
    """Fields of the tuner's own config in PEFT."""


class PeftAt(_Tuner, AtSite):
    """Options of a site."""


class PeftSite(Edit):
    """In front of a module: PEFT's layers, one for each adapter, with the parameters that lie here."""

    key = "peft"
    place = 1
    tables = ()  # each tuner brings its own: peft_<name>
    reads_weight = True
    peft_options: dict[str, dict[str, Any]]

    def put(
        self, name: str, options: dict[str, Any], tensors: Mapping[str, Tensor], *, edit: type[Edit]
    ) -> None:
        """Add one adapter and the tables that it needs."""
        for table in tensors:
            if table not in vars(self)["_modules"]:
                setattr(self, table, Factors())
        super().put(name, options, tensors, edit=edit)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs for ``inputs``: (..., I), or ids of any shape."""
        leading = inputs.shape[:-1] if inputs.is_floating_point() else inputs.shape
        acting = list(self.acting(PeftSite, leading))
        common = [name for name, positions_N in acting if positions_N is None]
        outputs = self._through(common, inputs)
        for name, positions_N in acting:
            if positions_N is not None:
                some = inputs.flatten(0, len(leading) - 1).index_select(0, positions_N)
                changed = self._through([*common, name], some)
                flat = outputs.flatten(0, -2).index_copy(0, positions_N, changed)
                outputs = flat.view(outputs.shape)
        return outputs

    def _through(self, names: Sequence[str], inputs: Tensor) -> Tensor:
        """Return what the module gives with the adapters ``names``, the first one nearest to it."""
        compute = super().forward
        for name in names:
            held: peft_tuner.Held = vars(self)[HELD][name]
            values = {local: self._table(local)[name] for local in held.slots}
            compute = partial(held, self, inner=compute, values=values)
        return compute(inputs)

    def _table(self, local: str) -> Factors:
        return vars(self)["_modules"][table_of(local)]


def table_of(local: str) -> str:
    """Return the table at a site that holds what PEFT calls ``local`` within it."""
    return "peft_" + local.replace(".", "_")


class Peft(SiteMethod):
    """A tuner of PEFT. The rate is LoRA's: tuners differ, so a rule should say its own (``lr``).

    New tensors are zeros until ``complete``, where PEFT draws those of all sites together.
    """

    name = "peft"
    rule = PeftRule
    edits = Edits.WEIGHT
    lr = 5e-4
    moves_matrices = True
    advice = "LoRA's stands in, as tuners differ: name the one that its authors use"
    kinds = frozenset(set(SiteKind) - {SiteKind.OTHER})
    module = PeftSite
    is_alone = True
    source = "huggingface/peft"
    at_site = PeftAt

    def options(self, site: Site, rule: Rule) -> dict[str, Any]:
        """Return the tuner, its options, and the kind of the site."""
        assert isinstance(rule, PeftRule)
        return {"method": rule.method, "options": dict(rule.options), "kind": str(site.kind)}

    def shapes(self, site: Site, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return what the tuner trains at a site like this."""
        found = peft_tuner.found(options["method"], options["options"], site)
        return {table_of(local): shape for local, shape in found.shapes.items()}

    def complete(self, sites: SiteMap, adapter: str, *, fresh: Sequence[str], seed: int) -> None:
        """Let PEFT build its layers for all sites of ``adapter``; parameters at ``fresh`` ones take its initial values.

        Raises:
            StrategyError: the sites ask for different tuners, or what PEFT trains is shared between them.
        """
        here = [site for site in sites.view.sites if adapter in options_at(sites.module(site.path), PeftSite)]
        modules = {site.raw: sites.module(site.path) for site in here}
        options = common(
            {site.path: options_at(sites.module(site.path), PeftSite)[adapter] for site in here}, adapter
        )
        if any(parameter.is_meta for module in modules.values() for parameter in module.parameters()):
            return
        layers = peft_tuner.build(*options, modules, seed=fold(seed, self.name, adapter))
        for site in here:
            module, layer = modules[site.raw], layers[site.raw]
            if site.path in fresh:
                _fill(module, layer, adapter)
            vars(module).setdefault(HELD, {})[adapter] = peft_tuner.Held(layer)

    def restore(self, sites: SiteMap, state: AdapterState) -> None:
        """Install a saved adapter with its tensors."""
        super().restore(sites, state)
        self.complete(sites, state.name, fresh=(), seed=0)

    def merged(self, weights: Mapping[str, Tensor], state: AdapterState) -> dict[str, Tensor]:
        """Return weights and biases with the adapter folded in by PEFT: in fp32 on copies, in the dtype of W.

        Raises:
            StrategyError: the tuner cannot be folded in, or ``weights`` lacks one that it acts on.
        """
        word, options = common(state.config["sites"], state.name)
        kinds = {path: SiteKind(one["kind"]) for path, one in state.config["sites"].items()}
        modules: dict[str, nn.Module] = {}
        for path, kind in kinds.items():
            weight, bias = given(weights, f"{path}.weight", state.name), weights.get(f"{path}.bias")
            copy = weight.detach().to(torch.float32, copy=True)
            modules[path] = peft_tuner.plain(
                kind, copy, None if bias is None else bias.detach().to(torch.float32, copy=True)
            )
        if any(not self._merges(path, modules[path], kind, word, options) for path, kind in kinds.items()):
            raise StrategyError(
                f"{state.name}: an adapter must be a change of weights to be merged, but {word} is none. "
                f"Carry the trunk with stack, continue or drop."
            )
        if any(parameter.is_meta for module in modules.values() for parameter in module.parameters()):
            return {f"{path}.weight": weights[f"{path}.weight"] for path in modules}
        merged: dict[str, Tensor] = {}
        layers = peft_tuner.build(word, options, modules, seed=0)
        for path, layer in layers.items():
            for local, slot in peft_tuner.slots(layer).items():
                slot.holder[slot.key].data.copy_(state.tensors[f"{path}.{table_of(local)}.{state.name}"])
            for name, value in peft_tuner.folded(layer).items():
                merged[f"{path}.{name}"] = value.to(weights[f"{path}.{name}"].dtype)
        return merged

    def _merges(
        self, path: str, module: nn.Module, kind: SiteKind, word: str, options: Mapping[str, Any]
    ) -> bool:
        """Return whether the tuner can be folded into ``module`` at ``path``."""
        infos = (ParamInfo(f"{path}.{name}", tuple(value.shape)) for name, value in module.named_parameters())
        return peft_tuner.found(word, options, Site(path, kind, path, tuple(infos))).merges


def common(sites: Mapping[str, Mapping[str, Any]], adapter: str) -> tuple[str, dict[str, Any]]:
    """Return the tuner of all ``sites`` and its options.

    Raises:
        StrategyError: there are several: PEFT's folder of an adapter holds one.
    """
    found = [(one["method"], one["options"]) for one in sites.values()]
    for path, one in zip(sites, found, strict=True):
        if one != found[0]:
            raise StrategyError(
                f"{path}: all sites of adapter {adapter} must have one tuner with one set of options, but have {found[0]} "
                f"and {one}. Give the second a stage of its own."
            )
    return found[0]


def _fill(module: nn.Module, layer: nn.Module, adapter: str) -> None:
    """Copy PEFT's initial values to where they are kept."""
    with torch.no_grad():
        for local, slot in peft_tuner.slots(layer).items():
            vars(module)["_modules"][table_of(local)][adapter].copy_(slot.holder[slot.key])
