"""The shared fixtures are what they say: other tests build on them."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer


def test_nothing_reaches_the_hub():
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        assert os.environ[name] == "1"


def test_tiny_bert_is_small_and_initialised_like_a_bert(tiny_bert: Path):
    model = AutoModel.from_pretrained(tiny_bert)
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 32, 4)
    weight = model.embeddings.word_embeddings.weight
    assert weight[0].abs().sum() == 0  # [PAD]
    assert 0.015 < weight[1:].std().item() < 0.025


def test_tiny_bert_tokenizer_splits_words_and_chinese(tiny_bert: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    assert tokenizer.tokenize("The cats like 电影 !") == [
        "the",
        "cat",
        "##s",
        "l",
        "##i",
        "##k",
        "##e",
        "电",
        "影",
        "!",
    ]
    encoded = tokenizer("good film", "bad book")
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == [
        "[CLS]", "good", "film", "[SEP]", "bad", "book", "[SEP]",
    ]  # fmt: skip
    assert encoded["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
    assert tokenizer.pad_token_id == 0
    assert tokenizer.is_fast


def test_stories260k_tells_a_story(stories260k: Path):
    model = AutoModelForCausalLM.from_pretrained(stories260k, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(stories260k)
    prompt = tokenizer("Once upon a time", return_tensors="pt")
    with torch.no_grad():
        story = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(story[0], skip_special_tokens=True).startswith("Once upon a time, there was")
    assert sum(p.numel() for p in model.parameters()) == 260_032
