"""The registry, and the rules as recipes write them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from weft.core.view import SiteKind
from weft.errors import StrategyError
from weft.recipe.spec import Rule
from weft.strategy.base import Edits
from weft.strategy.bottleneck import Bottleneck
from weft.strategy.dora import Dora
from weft.strategy.full import Full, FullRule
from weft.strategy.fusion import Fusion
from weft.strategy.gated_lora import GatedLora
from weft.strategy.ia3 import Ia3
from weft.strategy.lisa import Lisa
from weft.strategy.lora import Lora, LoraRule
from weft.strategy.mtl_lora import MtlLora
from weft.strategy.none import Frozen, NoneRule
from weft.strategy.peft import Peft
from weft.strategy.prefix import Prefix
from weft.strategy.prompt import Prompt
from weft.strategy.registry import METHODS, adapter_method, method


def test_the_registry_holds_each_method_under_its_name():
    kinds = {
        "none": Frozen,
        "full": Full,
        "lisa": Lisa,
        "lora": Lora,
        "dora": Dora,
        "mtl-lora": MtlLora,
        "gated-lora": GatedLora,
        "ia3": Ia3,
        "adapter": Bottleneck,
        "fusion": Fusion,
        "peft": Peft,
        "prompt": Prompt,
        "prefix": Prefix,
    }
    assert {name: type(one) for name, one in METHODS.items()} == kinds
    for name, one in METHODS.items():
        assert method(name) is one
        assert issubclass(one.rule, Rule)
        assert one.rule.model_fields["train"].default == name
        assert (one.lr > 0) == (one.trains_site or one.edits is not Edits.NOTHING)
        assert one.kinds <= set(SiteKind)


def test_lora_learns_at_ten_times_the_rate_of_full_training():
    assert METHODS["lora"].lr == pytest.approx(10 * METHODS["full"].lr)


def test_an_unknown_method_is_answered_with_its_neighbours():
    with pytest.raises(StrategyError, match="Did you mean 'lora'"):
        method("lorra")


@pytest.mark.parametrize("name", ["none", "full"])
def test_what_changes_in_place_has_no_adapter(name):
    with pytest.raises(StrategyError, match=f"{name}: must bring an adapter"):
        adapter_method(name)
    assert adapter_method("lora") is METHODS["lora"]


def test_rules_read_what_recipes_say():
    rule = LoraRule.model_validate(
        {"sites": "layers[4:10].attention", "train": "lora", "rank": 8, "lr": 2e-4}
    )
    assert (rule.rank, rule.alpha, rule.dropout, rule.lr) == (8, None, 0.0, 2e-4)
    assert LoraRule().sites == "linear"
    assert FullRule().sites == NoneRule().sites == "all"


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (LoraRule, {"rank": 0}),
        (LoraRule, {"rank": 2.5}),
        (LoraRule, {"alpha": 0}),
        (LoraRule, {"alpha": float("inf")}),
        (LoraRule, {"dropout": 1.0}),
        (LoraRule, {"train": "full"}),
        (LoraRule, {"rang": 8}),
        (FullRule, {"rank": 8}),
        (FullRule, {"lr": 0}),
        (NoneRule, {"lr": 1e-4}),  # nothing moves: a rate would change nothing
    ],
)
def test_rules_refuse_what_means_nothing(kind, wrong):
    with pytest.raises(ValidationError):
        kind.model_validate(wrong)


def test_singular_values_are_given_up_once():
    with pytest.raises(ValidationError, match=r"each task has its own adapter, but has pissa: .* Leave out"):
        LoraRule(init="pissa", per_task=True)
