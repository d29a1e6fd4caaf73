"""Strategies with a name: each is a rule list. Any selector is one too, and means full training of what it selects."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from weft.errors import StrategyError, nearest
from weft.recipe.spec import Rule
from weft.strategy.bottleneck import BottleneckRule, Form
from weft.strategy.dora import DoraRule
from weft.strategy.full import FullRule
from weft.strategy.gated_lora import GatedLoraRule
from weft.strategy.hybrid import HybridRule
from weft.strategy.ia3 import Ia3Rule
from weft.strategy.lisa import LisaRule
from weft.strategy.lora import LoraInit, LoraRule
from weft.strategy.mtl_lora import MtlLoraRule
from weft.strategy.none import NoneRule
from weft.strategy.prefix import PrefixRule
from weft.strategy.prompt import PromptRule
from weft.strategy.row_gate import ROW
from weft.strategy.selector import WORDS

STRATEGIES: Mapping[str, tuple[Rule, ...]] = MappingProxyType(
    {
        "full": (FullRule(sites="all"),),
        "head": (NoneRule(sites="all"),),
        "lp-ft": (FullRule(sites="all", since=0.3),),
        "gradual": (FullRule(sites="all", gradual=0.5),),
        "layer-decay": (FullRule(sites="all", layer_decay=0.9),),
        "lisa": (LisaRule(sites="all"),),
        "bitfit": (FullRule(sites="bias"),),
        "encoder": (FullRule(sites="encoder"),),
        "decoder": (FullRule(sites="decoder"),),
        "attention": (FullRule(sites="attention"),),
        "ffn": (FullRule(sites="ffn"),),
        "bias": (FullRule(sites="bias"),),
        "norm": (FullRule(sites="norm"),),
        "embeddings": (FullRule(sites="embeddings"),),
        "lora": (LoraRule(),),
        "rslora": (LoraRule(rslora=True),),
        "lora+": (LoraRule(lr_ratio=16.0),),
        "pissa": (LoraRule(init=LoraInit.PISSA),),
        "dora": (DoraRule(),),
        "hybrid-lora": (HybridRule(),),
        "mtl-lora": (MtlLoraRule(),),
        "ia3": (Ia3Rule(),),
        "houlsby": (BottleneckRule(form=Form.HOULSBY),),
        "pfeiffer": (BottleneckRule(form=Form.PFEIFFER),),
        "parallel": (BottleneckRule(form=Form.PARALLEL),),
        "prompt": (PromptRule(),),
        "prefix": (PrefixRule(projection=512),),
        "ptuning-v2": (PrefixRule(),),
        "mam": (PrefixRule(tokens=30, projection=512), BottleneckRule(form=Form.PARALLEL, size=512)),
        "unipelt": (
            GatedLoraRule(),
            PrefixRule(tokens=10, projection=512, gate=ROW),
            BottleneckRule(form=Form.PFEIFFER, size=48, gate=ROW),
        ),
        "llama-adapter": (PrefixRule(tokens=10, gate=True),),
    }
)


def resolve(spec: str | Sequence[Rule]) -> tuple[Rule, ...]:
    """Return the rules that a recipe's ``strategy`` stands for: its own, those of a name, or a selector's.

    Raises:
        StrategyError: no rule at all, or a single word that is neither a name nor a group of sites.

    Example:
        >>> resolve("top 2")
        (FullRule(sites='top 2', train='full', lr=None),)
    """
    if not isinstance(spec, str):
        if not spec:
            raise StrategyError(
                "strategy: must have at least one rule, but is empty. Write head to train heads only."
            )
        return tuple(spec)
    text = spec.strip()
    if text in STRATEGIES:
        return STRATEGIES[text]
    if not text or (re.fullmatch(r"\w+", text) and text not in WORDS):
        raise StrategyError(
            f"strategy: must be a name, a selector or a list of rules, but is {spec!r}. "
            f"{nearest(text, {*STRATEGIES, *WORDS, 'top 2', 'layers[8:]'})}"
        )
    return (FullRule(sites=text),)
