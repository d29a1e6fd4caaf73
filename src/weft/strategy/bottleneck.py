"""Bottleneck adapters: a narrow feed-forward network beside or behind a block, with a residual connection.

Legend: D width, K width of the bottleneck.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from weft.core.sites import SiteMap
from weft.core.view import ModelView, Site
from weft.errors import StrategyError
from weft.recipe.spec import Rule
from weft.strategy.base import AdapterRule, Edits
from weft.strategy.edit import Edit, Factors, at, plus
from weft.strategy.row_gate import ROW, RowGate, check_rows, gate_at_tokens, is_by_row
from weft.strategy.site_method import AtSite, SiteMethod, widths_of


class Form(StrEnum):
    """Where adapters stand."""

    HOULSBY = "houlsby"  # behind attention and behind the feed-forward block (arXiv:1902.00751)
    PFEIFFER = "pfeiffer"  # behind the feed-forward block only (arXiv:2005.00247)
    NORMED = "normed"  # the same, on what the block's norm makes of output and input: AdapterHub's Pfeiffer (post-norm)
    PARALLEL = "parallel"  # beside the feed-forward block, on what enters it (arXiv:2110.04366)


_USUAL_SIZE = 64
Activation = Literal["relu", "gelu", "silu", "tanh"]
_SITES = {
    Form.HOULSBY: "attention.output, ffn.down",
    Form.PFEIFFER: "ffn.down",
    Form.NORMED: "ffn.down",
    Form.PARALLEL: "ffn.down",
}
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
GATES = ("bottleneck_gate", "bottleneck_gate_bias")
TAPPED = frozenset({Form.PARALLEL, Form.NORMED})
"""What need more than the output of the module that they stand at."""
POST_NORM = frozenset({"bert", "roberta", "xlm-roberta"})
"""Architectures whose norms stand behind the blocks."""
NORM = "bottleneck_norm"  # attribute of the last module: finds the norm behind the block
TAP = "bottleneck_tap"  # attribute of both modules: what enters the block, on its way to the adapter


class BottleneckRule(AdapterRule):
    """``{train: adapter, form: houlsby, size: 64}``."""

    sites: str = ""
    """Selector; default: where the form puts them."""
    train: Literal["adapter"] = "adapter"  # pyright: ignore[reportIncompatibleVariableOverride]
    form: Form = Form.PFEIFFER
    """houlsby, pfeiffer, normed or parallel."""
    size: int = Field(default=_USUAL_SIZE, ge=1, le=65536)
    """Width of the bottleneck."""
    activation: Activation = "relu"
    """Between both products."""
    scale: float | None = Field(default=None, gt=0, le=1000)
    """The output is multiplied with it; default: 1, parallel: 4 (arXiv:2110.04366, section 4.6)."""

    gate: bool | RowGate = False
    """Multiply the output at each token with a sigmoid of what the adapter is given there, which is learnt too; row: with
    its mean over the row, as UniPELT does (arXiv:2110.07577), in encoders."""

    @model_validator(mode="before")
    @classmethod
    def _where_the_form_says(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("sites"):
            return data
        try:
            form = Form(data.get("form", Form.PFEIFFER))
        except ValueError:
            return data  # the field itself says so
        return {**data, "sites": _SITES[form]}


class BottleneckSite(Edit):
    """In front of the last module of a block: its output plus that of an adapter on it, or on the block's input."""

    key = "bottleneck"
    place = 4
    tables = (
        "bottleneck_down",
        "bottleneck_down_bias",
        "bottleneck_up",
        "bottleneck_up_bias",
        *GATES,
    )
    bottleneck_down: Factors
    bottleneck_down_bias: Factors
    bottleneck_up: Factors
    bottleneck_up_bias: Factors
    bottleneck_gate: Factors
    bottleneck_gate_bias: Factors
    bottleneck_options: dict[str, dict[str, Any]]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (..., D)."""
        outputs = super().forward(inputs)
        tap: Tap | None = vars(self).get(TAP)
        entered = None if tap is None else tap.take()
        for name, positions_N in self.acting(BottleneckSite, outputs.shape[:-1]):
            options = self.bottleneck_options[name]
            source = outputs
            if options["form"] in TAPPED:
                assert entered is not None, "a block is entered before it is left"
                source = entered if options["form"] == Form.PARALLEL else self._normed(outputs + entered)
            added = self.added(at(source, positions_N), name, options)
            if is_by_row(options):
                weight_1D, bias_1 = self.bottleneck_gate[name], self.bottleneck_gate_bias[name]
                added = added * at(gate_at_tokens(source, weight_1D, bias_1, self.routing), positions_N)
            outputs = plus(outputs, added, positions_N)
        return outputs

    def _normed(self, values: Tensor) -> Tensor:
        find: Callable[[], nn.Module] = vars(self)[NORM]
        return find()(values)

    def added(self, source: Tensor, name: str, options: Mapping[str, Any]) -> Tensor:
        """Return what adapter ``name`` adds where it is given ``source`` (..., D), before the gate of a row."""
        narrow = F.linear(source, self.bottleneck_down[name], self.bottleneck_down_bias[name])
        narrow = _ACTIVATIONS[options["activation"]](narrow)
        wide = F.linear(narrow, self.bottleneck_up[name], self.bottleneck_up_bias[name])
        if options.get("gate") is True:
            gate = F.linear(source, self.bottleneck_gate[name], self.bottleneck_gate_bias[name])
            wide = wide * gate.sigmoid()
        return wide if options["scale"] == 1.0 else wide * options["scale"]


class Tap:
    """Holds what enters a block until the block's last module takes it."""

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def hold(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Note the input: a forward pre-hook of the block's first module."""
        self._held = inputs[0]

    def take(self) -> Tensor | None:
        """Return what is held and forget it."""
        held, self._held = self._held, None
        return held


class BottleneckAt(AtSite):
    """Options of a site."""

    form: Form
    size: Annotated[int, Field(ge=1)]
    activation: Activation
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    gate: Literal[True] | RowGate | None = None


def _narrowing(shape: tuple[int, ...], /, *, seed: int) -> Tensor:
    """Return values drawn from N(0, 0.01 squared), cut at two deviations (arXiv:1902.00751, section 3.6)."""
    generator = torch.Generator().manual_seed(seed)
    return nn.init.trunc_normal_(torch.empty(shape), std=0.01, a=-0.02, b=0.02, generator=generator)


class Bottleneck(SiteMethod):
    """Adapters of two products with an activation between; the second starts at zero, so the function is unchanged."""

    name = "adapter"
    rule = BottleneckRule
    edits = Edits.OUTPUT
    lr = 5e-4
    moves_matrices = True
    advice = "within the 3e-5 to 3e-3 that its authors searched (arXiv:1902.00751, section 3)"
    module = BottleneckSite
    starts = MappingProxyType({"bottleneck_down": _narrowing})
    source = "arXiv:1902.00751, arXiv:2005.00247, arXiv:2110.04366"
    at_site = BottleneckAt

    def usual(self, rule: Rule) -> float:
        """Return the rate of the default size, less in a wider one.

        The second product is then as much wider, so its rate would fall as one over the size (arXiv:2203.03466) and the
        first one's stay; one rate serves both, their geometric mean (docs/experiments.md).
        """
        assert isinstance(rule, BottleneckRule)
        return self.lr * math.sqrt(min(1.0, _USUAL_SIZE / rule.size))

    def options(self, site: Site, rule: Rule) -> dict[str, Any]:
        """Return form, size, activation, scale, the kind of the site, and whether there is a gate."""
        assert isinstance(rule, BottleneckRule)
        usual = 4.0 if rule.form is Form.PARALLEL else 1.0
        found = {
            "form": str(rule.form),
            "size": rule.size,
            "activation": rule.activation,
            "scale": usual if rule.scale is None else rule.scale,
            "kind": str(site.kind),
        }
        return {**found, **({"gate": rule.gate} if rule.gate else {})}

    def check(self, view: ModelView, sites: Sequence[Site], rule: Rule) -> None:
        """Refuse gates of rows in models that write text."""
        assert isinstance(rule, BottleneckRule)
        if rule.gate == ROW:
            check_rows(view, sites)

    def shapes(self, site: Site, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return both products (K, D) and (D, K) and the gate (1, D) with their biases; the block gives back the width that it is given."""
        size, width = options["size"], widths_of(site)[1]
        down, down_bias, up, up_bias, gate, gate_bias = BottleneckSite.tables
        found = {down: (size, width), down_bias: (size,), up: (width, size), up_bias: (width,)}
        return {**found, gate: (1, width), gate_bias: (1,)} if options.get("gate") else found

    def place(
        self,
        sites: SiteMap,
        site: Site,
        adapter: str,
        options: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Put the adapter at ``site``; beside a block it is told what enters the block.

        Raises:
            StrategyError: beside a block whose first module is not known by name.
        """
        super().place(sites, site, adapter, options, tensors)
        if options["form"] == Form.NORMED:
            path = _norm_of(sites, site)
            vars(sites.module(site.path))[NORM] = partial(
                sites.module, path
            )  # as it is then: it may be edited yet
        if options["form"] in TAPPED:
            module = sites.module(site.path)
            if TAP not in vars(module):
                vars(module)[TAP] = _tapped(sites, site)


def _norm_of(sites: SiteMap, site: Site) -> str:
    """Return the path of the norm behind the feed-forward block that ``site`` ends."""
    path = f"{site.path.removesuffix('.ffn.down')}.norm.ffn"
    is_behind = sites.view.architecture in POST_NORM and site.path.endswith(".ffn.down")
    if not is_behind or path not in {one.path for one in sites.view.sites}:
        raise StrategyError(
            f"{site.path}: a normed adapter must stand at ffn.down of a layer with a norm behind it ({', '.join(sorted(POST_NORM))}), but "
            f"this is {sites.view.architecture}. Use form: pfeiffer."
        )
    return path


def _tapped(sites: SiteMap, site: Site) -> Tap:
    """Return a tap on what enters the feed-forward block that ``site`` ends."""
    block = site.path.removesuffix(".down")
    first = f"{block}.up"
    if block == site.path or first not in {one.path for one in sites.view.sites}:
        raise StrategyError(
            f"{site.path}: a parallel or normed adapter must stand at ffn.down of a layer whose ffn.up is known, but does not."
        )
    tap = Tap()
    sites.module(first).register_forward_pre_hook(tap.hold)
    return tap
