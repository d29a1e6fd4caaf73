"""Texts: tales become exercises, ends of a loss, samples beside references; a model to be made from scratch."""

from __future__ import annotations

import argparse
import json
from types import SimpleNamespace

import pytest
from bench.judge import bleu
from bench.order import Figures, Lap, Score
from bench.ours.translation import RECIPE
from bench.peers.translation import encoded
from bench.translation import line as translation_line
from bench.translation import write_model
from bench.writing import SETS, Set, continued, files, line, loss_of, recipe, samples, short
from transformers import AutoConfig, AutoTokenizer

from weft.build.catalogue import catalogue
from weft.recipe.load import loads

TALE = "There was once a king in the east. He had a golden ball there. One day the ball was lost in a well. Then he wept."


def test_tales_become_exercises_and_other_rows_stay():
    (one,) = continued([{"text": TALE, "book": "x"}])
    assert one["input"] == "There was once a king in the east. He had a golden ball there."
    assert one["output"] == "One day the ball was lost in a well."
    rows = [{"messages": []}]
    assert continued(rows) is rows


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_a_recipe(name):
    given = argparse.Namespace(model="minilm", rate="1e-3", batch=8, steps=30)
    made = loads(recipe(SETS[name], given), catalogue())
    assert made.tasks["write"].kind == "generation"
    assert str(made.stages[0].length) == "30 steps"


def test_rows_that_are_judged_are_not_trained_on(tmp_path):
    rows = [{"instruction": str(index), "output": "x"} for index in range(120)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    files(Set("a.jsonl"), tmp_path, tmp_path / "home")
    found = {
        split: (tmp_path / "home" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        for split in ("train", "dev", "test")
    }
    assert [len(lines) for lines in found.values()] == [20, 50, 50]
    assert len({one for lines in found.values() for one in lines}) == 120


def test_a_line_shows_both_ends_of_the_loss():
    score = SimpleNamespace(metric="rougeL", value=0.5, low=0.4, high=0.6, n=7)
    task = SimpleNamespace(loss=1.5, scores=[score])
    evaluation = SimpleNamespace(tasks=[task])
    report = SimpleNamespace(stages=[SimpleNamespace(evaluations=[evaluation])], final=[evaluation])
    losses = [4.0, 2.0, *[1.0] * 16, 0.5, 0.3]
    assert line("a", losses, report) == "| a | 3.00 → 0.40 | 1.50 | rougeL 0.500 [0.400, 0.600] (7) |"
    assert loss_of({"event": "step", "losses": {"write": 2}}) == 2.0
    assert loss_of({"event": "saved"}) is None


def test_samples_stand_beside_what_was_to_be_said(tmp_path):
    path = tmp_path / "run" / "predictions" / "test" / "write.jsonl"
    path.parent.mkdir(parents=True)
    rows = [{"format": 1}, {"where": "a:1", "gold": "yes\nno", "answer": {"text": "yes"}}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert samples(tmp_path, 3) == ["  - right: yes no\n    said:  yes"]
    assert len(short("x" * 500)) == 160


def test_a_model_from_scratch_is_a_config_and_a_tokenizer(tmp_path):
    texts = ["A man sleeps in a green room.", "Ein Mann schläft in einem grünen Raum."]
    write_model(texts, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    config, tokenizer = AutoConfig.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert config.is_encoder_decoder
    assert len(tokenizer) <= config.vocab_size
    (row,) = encoded(tokenizer, [{"source": texts[0], "target": texts[1]}])
    assert row["input_ids"][-1] == row["labels"][-1] == config.eos_token_id
    assert tokenizer.decode(row["labels"], skip_special_tokens=True) == texts[1]


def test_the_recipe_of_a_translation_decodes():
    text = RECIPE.format(seed=0, max_tokens=64, new_tokens=60, rate=5e-4, batch=64, dropout=0.1, minutes=30)
    stage = loads(text, catalogue()).stages[0]
    assert (str(stage.length), stage.batch, stage.reuse) == ("30 minutes", 64, False)


def test_bleu_is_the_whole_corpus_and_shown_with_its_pace():
    found = bleu("t", ["the red house is big", "a dog"], ["the red house is big", "a dog"])
    assert found.value == pytest.approx(100.0)
    figures = Figures(
        (Lap("training", 2.0, 640),), (Score("t", "bleu", 30.04, 28.0, 32.0, 9),), 7.0, facts={"steps": 10}
    )
    assert translation_line("weft", figures) == "| weft | 30.0 [28.0, 32.0] (9) | 10 | 320 | 7 |"
