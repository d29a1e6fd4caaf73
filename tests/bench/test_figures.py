"""Formulae and readings: FLOPs, kinds of operators, scores, candidates."""

from __future__ import annotations

import re

import pytest
from bench.candidates import CANDIDATES, HEAD
from bench.decoder import SIZES, VOCABULARY, Example, _longest, dev_loss  # pyright: ignore[reportPrivateUsage]
from bench.flops import MINILM_LINEAR, of_job
from bench.judge import accuracy, mean_score, pearson, span_f1
from bench.profile import BATCHING, REST, kind_of, shares


def test_minilm_needs_what_the_reference_says():
    assert MINILM_LINEAR == 10_616_832
    assert of_job("full") / 1e6 == pytest.approx(63.7, abs=0.05)
    assert of_job("lora") / 1e6 == pytest.approx(42.5, abs=0.05)
    assert of_job("head") / 1e6 == pytest.approx(21.2, abs=0.05)
    assert of_job("top2") == pytest.approx(MINILM_LINEAR * (2 + 4 / 3))
    assert of_job("six") == 0.0


def test_a_decoder_needs_logits_for_answers_only():
    layers, head = SIZES["decoder"].linear, SIZES["decoder"].width * VOCABULARY
    assert pytest.approx(41.68e6, rel=1e-3) == layers + head
    assert of_job("decoder", answer_share=0.5) == 4 * layers + 2 * head
    assert SIZES["billion"].linear + 2 * SIZES["billion"].width * VOCABULARY == pytest.approx(1.1e9, rel=0.05)


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("mkldnn_linear", "matrix products"),
        ("aten::bmm", "attention"),
        ("aten::_fused_adamw_", "optimizer"),
        ("aten::gelu_backward", "norms, activations, dropout"),
        ("aten::embedding_dense_backward", "embedding"),
        ("aten::copy_", "copies and casts"),
        ("aten::mul", None),
    ],
)
def test_operators_have_a_kind(operator: str, kind: str | None):
    assert kind_of(operator) == kind


def test_shares_add_up_to_the_whole():
    own = [("aten::mm", 2.0), ("aten::mul", 0.5), (BATCHING, 0.2)]
    found = shares(own, batching_s=0.3, whole_s=4.0)
    assert found == {"matrix products": 2.0, BATCHING: 0.3, REST: pytest.approx(1.7)}


def test_scores_have_intervals_around_them():
    found = accuracy("sst2", ["a", "b"] * 50, ["a", "a"] * 50)
    assert (found.value, found.n, found.metric) == (0.5, 100, "accuracy")
    assert 0.38 < found.low < 0.5 < found.high < 0.62
    assert pearson("t", [1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0]).value == pytest.approx(1.0)
    assert span_f1("t", [["B-X", "O"]], [["B-X", "O"]]).value == 1.0


def test_a_mean_loss_is_weighted_by_tokens():
    found = mean_score("t", "loss", [2.0, 12.0], [1.0, 3.0])
    assert found.value == 3.5
    assert found.low == 2.0
    assert found.high == 4.0


def test_dev_loss_counts_answer_tokens_only():
    import torch

    class Even(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor) -> object:
            shape = (*input_ids.shape, 8)
            return type("Output", (), {"logits": torch.zeros(shape)})()

    found = dev_loss(Even(), [Example((1, 2, 3, 4), 2), Example((1, 2, 3), 1)])
    assert found.value == pytest.approx(torch.log(torch.tensor(8.0)).item())
    assert found.n == 2


def test_rows_are_kept_up_to_the_length_that_gives_the_mean():
    assert _longest([100, 130, 115, 200]) == 130  # means 100, 107.5, 115, 136


NAMES = [
    f"bert.encoder.layer.{layer}.{part}.weight"
    for layer in range(6)
    for part in (
        "attention.self.query",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    )
] + ["bert.pooler.dense.weight", "classifier.weight"]


def test_candidates_train_the_same_parameters_on_both_sides():
    found = {
        name: {path for path in NAMES if re.search(one.trained, path)}
        for name, one in CANDIDATES.items()
        if not one.lora
    }
    assert len(CANDIDATES) == 8
    assert found["head, 1e-3"] == {"classifier.weight"} == {p for p in NAMES if re.search(HEAD, p)}
    assert len(found["top 2, 1e-4"]) == 13
    ffn = {"intermediate.dense", "output.dense"}
    assert found["ffn of top 2, 2e-4"] == {"classifier.weight"} | {
        f"bert.encoder.layer.{layer}.{part}.weight" for layer in (4, 5) for part in ffn
    }
    attention = {"attention.self.query", "attention.output.dense"}
    assert found["attention of top 2, 2e-4"] == {"classifier.weight"} | {
        f"bert.encoder.layer.{layer}.{part}.weight" for layer in (4, 5) for part in attention
    }


def test_lora_sits_on_every_linear_of_the_top_two_layers():
    pattern = CANDIDATES["LoRA on top 2, 1e-3"].lora
    modules = [name.removesuffix(".weight") for name in NAMES]
    found = {name for name in modules if re.fullmatch(pattern, name)}
    assert {name.split(".")[3] for name in found} == {"4", "5"}
    assert not any("LayerNorm" in name or "pooler" in name for name in found)
    assert len(found) == 8
