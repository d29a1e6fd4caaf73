"""Names and options of PEFT's tuners are checked before anything is built, with the nearest names."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from weft.errors import StrategyError
from weft.strategy import peft_config
from weft.strategy.peft import PeftAt, PeftRule


def test_names_are_tuners_of_modules():
    names = peft_config.names()
    assert {
        "LOHA",
        "LOKR",
        "VERA",
        "OFT",
        "BOFT",
        "HRA",
        "FOURIERFT",
        "RANDLORA",
        "SHIRA",
        "MISS",
        "LN_TUNING",
    } <= set(names)
    assert not {"LORA", "IA3", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "ADALORA", "XLORA"} & set(names)


def test_a_name_is_taken_in_any_case_and_defaults_are_left_out():
    assert peft_config.checked("loha", {"r": 8, "alpha": 4}) == ("LOHA", {"alpha": 4})
    rule = PeftRule(method="vera", options={"r": 256})
    assert (rule.method, rule.options) == ("VERA", {})


def test_starts_are_the_models_own_function_and_draws_are_seeded():
    assert peft_config.checked("FOURIERFT", {})[1] == {"init_weights": True}
    assert peft_config.checked("C3A", {})[1] == {"init_weights": True}
    assert peft_config.checked("SHIRA", {})[1] == {"random_seed": 0}
    assert peft_config.checked("SHIRA", {"random_seed": 3})[1] == {"random_seed": 3}


@pytest.mark.parametrize(
    ("word", "options", "why"),
    [
        ("LOAH", {}, "Did you mean 'LOHA'"),
        ("LORA", {}, "Write train: lora"),
        ("PREFIX_TUNING", {}, "a strategy of its own"),
        ("LOHA", {"rk": 3}, "'rk' must be an option of LOHA. Did you mean 'r'"),
        ("LOHA", {"alhpa": 3}, "Did you mean 'alpha'"),
        ("LOHA", {"target_modules": ["q"]}, "'target_modules' must be an option of LOHA"),
        ("LOHA", {"r": 1.5}, "must be like its default 8"),
        ("LOHA", {"r": "4"}, "must be like its default 8"),
        ("LOHA", {"r": True}, "must be like its default 8"),
        ("LOHA", {"init_weights": 1}, "must be like its default True"),
        ("HRA", {"r": 10**6}, "must be at most 65536"),
        ("BOFT", {"boft_block_size": 4, "boft_block_num": 4}, "peft says"),
    ],
)
def test_mistakes_have_one_clear_error(word, options, why):
    with pytest.raises(StrategyError, match=why):
        peft_config.checked(word, options)


def test_a_recipe_hears_of_them_at_once():
    with pytest.raises(ValidationError, match="Did you mean 'LOHA'"):
        PeftRule(method="LOHAA")
    with pytest.raises(ValidationError, match="must be an option of HRA"):
        PeftAt.model_validate({"method": "HRA", "options": {"rank": 3}, "kind": "linear"})


def test_a_config_goes_out_and_in():
    word, options = peft_config.checked("VERA", {"r": 8, "d_initial": 0.5})
    config = peft_config.written_config(word, options, ["a.b"])
    assert config["save_projection"] is False
    assert config["target_modules"] == ["a.b"]
    assert peft_config.read_config(config) == (word, options)
