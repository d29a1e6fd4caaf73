"""What strategies cost on BERT-base, counted by hand."""

from __future__ import annotations

import pytest
from transformers import BertConfig, BertModel

from weft.strategy.ia3 import Ia3Rule
from weft.strategy.named import resolve
from weft.strategy.reference import bert_base, share_trained

TOTAL = 109_482_240


def test_it_is_the_model_that_it_says():
    import torch

    with torch.device("meta"):
        model = BertModel(BertConfig())
    shapes = sorted(tuple(p.shape) for p in model.parameters())
    assert sorted(info.shape for site in bert_base().sites for info in site.params) == shapes
    assert sum(info.size for site in bert_base().sites for info in site.params) == TOTAL


@pytest.mark.parametrize(
    ("strategy", "count"),
    [
        ("full", TOTAL),
        ("lora", 8 * (12 * (4 * 2 * 768 + 2 * (768 + 3072)) + 2 * 768)),
        ("bitfit", 12 * (4 * 768 + 3072 + 768 + 2 * 768) + 768 + 768),
        ("prompt", 20 * 768),
        ("ptuning-v2", 12 * 2 * 20 * 768),
        ("top 1", 7_087_872),
    ],
)
def test_shares_are_those_counted_by_hand(strategy, count):
    assert share_trained(resolve(strategy)) == pytest.approx(count / TOTAL, abs=1e-12)


def test_what_cannot_act_there_has_no_share():
    assert share_trained([Ia3Rule(sites="cross_attention")]) is None
    assert share_trained(resolve("head")) is None
