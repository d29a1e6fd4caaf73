"""The methods there are: one line each. The conformance tests pick up what is listed here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from weft.errors import StrategyError, nearest
from weft.recipe.spec import Rule
from weft.strategy.base import Method
from weft.strategy.bottleneck import Bottleneck
from weft.strategy.choosing import ChoosingRule
from weft.strategy.dora import Dora
from weft.strategy.full import Full
from weft.strategy.fusion import Fusion
from weft.strategy.gated_lora import GatedLora
from weft.strategy.hybrid import HybridRule
from weft.strategy.ia3 import Ia3
from weft.strategy.lisa import Lisa
from weft.strategy.lora import Lora
from weft.strategy.mtl_lora import MtlLora
from weft.strategy.none import Frozen
from weft.strategy.peft import Peft
from weft.strategy.prefix import Prefix
from weft.strategy.prompt import Prompt
from weft.strategy.site_method import SiteMethod

_ALL: tuple[Method, ...] = (
    Frozen(),
    Full(),
    Lisa(),
    Lora(),
    Dora(),
    MtlLora(),
    GatedLora(),
    Ia3(),
    Bottleneck(),
    Fusion(),
    Peft(),
    Prompt(),
    Prefix(),
)
CHOOSING: Mapping[str, type[ChoosingRule]] = MappingProxyType({"hybrid-lora": HybridRule})
"""Rules that stand for others, of methods above, once modules are chosen."""
METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})
RULES: Mapping[str, type[Rule]] = MappingProxyType(
    {**{name: method.rule for name, method in METHODS.items()}, **CHOOSING}
)
"""What a recipe's rules are read as, by what follows ``train:``."""


def method(name: str) -> Method:
    """Return the method called ``name``.

    Raises:
        StrategyError: there is none.
    """
    if name not in METHODS:
        raise StrategyError(f"train: {name!r} must be a method, but is unknown. {nearest(name, METHODS)}")
    return METHODS[name]


def adapter_method(name: str) -> SiteMethod:
    """Return the method called ``name``, which brings parameters of its own.

    Raises:
        StrategyError: there is none, or it has no adapters.
    """
    found = method(name)
    if not isinstance(found, SiteMethod):
        known = [one.name for one in METHODS.values() if isinstance(one, SiteMethod)]
        raise StrategyError(
            f"{name}: must bring an adapter, but only freezes or trains what is there. {nearest(name, known)}"
        )
    return found
