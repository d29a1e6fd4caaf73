"""Prefix-tuning: learnt keys and values in front of each row's own, in every layer (arXiv:2101.00190).

Without ``projection`` it is P-tuning v2 (arXiv:2110.07602), with ``gate`` the attention of LLaMA-Adapter
(arXiv:2303.16199). Keys lie at the site that makes keys, values likewise, both where one matrix makes both; what they do
is attention's (``weft.model.prefixed``). An encoder-decoder has them in front of its encoder's tokens, its decoder's, and
of what the decoder sees of the encoder: ``sites`` says which (``decoder.self_attention`` is PEFT's).

Legend: P virtual positions, W width of all heads' keys, H width of the projection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from weft.core.parts import AdapterState
from weft.core.sites import SiteMap
from weft.core.view import ModelView, Site
from weft.core.virtual import VirtualKeys
from weft.errors import StrategyError
from weft.recipe.spec import Rule
from weft.strategy.base import AdapterRule, Edits
from weft.strategy.edit import Edit, Factors
from weft.strategy.prompt import MOST_TOKENS, NUM_TOKENS
from weft.strategy.row_gate import ROW, RowGate, check_rows, gates_B1, is_by_row, little
from weft.strategy.site_method import AtSite, SiteMethod, renamed, widths_of

KEY, VALUE = "key", "value"
SIDES: Mapping[str, tuple[str, ...]] = {"key": (KEY,), "value": (VALUE,), "qkv": (KEY, VALUE)}
"""What each site of an attention module holds."""
_SITE = re.compile(r"(?P<attention>(?:.*\.)?(?:cross_)?attention)\.(?P<part>key|value|qkv)")
_LAYERS = ("hidden", "hidden_bias", "out", "out_bias")  # of the projection
GATE, ROW_GATE = "prefix_gate", ("prefix_row_gate", "prefix_row_gate_bias")
_NOTED = "prefix_noted"  # attribute: the rows' gates of the pass that goes on
_PROJECTED_RATE = 0.1


class PrefixRule(AdapterRule):
    """``{train: prefix, tokens: 20, projection: 512}``."""

    sites: str = "kv"
    """Selector; keys and values of whole layers."""
    train: Literal["prefix"] = "prefix"  # pyright: ignore[reportIncompatibleVariableOverride]
    tokens: int = Field(default=NUM_TOKENS, ge=1, le=MOST_TOKENS)
    """Virtual positions in front of each row, in each layer."""
    projection: int | None = Field(default=None, ge=1, le=65536)
    """Width of a layer between what is learnt and the keys and values (arXiv:2101.00190, section 4.3); none: P-tuning v2."""
    gate: bool | RowGate = False
    """The prefix has a softmax of its own and comes in through a gate that starts closed (arXiv:2303.16199); row: its keys
    and values are multiplied with a gate of the row, as UniPELT does (arXiv:2110.07577), in encoders."""


class PrefixSite(Edit, VirtualKeys):
    """In front of what makes keys or values: it computes what it did, and holds what attention puts in front."""

    key = "prefix"
    place = 9
    tables = (
        *(f"prefix_{side}{end}" for side in (KEY, VALUE) for end in ("", *(f"_{part}" for part in _LAYERS))),
        GATE,
        *ROW_GATE,
    )
    once_a_pass = frozenset(f"prefix_{side}_{part}" for side in (KEY, VALUE) for part in _LAYERS)
    prefix_gate: Factors
    prefix_row_gate: Factors
    prefix_row_gate_bias: Factors
    prefix_options: dict[str, dict[str, Any]]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return keys, values or both (..., W) of the rows' own tokens, and note the rows' gates for attention."""
        if len(self.prefix_row_gate):
            vars(self)[_NOTED] = {
                name: gates_B1(inputs, weight_1D, self.prefix_row_gate_bias[name], self.routing)[:, 0]
                for name, weight_1D in self.prefix_row_gate.items()
            }
        return super().forward(inputs)

    def take_row_gates(self) -> Mapping[str, Tensor]:
        """Return the rows' gates by adapter, (B,), of the pass that goes on, and forget them."""
        return vars(self).pop(_NOTED, {})

    def virtual_keys(self) -> Mapping[str, int]:
        """Return the number of keys of each adapter that takes positions, in the order in which they stand."""
        return {
            name: one["tokens"] for name, one in self.prefix_options.items() if one.get("gate") is not True
        }

    def gated_keys(self) -> tuple[str, ...]:
        """Return the adapters with a softmax of their own."""
        return tuple(name for name, one in self.prefix_options.items() if one.get("gate") is True)

    def key_PW(self, name: str) -> Tensor | None:
        """Return the keys of one adapter, None where this module has its values only."""
        return self._side(KEY, name)

    def value_PW(self, name: str) -> Tensor | None:
        """Return the values of one adapter, None where this module has its keys only."""
        return self._side(VALUE, name)

    def gate(self, name: str) -> Tensor | None:
        """Return the gate of one adapter, shape (1,); it lies with the values."""
        return self.prefix_gate.get(name)

    def _side(self, side: str, name: str) -> Tensor | None:
        held: Factors = getattr(self, f"prefix_{side}")
        if name not in held:
            return None
        layers: list[Factors] = [getattr(self, f"prefix_{side}_{part}") for part in _LAYERS]
        return projected(held[name], [one[name] for one in layers if name in one])


