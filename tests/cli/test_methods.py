from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from weft.cli.methods import gather
from weft.strategy.named import STRATEGIES
from weft.strategy.registry import CHOOSING, METHODS

Weft = Callable[..., tuple[int, str, str]]


def test_json_has_every_method_and_every_name(weft: Weft):
    code, out, err = weft("methods", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found == gather()
    assert [one["method"] for one in found["methods"]] == list(METHODS)
    assert list(found["strategies"]) == list(STRATEGIES)
    assert {one["rule"] for one in found["choosing"]} == set(CHOOSING)
    assert all(one["source"] and {"share", "batches"} <= set(one["options"]) for one in found["choosing"])
    by_name = {one["method"]: one for one in found["methods"]}
    assert by_name["lora"]["merges"]
    assert by_name["lora"]["per_task"]
    assert [name for name, one in by_name.items() if not one["keeps"]] == ["fusion", "prompt", "prefix"]
    widths = {name for name, one in by_name.items() if one["lr_width"]}
    assert widths == {name for name, method in METHODS.items() if method.moves_matrices} == {
        "full", "lisa", "lora", "dora", "mtl-lora", "gated-lora", "adapter", "fusion", "peft",
    }  # fmt: skip
    assert {by_name[name]["lr_width"] for name in widths} == {768}
    assert by_name["dora"]["alone"]
    assert not by_name["dora"]["per_task"]
    assert not by_name["adapter"]["merges"]
    assert "rank" in by_name["lora"]["options"]
    assert by_name["full"]["cost"] == by_name["lisa"]["cost"] == 1.0
    assert by_name["none"]["cost"] is None
    assert by_name["fusion"]["cost"] is None, "it has nothing to stand on"
    assert 0.01 < by_name["adapter"]["cost"] < by_name["lora"]["cost"] == found["costs"]["lora"] < 0.03
    assert all(one["source"] for one in found["methods"] if one["method"] != "none")


def test_text_says_it_in_two_tables(weft: Weft):
    code, out, _ = weft("methods")
    assert code == 0
    for words in (*METHODS, *STRATEGIES, "arXiv:2106.09685", "lr_ratio 16.0", "arXiv:2605.18822", "full_lr"):
        assert words in out


def test_rates_of_one_width_say_which(weft: Weft, monkeypatch: pytest.MonkeyPatch):
    for lang, words in (("en", "falls as one over the width"), ("zh", "与宽度成反比")):
        monkeypatch.setenv("WEFT_LANG", lang)
        _, out, _ = weft("methods")
        assert words in out.replace("\n", "")
        assert "768" in out
        methods, *_ = out.split("\n\n")
        rates = {line.split(" ")[0]: line for line in methods.splitlines()}
        assert "0.0005 *" in rates["lora"]
        assert "0.005 " in rates["ia3"]
        assert "*" not in rates["ia3"]
