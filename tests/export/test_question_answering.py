"""Question answering leaves Weft: stock models give the bundle's logits, on an encoder and on a decoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer

from weft.core.example import Encoded, Purpose
from weft.errors import ExportError
from weft.evaluate.predict import answer_all
from weft.export.bundle import Bundle
from weft.export.plain import TOLERANCE, export_plain
from weft.export.proof import probe_batch, stock_logits, weft_logits

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # PEFT asks under an old name

Make = Callable[..., Any]
ASKED: dict[str, Any] = {"asked": {"kind": "qa", "train": "asked.jsonl", "stride": 10}}
CONTEXT = "john smith runs to london and the cat sleeps in germany but the old man is very happy in paris"


def near(bundle: Bundle, name: str, model: Any) -> float:
    """Return the largest difference of a logit on the probe rows."""
    batch, task = probe_batch(bundle), bundle.tasks[name]
    ours, theirs = weft_logits(bundle.network, task, batch), stock_logits(model, task, batch)
    assert ours.shape == theirs.shape == (batch.layout.num_tokens, 2)
    assert ours.std() > 0.1, "logits that say nothing would agree in any case"
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1.0))


def encoded(bundle: Bundle, name: str, *questions: str) -> list[Encoded]:
    task = bundle.tasks[name]
    rows = [task.ask(question, CONTEXT) for question in questions]
    found = task.encode(rows, bundle.tokenizer, Purpose.ANSWER)
    return [one for one in found if isinstance(one, Encoded)]


@pytest.mark.parametrize(
    ("model", "strategy"), [("tiny_bert", "full"), ("tiny_bert", "lora"), ("stories260k", "lora")]
)
def test_stock_models_give_the_same_logits(
    make: Make, request: pytest.FixtureRequest, tmp_path: Path, model: str, strategy: str
):
    bundle = make(request.getfixturevalue(model), ASKED, {"strategy": strategy}).open()
    results = {one.folder.name: one for one in export_plain(bundle, tmp_path, tasks=["asked"])}
    # LlamaForQuestionAnswering finds no weights of a Llama, so there is nothing for an adapter to stand on.
    has_adapter = strategy == "lora" and model == "tiny_bert"
    assert set(results) == {"asked", *(["asked-adapter"] if has_adapter else [])}
    assert results["asked"].loads_with == "AutoModelForQuestionAnswering"
    stock = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "asked").eval()
    assert near(bundle, "asked", stock) <= 1e-5
    assert AutoConfig.from_pretrained(tmp_path / "asked").id2label == {0: "start", 1: "end"}
    if has_adapter:
        folder = tmp_path / "asked-adapter"
        about = json.loads((folder / "adapter_config.json").read_text())
        assert about["task_type"] is None
        assert about["modules_to_save"] == ["qa_outputs"]
        base = AutoModelForQuestionAnswering.from_pretrained(about["base_model_name_or_path"])
        assert near(bundle, "asked", PeftModel.from_pretrained(base, folder).eval()) <= 1e-5
    assert all(one.difference <= TOLERANCE for one in results.values())


def test_a_stock_model_answers_as_the_bundle_does(make: Make, tiny_bert: Path, tmp_path: Path):
    """By the windows of its own tokenizer: the highest sum of two logits within the context."""
    bundle = make(tiny_bert, ASKED, {"strategy": "full"}).open()
    task = replace(bundle.tasks["asked"], unanswerable=False)
    export_plain(bundle, tmp_path, tasks=["asked"])
    stock = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "asked").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "asked")
    questions = ["who is in paris", "what is old", "where is the cat"]
    asked = encoded(bundle, "asked", *questions)
    found = answer_all(
        bundle.network, {"asked": task}, {"asked": asked}, pad=bundle.tokenizer.pad, budget=64, dtype=torch.float32
    )  # fmt: skip
    for question, answer, one in zip(questions, found.answers["asked"], asked, strict=True):
        inputs = tokenizer(question, CONTEXT, return_offsets_mapping=True, return_tensors="pt")
        (places,), owners = inputs.pop("offset_mapping").tolist(), inputs.sequence_ids(0)
        assert tuple(inputs["input_ids"][0].tolist()) == one.tokens
        with torch.inference_mode():
            logits = stock(**inputs)
        own = [at for at, owner in enumerate(owners) if owner == 1]
        best = max(
            ((a, b) for a in own for b in own if a <= b < a + 30),
            key=lambda pair: float(logits.start_logits[0, pair[0]] + logits.end_logits[0, pair[1]]),
        )
        assert answer.text == CONTEXT[places[best[0]][0] : places[best[1]][1]]


def test_beside_generation_the_names_of_a_decoder_are_told_apart(
    make: Make, stories260k: Path, tmp_path: Path
):
    """There the trunk lies within a causal model (``model.``), in LlamaForQuestionAnswering under ``transformer.``"""
    tasks = {**ASKED, "reply": {"kind": "generation", "train": "reply.jsonl", "max_new_tokens": 4}}
    bundle = make(stories260k, tasks, {"strategy": "top 2"}).open()
    results = export_plain(bundle, tmp_path, tasks=["asked", "reply"])
    assert [one.loads_with for one in results] == ["AutoModelForQuestionAnswering", "AutoModelForCausalLM"]
    assert (
        near(bundle, "asked", AutoModelForQuestionAnswering.from_pretrained(tmp_path / "asked").eval())
        <= 1e-5
    )


def test_virtual_positions_are_left_to_bundles_where_peft_leaves_segments_out(
    make: Make, tiny_bert: Path, tmp_path: Path
):
    bundle = make(tiny_bert, ASKED, {"strategy": "ptuning-v2"}).open()
    with pytest.raises(
        ExportError, match=r"^asked: the exported model must compute what the bundle computes"
    ):
        export_plain(bundle, tmp_path / "out", tasks=["asked"])
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_answers_as_the_network_it_was_made_of(make: Make, tiny_bert: Path):
    made = make(tiny_bert, ASKED, {"strategy": "full"})
    bundle = made.open()
    assert bundle.tasks["asked"].config()["unanswerable"] is True
    asked = {"asked": encoded(bundle, "asked", "who is in paris", "what is old")}
    how: dict[str, Any] = {"pad": bundle.tokenizer.pad, "budget": 4096, "dtype": torch.float32}
    first, second = (answer_all(one, bundle.tasks, asked, **how) for one in (made.network, bundle.network))
    assert first.answers == second.answers