def projected(table_PW: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """Return keys or values (P, W): ``table_PW`` itself, or what two products with a tangent between make of it.

    Args:
        table_PW: what is learnt.
        layers: (H, W), (H,), (W, H) and (W,), or none.
    """
    if not layers:
        return table_PW
    hidden_HW, hidden_H, out_WH, out_W = layers
    return F.linear(torch.tanh(F.linear(table_PW, hidden_HW, hidden_H)), out_WH, out_W)


class PrefixAt(AtSite):
    """Options of a site."""

    tokens: Annotated[int, Field(ge=1, le=1_000_000)]
    hidden: Annotated[int, Field(ge=1)] | None = None
    gate: Literal[True] | RowGate | None = None


class Prefix(SiteMethod):
    """Virtual keys and values. The rate is that of most of P-tuning v2's published runs, a tenth of it for a projection."""

    name = "prefix"
    rule = PrefixRule
    edits = Edits.POSITIONS
    lr = 5e-3
    advice = (
        "what prefixes need in PEFT's own comparison (method_comparison/MetaMathQA); a tenth "
        "under a projection"
    )
    module = PrefixSite
    source = "arXiv:2101.00190, arXiv:2110.07602, arXiv:2303.16199"
    at_site = PrefixAt

    def stands_at(self, view: ModelView, site: Site) -> bool:  # noqa: ARG002
        """Return whether ``site`` makes keys or values."""
        return _SITE.fullmatch(site.path) is not None

    def check(self, view: ModelView, sites: Sequence[Site], rule: Rule) -> None:
        """Refuse layers whose attention cannot take keys, and keys without values.

        Raises:
            StrategyError: with the reason.
        """
        assert isinstance(rule, PrefixRule)
        self._check_places(view, [site.path for site in sites], has_gate=rule.gate is True)
        if rule.gate == ROW:
            check_rows(view, sites)

    def _check_places(self, view: ModelView, paths: Sequence[str], *, has_gate: bool) -> None:
        reason = view.unprefixed.get("", "")
        if reason:
            raise StrategyError(
                f"prefix: attention must take keys from elsewhere, but {reason}. Use train: prompt."
            )
        parts: dict[str, set[str]] = {}
        for path in paths:
            match = _SITE.fullmatch(path)
            assert match is not None, "others were left out"
            parts.setdefault(match["attention"], set()).update(SIDES[match["part"]])
        for attention, sides in parts.items():
            if len(sides) < len((KEY, VALUE)):
                raise StrategyError(
                    f"{attention}: a prefix must have both keys and values, but its sites have only {sides.pop()}s. "
                    f"Name both (kv)."
                )
            if attention in view.unprefixed and not has_gate:
                whole = sorted(parts.keys() - view.unprefixed.keys())
                raise StrategyError(
                    f"{attention}: attention must see whole rows to have a prefix, but {view.unprefixed[attention]}. "
                    f"Choose others ({', '.join(whole[:3]) or 'there are none'}), gate: true, or train: prompt."
                )

    def keeps_function(self, rule: Rule) -> bool:
        """Return whether the prefix is behind a gate, which starts closed."""
        assert isinstance(rule, PrefixRule)
        return rule.gate is True

    def usual(self, rule: Rule) -> float:
        """Return a share of the rate where there is a projection, whose weights move every position at once."""
        assert isinstance(rule, PrefixRule)
        return self.lr * (1.0 if rule.projection is None else _PROJECTED_RATE)

    def options(self, site: Site, rule: Rule) -> dict[str, Any]:
        """Return positions, width of the projection, gate, and the kind of the site."""
        assert isinstance(rule, PrefixRule)
        return {
            "tokens": rule.tokens,
            **({} if rule.projection is None else {"hidden": rule.projection}),
            **({"gate": rule.gate} if rule.gate else {}),
            "kind": str(site.kind),
        }

    def shapes(self, site: Site, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return for keys, values or both (P, W) and the layers of the projection; with the values the gate, (1,)."""
        sides, (entering, leaving) = sides_of(site.path), widths_of(site)
        width = leaving // (3 if len(sides) == len((KEY, VALUE)) else 1)
        found: dict[str, tuple[int, ...]] = {}
        for side in sides:
            found[f"prefix_{side}"] = (options["tokens"], width)
            if "hidden" in options:
                hidden = options["hidden"]
                layers = ((hidden, width), (hidden,), (width, hidden), (width,))
                found |= {f"prefix_{side}_{part}": s for part, s in zip(_LAYERS, layers, strict=True)}
        if VALUE in sides and options.get("gate"):
            by_row = dict(zip(ROW_GATE, ((1, entering), (1,)), strict=True))
            found |= by_row if is_by_row(options) else {GATE: (1,)}
        return found

    def start(
        self,
        sites: SiteMap,  # noqa: ARG002
        site: Site,
        options: Mapping[str, Any],
        *,
        seed: int,
    ) -> dict[str, Tensor]:
        """Return tables drawn from N(0, 1), layers as torch draws linear ones, and a gate of zero.

        Source: PrefixEncoder of github.com/THUDM/P-tuning-v2, which PEFT has taken over.
        """
        generator = torch.Generator().manual_seed(seed)
        found: dict[str, Tensor] = {}
        for table, shape in self.shapes(site, options).items():
            if table in (GATE, ROW_GATE[1]):
                found[table] = torch.zeros(shape)
            elif table == ROW_GATE[0]:
                found[table] = little(shape, seed=seed)
            elif table in (f"prefix_{KEY}", f"prefix_{VALUE}"):
                found[table] = torch.randn(shape, generator=generator)
            else:
                width_in = options["hidden"] if "_out" in table else found[table.split("_hidden")[0]].shape[1]
                bound = width_in**-0.5
                found[table] = nn.init.uniform_(torch.empty(shape), -bound, bound, generator=generator)
        return found

    def restore(self, sites: SiteMap, state: AdapterState) -> None:
        """Install a saved adapter; everything is checked before anything is changed.

        Raises:
            StrategyError: it does not fit this model, or its keys do not fit its values.
        """
        options: Mapping[str, Mapping[str, Any]] = state.config["sites"]
        places = [path for path in options if _SITE.fullmatch(path)]
        self._check_places(
            sites.view, places, has_gate=any(one.get("gate") is True for one in options.values())
        )
        for path in places:
            twin = path.replace("attention.key", "attention.value")
            if options[twin]["tokens"] != options[path]["tokens"] or options[twin].get("gate") != options[
                path
            ].get("gate"):
                raise StrategyError(f"adapter {state.name}: {path} and {twin} must be alike, but are not.")
        super().restore(sites, state)

    def joined(self, states: Sequence[AdapterState], *, name: str) -> AdapterState:
        """Return one adapter called ``name`` with the keys and values of ``states`` in their order, projections applied.

        Raises:
            StrategyError: a gate is among several, whose softmaxes cannot be one.
        """
        if len(states) == 1:
            return renamed(states[0], name)
        sites: dict[str, dict[str, Any]] = {}
        tensors: dict[str, list[Tensor]] = {}
        for state in states:
            if any(one.get("gate") for one in state.config["sites"].values()):
                raise StrategyError(
                    f"{name}: prefixes with gates cannot be joined into one, but {state.name} has them. Export one."
                )
            for path, table_PW in plain_tables(state).items():
                tensors.setdefault(path, []).append(table_PW)
            for path, one in state.config["sites"].items():
                tokens = one["tokens"] + sites.get(path, {"tokens": 0})["tokens"]
                sites[path] = {"tokens": tokens, "kind": one["kind"]}
        joint = {f"{path}.{name}": torch.cat(tables) for path, tables in tensors.items()}
        return AdapterState(name, self.name, {"sites": sites}, joint)


def sides_of(path: str) -> tuple[str, ...]:
    """Return what the site at ``path`` makes: keys, values or both."""
    return SIDES[path.rpartition(".")[2]]


def plain_tables(state: AdapterState) -> dict[str, Tensor]:
    """Return keys and values (P, W) of a prefix by ``<site>.prefix_key`` and ``<site>.prefix_value``."""
    found: dict[str, Tensor] = {}
    for path in state.config["sites"]:
        for side in sides_of(path):
            table = f"{path}.prefix_{side}"
            layers = [state.tensors.get(f"{table}_{part}.{state.name}") for part in _LAYERS]
            found[table] = projected(
                state.tensors[f"{table}.{state.name}"], [one for one in layers if one is not None]
            )
    return found
